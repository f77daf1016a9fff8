"""A client that leaves cancels the generation at once, in every phase."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable

import pytest

from loadtests.fake_backend import BackendThread
from tests.contract.conftest import RunningGateway, StartGateway, chats

WaitUntil = Callable[[Callable[[], bool]], None]


def leave(gateway: RunningGateway, body: dict[str, object], *, after: bytes | None, once: Callable[[], bool]) -> None:
    """Send a request, read up to `after` (or nothing), wait for `once`, and close the connection."""
    data = json.dumps({"messages": [{"role": "user", "content": "hi"}], "model": "auto", **body}).encode()
    head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % len(data)
    with socket.create_connection(("127.0.0.1", int(gateway.origin.rpartition(":")[2])), timeout=10) as client:
        client.sendall(head + data)
        received = b""
        while after is not None and after not in received:
            received += client.recv(65536)
        while not once():
            time.sleep(0.005)


@pytest.mark.parametrize(
    ("model", "stream", "after"),
    [
        ("fault-hang", False, None),
        ("fault-hang", True, None),
        ("fake-delay-30", False, None),
        ("fake-tokens-400-gap-0.1", True, b'"content":"'),
    ],
)
def test_upstream_call_is_cancelled_when_the_client_leaves(
    start_gateway: StartGateway,
    student: BackendThread,
    teacher: BackendThread,
    wait_until: WaitUntil,
    model: str,
    stream: bool,
    after: bytes | None,
) -> None:
    gateway = start_gateway(student_model=model)
    leave(gateway, {"stream": stream}, after=after, once=lambda: student.state.in_flight == 1)
    wait_until(lambda: student.state.aborted == 1)
    assert student.state.in_flight == 0
    wait_until(lambda: [record.outcome for record in gateway.records()] == ["client_disconnected"])
    assert chats(teacher) == 0
    wait_until(lambda: gateway.metric("router_inflight_requests") == 0)


def test_nothing_is_called_when_the_client_leaves_within_its_body(
    gateway: RunningGateway, student: BackendThread, wait_until: WaitUntil
) -> None:
    with socket.create_connection(("127.0.0.1", int(gateway.origin.rpartition(":")[2])), timeout=10) as client:
        client.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 500\r\n\r\n{")
        wait_until(lambda: gateway.metric("router_inflight_requests") == 1)
    wait_until(lambda: [record.outcome for record in gateway.records()] == ["client_disconnected"])
    assert chats(student) == 0
