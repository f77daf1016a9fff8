"""Raw bytes for a gateway, and what came back."""

from __future__ import annotations

import re
import socket
from typing import Any, NamedTuple

import msgspec

from tests.contract.conftest import RunningGateway

MESSAGES = [{"role": "user", "content": "hello"}]
BODY = msgspec.json.encode({"model": "student", "messages": MESSAGES})
CHAT = b"POST /v1/chat/completions HTTP/1.1\r\n"
END = b"GET /healthz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"
"""Sent behind what must leave the connection usable: its answer is the last one."""


class Response(NamedTuple):
    """One answer, cut out of what a connection said."""

    status: int
    head: bytes
    body: bytes

    def json(self) -> Any:
        return msgspec.json.decode(self.body)


def chunked(body: bytes = BODY, *, size: bytes | None = None, end: bytes = b"0\r\n\r\n") -> bytes:
    """A body in one chunk."""
    return (b"%x" % len(body) if size is None else size) + b"\r\n" + body + b"\r\n" + end


def connect(gateway: RunningGateway, *, timeout_s: float = 20) -> socket.socket:
    return socket.create_connection(("127.0.0.1", int(gateway.origin.rpartition(":")[2])), timeout=timeout_s)


def said(gateway: RunningGateway, *parts: bytes) -> list[Response]:
    """Send this over one connection and read until the gateway closes it. Raises: TimeoutError: it never did."""
    with connect(gateway) as client:
        for part in parts:
            try:
                client.sendall(part)
            except (BrokenPipeError, ConnectionResetError):
                break  # it has been refused and closed already
        return responses(everything(client))


def everything_said(gateway: RunningGateway, sent: bytes) -> bytes:
    """What comes back up to the end of the connection, which the request asks for."""
    with connect(gateway) as client:
        client.sendall(sent)
        return everything(client)


def everything(client: socket.socket) -> bytes:
    data = b""
    try:
        while more := client.recv(65536):
            data += more
    except ConnectionResetError:
        pass  # closed with bytes of ours unread
    return data


def responses(data: bytes) -> list[Response]:
    """Raises: AssertionError: something else than whole responses with a length."""
    found = []
    while data:
        head, separator, rest = data.partition(b"\r\n\r\n")
        status = re.match(rb"HTTP/1\.1 (\d{3}) ", head)
        assert separator and status, f"no response: {data[:200]!r}"
        length = re.search(rb"\r\ncontent-length: (\d+)", head)
        size = int(length[1]) if length else 0
        assert len(rest) >= size, "a response was cut off"
        found.append(Response(int(status[1]), head, rest[:size]))
        data = rest[size:]
    return found
