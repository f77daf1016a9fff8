"""No byte that somebody sends begins a header of ours: neither towards the client nor towards a backend."""

from __future__ import annotations

import json

import pytest

from loadtests.fake_backend import BackendThread
from router.config import ConfigError
from tests.contract.conftest import RunningGateway, StartGateway
from tests.contract.test_odd_input import answering
from tests.security.attacks import CHAT, MESSAGES, everything_said, responses, said

BREAK = "a\r\nx-evil: 1\r\n\r\nHTTP/1.1 200 OK\r\nx-evil: 1\r\n\r\n"
PLAIN = {"model": "auto", "messages": MESSAGES}


def post(body: object, path: str = "/v1/chat/completions") -> bytes:
    data = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {len(data)}\r\n\r\n"
    return head.encode() + data


@pytest.mark.parametrize(
    "body",
    [
        {**PLAIN, "model": BREAK},
        {**PLAIN, "router": {"route": BREAK}},
        {**PLAIN, "router": {"session": BREAK, "explain": True}},
        {**PLAIN, "router": {"tags": {BREAK: BREAK}, "explain": True}},
        {**PLAIN, "router": {"retrieved_chunks": [{"id": BREAK, "text": BREAK, "score": 0.1}], "explain": True}},
        {**PLAIN, "router": {BREAK: 1}},
        {**PLAIN, "reasoning_effort": BREAK, "router": {"explain": True}},
        {**PLAIN, "user": BREAK, "metadata": {BREAK: BREAK}, "store": False},
        {**PLAIN, BREAK: BREAK},
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_line_breaks_in_a_body_stay_in_bodies(
    target: RunningGateway, student: BackendThread, teacher: BackendThread, body: dict[str, object], stream: bool
) -> None:
    answer = everything_said(target, post({**body, "stream": stream}))
    assert b"x-evil" not in answer.partition(b"\r\n\r\n")[0].lower()
    for backend in (student, teacher):
        for received in backend.state.received:
            assert not any(name.lower().startswith(b"x-evil") for name, _ in received.headers)


@pytest.mark.parametrize(
    "header",
    [
        b"x-router-session: a\rx-evil: 1",
        b"x-router-session: a\nx-evil: 1",
        b"traceparent: 00\nx-evil: 1",
        b"x-request-id: \x00",
    ],
)
def test_broken_header_of_a_client_reaches_nobody(target: RunningGateway, header: bytes) -> None:
    answers = said(target, CHAT + b"host: x\r\n" + header + b"\r\ncontent-length: 0\r\n\r\n")
    assert [answer.status for answer in answers] == [400]


def test_only_named_headers_of_a_client_reach_a_backend(target: RunningGateway, student: BackendThread) -> None:
    sent = {
        "authorization": "Bearer planted", "x-api-key": "planted", "api-key": "planted", "cookie": "planted",
        "x-forwarded-for": "planted", "x-router-session": "planted", "x-anything": "planted", "te": "trailers",
        "openai-organization": "planted", "proxy-authorization": "planted", "traceparent": "00-0af-b7a-01",
    }  # fmt: skip
    assert target.post({**PLAIN, "model": "student"}, headers=sent).status_code == 200
    received = {name.lower() for name, _ in student.state.received[-1].headers}
    assert received == {
        b"host", b"content-type", b"accept-encoding", b"content-length", b"traceparent"
    }  # fmt: skip


ANSWER = b'{"choices":[{"message":{"content":"x"},"finish_reason":"stop"}]}'


@pytest.mark.parametrize(
    "header",
    [
        b"x-request-id: a\r x-evil: 1", b"x-request-id: a\rx-evil: 1", b"x-request-id: a\nx-evil: 1", b"x-request-id: a\x00b",
        b"x-request-id: a\r\n x-evil: 1", b"content-type: a\nx-evil: 1", b"retry-after: 1\nx-evil: 1",
        b"openai-x\rx-evil: 1", b"x-ratelimit-a b: 1", b"x-request-id: " + b"a" * 70_000,
    ],
)  # fmt: skip
@pytest.mark.parametrize("status", [b"200 OK", b"422 No"])
def test_broken_header_of_a_backend_reaches_no_client(
    start_gateway: StartGateway, header: bytes, status: bytes
) -> None:
    head = b"HTTP/1.1 %b\r\n%b\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
    with answering(head % (status, header, len(ANSWER)) + ANSWER) as url:
        gateway = start_gateway(student_url=url, teacher_url=url)
        answer = everything_said(gateway, post(PLAIN))
        assert b"x-evil" not in answer.partition(b"\r\n\r\n")[0].lower().replace(b"a x-evil", b"")
        assert len(responses(answer)) == 1


@pytest.mark.parametrize(
    "name", ["set-cookie", "x-router-route", "access-control-allow-origin", "server", "location", "link"]
)
def test_only_named_headers_of_a_backend_reach_a_client(start_gateway: StartGateway, name: str) -> None:
    head = b"HTTP/1.1 200 OK\r\n%b: planted\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
    with answering(head % (name.encode(), len(ANSWER)) + ANSWER) as url:
        answer = start_gateway(student_url=url).post(PLAIN)
    assert answer.status_code == 200
    assert "planted" not in str(answer.headers)


def test_model_name_with_a_line_break_is_refused_in_the_configuration(start_gateway: StartGateway) -> None:
    with pytest.raises(ConfigError, match="printable"):
        start_gateway(rest='[aliases]\n"a\\r\\nx-evil: 1" = "auto"')
