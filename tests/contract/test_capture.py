"""Capture levels and consent: the strictest wish wins, and what was not agreed to reaches no disk."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.contract.conftest import RunningGateway, StartGateway

SECRET = "the-secret-of-the-client"
REQUEST: dict[str, Any] = {
    "model": "auto",
    "messages": [{"role": "user", "content": f"[[fake-echo]] {SECRET}"}],
}
CHUNKS = [{"text": f"{SECRET} chunk", "score": 0.9, "id": SECRET}]


def on_disk(gateway: RunningGateway) -> bytes:
    return b"".join(path.read_bytes() for path in Path(gateway.config.log.dir).rglob("*") if path.is_file())


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("configured", "body", "headers", "expected"),
    [
        ("full", {}, {}, "full"),
        ("full", {"store": True}, {}, "full"),
        ("full", {"store": False}, {}, "metadata"),
        ("full", {"store": False, "router": {"train": "full"}}, {}, "metadata"),
        ("full", {"router": {"train": "metadata"}}, {}, "metadata"),
        ("full", {}, {"x-router-train": "metadata"}, "metadata"),
        ("metadata", {"store": True, "router": {"train": "full"}}, {"x-router-train": "full"}, "metadata"),
        ("full", {"router": {"train": "none"}}, {}, "none"),
        ("full", {"store": False}, {"x-router-train": "none"}, "none"),
        ("none", {"router": {"train": "full"}}, {}, "none"),
    ],
)
def test_strictest_wish_decides_what_is_kept(
    start_gateway: StartGateway,
    configured: str,
    body: dict[str, Any],
    headers: dict[str, str],
    expected: str,
    stream: bool,
) -> None:
    gateway = start_gateway(rest=f'capture = "{configured}"')
    router = {**body.get("router", {}), "retrieved_chunks": CHUNKS}
    response = gateway.post({**REQUEST, **body, "router": router, "stream": stream}, headers=headers)
    assert response.status_code == 200
    assert stream or SECRET in response.text  # a stream cuts it into tokens
    records = gateway.records()
    assert [record.capture for record in records] == ([] if expected == "none" else [expected])
    assert (SECRET.encode() in on_disk(gateway)) == (expected == "full")
    if expected == "metadata":
        (record,) = records
        assert record.usage is not None  # what costs and quality are counted with stays
        assert record.features is not None
        assert record.features.chunks[0].score == 0.9


@pytest.mark.parametrize(
    "body", [b'{"model":"auto","messages":"' + SECRET.encode(), b'{"model":"%s"}' % SECRET.encode()]
)
def test_request_that_was_not_understood_leaves_none_of_its_text(gateway: RunningGateway, body: bytes) -> None:
    assert gateway.post(body).status_code == 400
    assert [record.capture for record in gateway.records()] == ["metadata"]
    assert SECRET.encode() not in on_disk(gateway)


def test_licence_denies_training_when_nobody_has_set_it(gateway: RunningGateway) -> None:
    assert gateway.post({**REQUEST, "model": "teacher"}).status_code == 200
    assert [record.distillation for record in gateway.records()] == ["denied"]


@pytest.mark.parametrize("flag", ["allowed", "conditional", "denied"])
def test_licence_at_the_time_of_the_request_is_in_the_record(start_gateway: StartGateway, flag: str) -> None:
    gateway = start_gateway(teacher=f'distillation = "{flag}"')
    gateway.post({**REQUEST, "model": "teacher"})
    assert [record.distillation for record in gateway.records()] == [flag]
