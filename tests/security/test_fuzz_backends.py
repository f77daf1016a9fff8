"""Whatever comes from backends: an answer in the dialect's form, never our own 500, never a hang."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.contract.windows import window
from tests.security.fuzzing import (
    JSON,
    STREAMING,
    VALID,
    Backend,
    Target,
    check_error,
    fuzz,
    places,
    put,
    running,
)

pytestmark = pytest.mark.timeout(900)


@pytest.fixture(scope="module")
def between_odd_backends(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    with Backend() as backend:
        gateway = running(
            backend.url, backend.url, tmp_path_factory.mktemp("traffic"), rest=window(tokens=3, time_s=0.2)
        )
        gateway.start()
        yield Target(gateway, backend)
        gateway.stop()


FRAGMENTS = [
    b'data: {"id":"c","choices":[{"index":0,"delta":{"content":"a"},"finish_reason":null}]}', b"data: [DONE]",
    b'data: {"id":"c","choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}', b"data: {", b"data:", b": comment", b"event: x",
    b'data: {"choices":[],"usage":{"prompt_tokens":1,"completion_tokens":2}}', b'data: {"choices":[{"index":1,"delta":null}]}',
    b'data: {"error":{"message":"x"}}', b'data: {"error":"x"}', b'data: {"error":5}', b"data: []", b'data: "x"', b"data: 5",
    b'data: {"choices":[{"delta":{"content":[1]}}]}', b'data: {"choices":"x"}', b'data: {"choices":[5]}', b"\xff\xfe", b"retry: 5",
    b'data: {"choices":[{"index":"x","delta":{"tool_calls":[{"index":9,"function":{"arguments":"{"}}]},"finish_reason":"tool_calls"}]}',
    b'data: {"choices":[{"index":0,"delta":{"role":"assistant"}}]}', b'data: {"choices":[{"index":-1,"finish_reason":"x"}]}',
    b'data: {"choices":[{"delta":{"tool_calls":5}}]}', b'data: {"choices":[{"delta":{"tool_calls":[{"id":5,"function":7}]}}]}',
    b'data: {"choices":[{"index":0,"delta":{"content":"b"},"logprobs":{"content":[{"token":"b","logprob":-2.5,"bytes":[98]}]}}]}',
    b'data: {"choices":[{"index":0,"delta":{},"logprobs":{"content":[{"token":"b","logprob":-2.5}]},"finish_reason":null}]}',
    b'data: {"choices":[{"delta":{"content":"\\ud800"},"logprobs":{"content":[{"token":"\\ud800","logprob":-1,"bytes":[300]}]}}]}',
    b'data: {"choices":[{"delta":{"content":"b"},"logprobs":{"content":[{"logprob":NaN},{"logprob":-1e308}]}}]}',
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
