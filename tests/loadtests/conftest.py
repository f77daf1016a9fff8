"""A fake backend on its own thread, and a raw HTTP client that sees every byte."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from loadtests.fake_backend import BackendThread

Wait = Callable[[Callable[[], bool]], None]


class RawConnection:
    """A socket that speaks whatever it is given; reads until a marker, the end, or a reset."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=10)
        self.received = b""

    def send(self, data: bytes) -> None:
        self._socket.sendall(data)

    def read_until(self, marker: bytes) -> bytes:
        """Everything up to and including the marker; what follows stays for the next call."""
        while marker not in self.received:
            data = self._socket.recv(65536)
            if not data:
                raise EOFError(f"closed before {marker!r}; got {self.received!r}")
            self.received += data
        head, _, self.received = self.received.partition(marker)
        return head + marker

    def read_response(self) -> tuple[bytes, bytes]:
        """Head and body of one answer with a Content-Length."""
        head = self.read_until(b"\r\n\r\n")
        length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
        while len(self.received) < length:
            self.received += self._socket.recv(65536)
        body, self.received = self.received[:length], self.received[length:]
        return head, body

    def read_to_end(self) -> bytes:
        """Everything until the peer closes. Raises: ConnectionResetError."""
        while data := self._socket.recv(65536):
            self.received += data
        return self.received

    def close(self) -> None:
        self._socket.close()


def chat_request(model: str = "student", *, content: str = "hi", **members: Any) -> bytes:
    """A chat request on the wire."""
    body = json.dumps({"model": model, "messages": [{"role": "user", "content": content}], **members}).encode()
    return b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)


@pytest.fixture
def backend() -> Iterator[BackendThread]:
    with BackendThread() as running:
        yield running


@pytest.fixture
def connect(backend: BackendThread) -> Iterator[Callable[[], RawConnection]]:
    opened: list[RawConnection] = []

    def open_one() -> RawConnection:
        opened.append(RawConnection(int(backend.origin.rpartition(":")[2])))
        return opened[-1]

    yield open_one
    for connection in opened:
        connection.close()


@pytest.fixture
def wait_for() -> Wait:
    """Waits for something that happens on another thread; fails after a generous time."""

    def wait(condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 60
        while not condition():
            assert time.monotonic() < deadline, "the condition never became true"
            time.sleep(0.005)

    return wait
