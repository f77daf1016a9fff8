"""Whatever comes, from clients or from backends: an answer in the dialect's form, never our own 500, never a hang.

`LOCUM_FUZZ_EXAMPLES=2000` searches longer; `make fuzz` lets schemathesis do it from docs/openapi.json.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from loadtests.fake_backend import BackendThread
from router.config_file import parse
from tests.contract.conftest import CONFIG, RunningGateway
from tests.security.attacks import BODY, CHAT, connect, everything

pytestmark = pytest.mark.timeout(900)
EXAMPLES = int(os.environ.get("LOCUM_FUZZ_EXAMPLES", "60"))
fuzz = settings(
    max_examples=EXAMPLES, deadline=None, database=None, derandomize="LOCUM_FUZZ_EXAMPLES" not in os.environ,
    suppress_health_check=list(HealthCheck),
)  # fmt: skip


class Backend:
    """Answers every request with the bytes of the moment, and closes."""

    def __init__(self) -> None:
        self.answer = b""
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    def __enter__(self) -> Backend:
        self._thread.start()
        starting = asyncio.start_server(self._handle, "127.0.0.1", 0, limit=2**22)
        self._server = asyncio.run_coroutine_threadsafe(starting, self._loop).result()
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}/v1"
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._server.close)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    async def _handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            if head.startswith(b"POST"):
                await reader.readexactly(int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0]))
            writer.write(self.answer)
            await writer.drain()
            writer.close()
        except (ConnectionError, asyncio.IncompleteReadError):
            return


class Target:
    """A gateway between two such backends, with one client for all examples."""

    def __init__(self, gateway: RunningGateway, backend: Backend | None) -> None:
        self.gateway = gateway
        self.backend = backend
        self.http = httpx.Client(base_url=gateway.origin, timeout=20, verify=False)  # noqa: S501 - plain HTTP


def running(student_url: str, teacher_url: str, folder: Path) -> RunningGateway:
    values = {
        "server": "body_timeout_s = 1.0\nrequest_timeout_s = 10.0", "student": "", "teacher": "",
        "rest": "[resilience.breaker]\nconsecutive_failures = 1000000\nmin_requests = 1000000\n[resilience.retries]\nmax_per_request = 0\n"
        f'[embeddings]\nbase_url = "{student_url}"\nmodel = "student"',
        "student_url": student_url, "teacher_url": teacher_url, "student_model": "student", "teacher_model": "teacher",
        "log_dir": str(folder),
    }  # fmt: skip
    return RunningGateway(parse(CONFIG.format(**values)), {})


@pytest.fixture(scope="module")
def between_odd_backends(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    with Backend() as backend:
        gateway = running(backend.url, backend.url, tmp_path_factory.mktemp("traffic"))
        gateway.start()
        yield Target(gateway, backend)
        gateway.stop()


@pytest.fixture(scope="module")
def between_good_backends(
    student: BackendThread, teacher: BackendThread, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Target]:
    gateway = running(student.base_url, teacher.base_url, tmp_path_factory.mktemp("traffic"))
    gateway.start()
    yield Target(gateway, None)
    gateway.stop()


class Complaints(logging.Handler):
    """What the gateway, on its own thread, logs as an error: nobody may cause one by what they send."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.found: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.found.append(f"{record.name}: {record.getMessage()} {record.exc_info or ''}")


@pytest.fixture
def complaints() -> Iterator[list[str]]:
    handler = Complaints()
    logging.getLogger().addHandler(handler)
    yield handler.found
    logging.getLogger().removeHandler(handler)
    assert handler.found == []


SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False), st.text(max_size=12),
    st.sampled_from(["auto", "user", "text", "\ud800", "", "0", "stop", "tool", "none", 10**400, -1, 2**63, 1e308]),
)  # fmt: skip
KEYS = st.one_of(
    st.sampled_from(
        [
            "model",
            "messages",
            "role",
            "content",
            "type",
            "text",
            "router",
            "stream",
            "n",
            "max_tokens",
            "tools",
            "function",
            "name",
            "arguments",
            "documents",
            "score",
            "input",
            "prompt",
            "system",
            "stop",
            "logprobs",
            "metadata",
            "store",
            "retrieved_chunks",
            "tags",
            "session",
            "explain",
            "output",
            "id",
            "usage",
        ]
    ),
    st.text(max_size=6),
)
JSON = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=4), max_leaves=12
)
STREAMING = ("/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages")
VALID: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {
        "model": "auto",
        "messages": [
            {"role": "system", "content": "short"},
            {"role": "user", "content": [{"type": "text", "text": "hi"}, {"type": "image_url", "image_url": {"url": "data:x"}}]},
            {"role": "assistant", "content": None, "tool_calls": [{"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}]},
            {"role": "tool", "tool_call_id": "1", "content": '{"results":[{"text":"x","score":0.4}]}'},
        ],
        "stream_options": {"include_usage": True}, "tools": [], "response_format": {"type": "text"}, "max_tokens": 5,
        "documents": [{"text": "x", "score": 0.5}], "router": {"tags": {"a": "b"}, "retrieved_chunks": [{"text": "x", "score": 0.5}]},
    },
    "/v1/completions": {"model": "auto", "prompt": ["a", "b"], "max_tokens": 5, "echo": False, "suffix": "x", "logprobs": 1},
    "/v1/responses": {
        "model": "auto", "instructions": "x", "text": {"format": {"type": "text"}}, "reasoning": {"effort": "low"}, "store": False,
        "input": [
            {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "hi"}]},
            {"type": "function_call", "call_id": "1", "name": "f", "arguments": "{}"},
            {"type": "function_call_output", "call_id": "1", "output": "x"},
        ],
        "tools": [{"type": "function", "name": "f", "parameters": {}}], "max_output_tokens": 20, "metadata": {"a": "b"},
    },
    "/v1/messages": {
        "model": "auto", "max_tokens": 5, "system": [{"type": "text", "text": "x"}], "stop_sequences": ["x"],
        "messages": [
            {"role": "user", "content": [{"type": "text", "text": "hi"}]},
            {"role": "assistant", "content": [{"type": "tool_use", "id": "1", "name": "f", "input": {}}]},
            {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "1", "content": [{"type": "text", "text": "x"}]}]},
        ],
        "tools": [{"name": "f", "input_schema": {"type": "object"}}], "tool_choice": {"type": "auto"}, "metadata": {"user_id": "u"},
    },
    "/v1/embeddings": {"model": "student", "input": ["a", "b"], "encoding_format": "float", "dimensions": 8, "user": "u"},
    "/v1/feedback": {"decision_id": "0" * 32, "score": 0.5, "label": "x", "correction": "y", "source": "app"},
}  # fmt: skip


def places(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every place in a JSON value."""
    yield at
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in inner:
        yield from places(part, (*at, key))


def put(value: Any, at: tuple[Any, ...], new: Any) -> Any:
    if not at:
        return new
    copy = dict(value) if isinstance(value, dict) else list(value)
    copy[at[0]] = put(value[at[0]], at[1:], new)
    return copy


@st.composite
def requests(draw: st.DrawFn) -> tuple[str, bytes]:
    """A valid request with one to three of its parts replaced, for some endpoint."""
    path = draw(st.sampled_from(sorted(VALID)))
    body: Any = VALID[path] if path not in STREAMING else {**VALID[path], "stream": draw(st.booleans())}
    for _ in range(draw(st.integers(1, 3))):
        if not isinstance(body, dict | list):
            break
        body = put(body, draw(st.sampled_from(list(places(body)))), draw(JSON))
    data = json.dumps(body).encode()
    if draw(st.integers(0, 9)) == 0:  # and now and then broken as a text
        at = draw(st.integers(0, len(data)))
        data = data[:at] + draw(st.binary(max_size=3)) + data[at + draw(st.integers(0, 2)) :]
    return path, data


def check_error(path: str, answer: httpx.Response) -> None:
    """Ends with an assertion unless an error has the form that the endpoint's clients know."""
    assert answer.headers["content-type"].startswith("application/json"), answer.text[:200]
    body = answer.json()
    if path == "/v1/messages" and "x-router-reason" in answer.headers:
        assert body["type"] == "error"
        assert {"type", "message"} <= body["error"].keys()
    else:
        assert {"message", "type", "param", "code"} <= body["error"].keys() or answer.headers.get("x-router-route") in (
            "student", "teacher",
        )  # fmt: skip
        assert body["error"].get("code") != "internal_error"


@fuzz
@given(request=requests())
def test_no_request_causes_an_error_of_ours(
    between_good_backends: Target, complaints: list[str], request: tuple[str, bytes]
) -> None:
    path, data = request
    answer = between_good_backends.http.post(path, content=data)
    assert answer.status_code < 500 or answer.status_code == 503, answer.text
    assert "internal_error" not in answer.text
    if answer.status_code >= 400:
        check_error(path, answer)


FRAGMENTS = [
    b'data: {"id":"c","choices":[{"index":0,"delta":{"content":"a"},"finish_reason":null}]}', b"data: [DONE]",
    b'data: {"id":"c","choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}', b"data: {", b"data:", b": comment", b"event: x",
    b'data: {"choices":[],"usage":{"prompt_tokens":1,"completion_tokens":2}}', b'data: {"choices":[{"index":1,"delta":null}]}',
    b'data: {"error":{"message":"x"}}', b'data: {"error":"x"}', b'data: {"error":5}', b"data: []", b'data: "x"', b"data: 5",
    b'data: {"choices":[{"delta":{"content":[1]}}]}', b'data: {"choices":"x"}', b'data: {"choices":[5]}', b"\xff\xfe", b"retry: 5",
    b'data: {"choices":[{"index":"x","delta":{"tool_calls":[{"index":9,"function":{"arguments":"{"}}]},"finish_reason":"tool_calls"}]}',
    b'data: {"choices":[{"index":0,"delta":{"role":"assistant"}}]}', b'data: {"choices":[{"index":-1,"finish_reason":"x"}]}',
    b'data: {"choices":[{"delta":{"tool_calls":5}}]}', b'data: {"choices":[{"delta":{"tool_calls":[{"id":5,"function":7}]}}]}',
    b'data: {"usage":{"prompt_tokens":"x"}}', b'data: {"usage":5,"choices":null}', b"data: " + b"[" * 3000, b"id: 5", b"",
]  # fmt: skip
EVENTS = st.lists(
    st.tuples(
        st.sampled_from(FRAGMENTS) | st.binary(max_size=20),
        st.sampled_from([b"\n\n", b"\r\n\r\n", b"\r\r", b"\n", b""]),
    ),
    max_size=8,
).map(lambda parts: b"".join(part for pair in parts for part in pair))
END_OF = {
    "/v1/chat/completions": b"data: [DONE]", "/v1/completions": b"data: [DONE]", "/v1/responses": b"response.completed",
    "/v1/messages": b"message_stop",
}  # fmt: skip
ERROR_IN = {
    "/v1/chat/completions": b'"error"',
    "/v1/completions": b'"error"',
    "/v1/responses": b"response.failed",
    "/v1/messages": b"event: error",
}


@fuzz
@given(path=st.sampled_from(STREAMING), events=EVENTS)
def test_no_stream_of_a_backend_causes_an_error_of_ours(
    between_odd_backends: Target, complaints: list[str], path: str, events: bytes
) -> None:
    target = between_odd_backends
    assert target.backend is not None
    target.backend.answer = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n" + events
    answer = target.http.post(path, json={**VALID[path], "stream": True})
    assert "internal_error" not in answer.text
    if answer.status_code != 200:
        assert answer.status_code == 503
        check_error(path, answer)
        return
    ended, failed = END_OF[path] in answer.content, ERROR_IN[path] in answer.content
    if path in ("/v1/responses", "/v1/messages"):
        ended = ended or b"response.incomplete" in answer.content
    assert ended or failed, answer.content  # never just the end of the connection
    if path in ("/v1/responses", "/v1/messages"):
        assert ended != failed, answer.content


@st.composite
def answers(draw: st.DrawFn) -> bytes:
    """A plain answer with some of its parts replaced."""
    body: Any = draw(
        st.sampled_from([
            {"choices": [{"message": {"role": "assistant", "content": "x"}, "finish_reason": "stop"}]},
            {"choices": [{"message": {"content": None, "tool_calls": [{"id": "1", "function": {"name": "f", "arguments": "{"}}]}}]},
            {"choices": [{"text": "x", "finish_reason": "length"}], "usage": {"prompt_tokens": 1, "completion_tokens": 2}},
            {"error": {"message": "x", "code": 5}}, {"error": "x"},
        ])
    )  # fmt: skip
    for _ in range(draw(st.integers(0, 2))):
        if isinstance(body, dict | list):
            body = put(body, draw(st.sampled_from(list(places(body)))), draw(JSON))
    return json.dumps(body).encode() if draw(st.integers(0, 5)) else draw(st.binary(max_size=40))


@fuzz
@given(
    path=st.sampled_from(STREAMING),
    status=st.sampled_from([200, 200, 200, 204, 301, 400, 401, 418, 422, 429, 500, 599]),
    body=answers(),
)
def test_no_plain_answer_of_a_backend_causes_an_error_of_ours(
    between_odd_backends: Target, complaints: list[str], path: str, status: int, body: bytes
) -> None:
    target = between_odd_backends
    assert target.backend is not None
    head = b"HTTP/1.1 %d X\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % (status, len(body))
    target.backend.answer = head + body
    answer = target.http.post(path, json=VALID[path])
    assert answer.status_code < 500 or answer.status_code == 503, answer.text
    assert "internal_error" not in answer.text
    if answer.status_code >= 500:
        check_error(path, answer)


@st.composite
def broken_heads(draw: st.DrawFn) -> bytes:
    """A valid request as bytes, with some of its head replaced."""
    head = (
        CHAT
        + b"host: gateway\r\ncontent-type: application/json\r\nx-router-session: a\r\ncontent-length: %d\r\n\r\n"
        % len(BODY)
    )
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(head)))
        piece = draw(
            st.binary(max_size=3)
            | st.sampled_from(
                [
                    b"\r",
                    b"\n",
                    b"\r\n",
                    b"\x00",
                    b":",
                    b" ",
                    b"\t",
                    b"\r\n ",
                    b"\r\n\r\n",
                    b"content-length: 3\r\n",
                    b"\xff",
                ]
            )
        )
        head = head[:at] + piece + head[at + draw(st.integers(0, 3)) :]
    return head + BODY


@fuzz
@given(sent=broken_heads())
def test_no_bytes_on_a_connection_cause_an_error_of_ours(
    between_good_backends: Target, complaints: list[str], sent: bytes
) -> None:
    with connect(between_good_backends.gateway, timeout_s=15) as client:
        client.sendall(sent)
        client.shutdown(1)
        said = everything(client)  # ends: a connection that is left open would be a hang
    assert said == b"" or said.startswith(b"HTTP/1.1 "), said[:200]
    assert b"HTTP/1.1 5" not in said
