"""Two tenants with keys, and what they ask."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable
from typing import Any

import httpx

from tests.contract.conftest import RunningGateway

WaitUntil = Callable[[Callable[[], bool]], None]
AUTH = '[auth]\nkeys_env = "KEYS"\n'
KEYS = {"KEYS": "acme=key-of-acme,beta=key-of-beta"}
TO_TEACHER = {"retrieval_confidence": 0.1}
"""What the policy `retrieval_confidence` wants the teacher for."""
RETRIEVAL = '[[routing.policies]]\ntype = "long_context"\n[[routing.policies]]\ntype = "retrieval_confidence"\n'


def ask(gateway: RunningGateway, text: str = "hi", *, key: str = "key-of-acme", **fields: Any) -> httpx.Response:
    body = {"model": "auto", "max_tokens": 10, "messages": [{"role": "user", "content": text}], **fields}
    return gateway.post(body, headers={"authorization": f"Bearer {key}"})


def error_of(response: httpx.Response) -> dict[str, Any]:
    error: dict[str, Any] = response.json()["error"]
    return error


def remaining_tokens(gateway: RunningGateway) -> int:
    """Of acme, before the request that asks; the limit must be so low that nothing comes back in the meantime."""
    asking = ask(gateway, "[[fake-prompt-tokens-0-tokens-0]]", max_tokens=1)
    assert asking.status_code == 200
    return int(asking.headers["x-ratelimit-remaining-tokens"])


def leave_during(gateway: RunningGateway, text: str, *, after: bytes | None, once: Callable[[], bool]) -> None:
    """A streamed request of acme whose client reads up to `after`, waits for `once` and goes."""
    body = json.dumps(
        {"model": "auto", "stream": True, "max_tokens": 500, "messages": [{"role": "user", "content": text}]}
    ).encode()
    head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nx-api-key: key-of-acme\r\ncontent-length: %d\r\n\r\n"
    with socket.create_connection(("127.0.0.1", int(gateway.origin.rpartition(":")[2])), timeout=10) as client:
        client.sendall(head % len(body) + body)
        received = b""
        while after is not None and after not in received:
            received += client.recv(65536)
        while not once():
            time.sleep(0.005)
