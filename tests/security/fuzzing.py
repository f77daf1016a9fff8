"""What the fuzz tests throw, and at whom.

`LOCUM_FUZZ_EXAMPLES=2000` searches longer; `make fuzz` lets schemathesis do it from docs/openapi.json.
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from router.config_file import parse
from tests.contract.conftest import CONFIG, RunningGateway
from tests.effort import examples

EXAMPLES = int(os.environ.get("LOCUM_FUZZ_EXAMPLES", examples(60)))
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


def running(student_url: str, teacher_url: str, folder: Path, *, rest: str = "") -> RunningGateway:
    values = {
        "server": "body_timeout_s = 1.0\nrequest_timeout_s = 10.0", "student": "", "teacher": "",
        "rest": "[resilience.breaker]\nconsecutive_failures = 1000000\nmin_requests = 1000000\n[resilience.retries]\nmax_per_request = 0\n"
        f'[embeddings]\nbase_url = "{student_url}"\nmodel = "student"\n{rest}',
        "student_url": student_url, "teacher_url": teacher_url, "student_model": "student", "teacher_model": "teacher",
        "log_dir": str(folder),
    }  # fmt: skip
    return RunningGateway(parse(CONFIG.format(**values)), {})


class Complaints(logging.Handler):
    """What the gateway, on its own thread, logs as an error: nobody may cause one by what they send."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.found: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.found.append(f"{record.name}: {record.getMessage()} {record.exc_info or ''}")


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
