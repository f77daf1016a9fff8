"""Whom a request is for: a keyed hash in the record, found again by `locum log forget`."""

from __future__ import annotations

import hashlib
import hmac
import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from router.log.erasure import Choice, forget
from tests.contract.conftest import RunningGateway, StartGateway

KEY = "a key that is only for tests"
PERSON = "person-4711@example.com"
CHAT: dict[str, Any] = {"model": "auto", "messages": [{"role": "user", "content": "Hi"}]}
HASH = hmac.digest(KEY.encode(), PERSON.encode(), "sha256").hex()[:32]


@pytest.fixture
def keyed(start_gateway: StartGateway, monkeypatch: pytest.MonkeyPatch) -> RunningGateway:
    monkeypatch.setenv("SUBJECT_KEY", KEY)
    return start_gateway({"SUBJECT_KEY": KEY}, rest='subject_key_env = "SUBJECT_KEY"\ncapture = "metadata"')


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/chat/completions", {**CHAT, "user": PERSON}),
        ("/chat/completions", {**CHAT, "user": "somebody else", "safety_identifier": PERSON}),
        ("/completions", {"model": "auto", "prompt": "Hi", "user": PERSON}),
        ("/responses", {"model": "auto", "input": "Hi", "safety_identifier": PERSON}),
        ("/messages", {**CHAT, "max_tokens": 9, "metadata": {"user_id": PERSON}}),
    ],
)
def test_every_dialect_names_its_person_as_a_keyed_hash(
    keyed: RunningGateway, path: str, body: dict[str, Any], stream: bool
) -> None:
    answer = httpx.post(f"{keyed.origin}/v1{path}", json={**body, "stream": stream}, timeout=20)
    assert answer.status_code == 200
    (record,) = keyed.records()
    assert record.subject == HASH
    disk = b"".join(path.read_bytes() for path in Path(keyed.config.log.dir).rglob("*") if path.is_file())
    assert PERSON.encode() not in disk


@pytest.mark.parametrize("user", [None, "", 7, {"id": 1}])
def test_request_that_names_nobody_has_no_subject(keyed: RunningGateway, user: Any) -> None:
    httpx.post(f"{keyed.origin}/v1/chat/completions", json={**CHAT, "user": user}, timeout=20)
    assert [record.subject for record in keyed.records()] == [None]


def test_without_a_key_the_hash_is_plain_and_the_record_is_erased_by_name(gateway: RunningGateway) -> None:
    for person in (PERSON, "bob"):
        gateway.post({**CHAT, "user": person})
    folder = Path(gateway.config.log.dir)
    first = gateway.records()[0]
    assert first.subject == hashlib.sha256(b"locum subject" + PERSON.encode()).hexdigest()[:32]
    assert json.loads(first.request or "")["user"] == PERSON
    done = forget(folder, Choice(subject=PERSON), progress=lambda message: None)
    assert (done.complete, done.removed) == (True, {"decisions": 1})
    assert [json.loads(record.request or "")["user"] for record in gateway.records()] == ["bob"]
    assert not any(PERSON.encode() in path.read_bytes() for path in folder.rglob("*") if path.is_file())
    gateway.post({**CHAT, "user": "bob"})
    assert len(gateway.records()) == 2
