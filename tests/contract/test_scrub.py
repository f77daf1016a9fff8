"""What a gateway that scrubs leaves on the disk: of requests in every form, of answers, drafts and judgements."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from policies.record import DecisionRecord, FeedbackRecord
from policies.traffic.reader import read
from router.config import ConfigError
from router.config_file import parse
from router.scrub.opening import open_engine
from tests.contract.conftest import RunningGateway, StartGateway

SCRUB = """
[log.scrub]
enabled = ["email", "card", "api_key"]
timeout_s = 5.0
[log.scrub.patterns]
staff = '\\bE[0-9]{6}\\b'
"""
ADDRESS, CARD, STAFF = "ann@example.org", "4111 1111 1111 1111", "E123456"
PERSONAL = (b"ann@example", b"ann\\\\u0040", b"4111", b"E123456")


def bytes_of(gateway: RunningGateway) -> bytes:
    return b"".join(path.read_bytes() for path in sorted(Path(gateway.config.log.dir).glob("*.seg")))


def body(content: str, **more: Any) -> dict[str, Any]:
    return {"model": "auto", "messages": [{"role": "user", "content": content}], **more}


@pytest.mark.parametrize("large", [False, True], ids=["small", "large"])
@pytest.mark.parametrize("stream", [False, True], ids=["plain", "stream"])
def test_no_personal_data_reaches_the_disk(start_gateway: StartGateway, stream: bool, large: bool) -> None:
    gateway = start_gateway(rest=SCRUB)
    text = f"[[fake-echo]] I am {ADDRESS}, card {CARD}, {STAFF}." + " more" * 3_000 * large
    given = {"tags": {"who": ADDRESS}, "session": ADDRESS, "retrieved_chunks": [{"text": text, "id": ADDRESS}]}
    response = gateway.post(body(text, stream=stream, router=given, user=ADDRESS))
    assert response.status_code == 200
    assert ADDRESS in response.text.replace("\\u0040", "@") or stream  # the client gets the answer as it is
    assert not any(mark in bytes_of(gateway) for mark in PERSONAL)
    [record] = gateway.records()
    sent = json.loads(record.request or "")
    assert sent["user"] == sent["router"]["tags"]["who"] == "[EMAIL_1]"
    assert sent["messages"][0]["content"].startswith("[[fake-echo]] I am [EMAIL_1], card [CARD_1], [STAFF_1].")
    assert record.features is not None
    assert "[EMAIL_1]" in record.features.last_user_turn
    assert record.tags == {"who": "[EMAIL_1]"}
    assert record.session is None
    assert gateway.metric('router_scrubbed_total{kind="card"}') > 0


def test_escaped_request_stays_json_and_every_other_byte(start_gateway: StartGateway) -> None:
    gateway = start_gateway(rest=SCRUB)
    raw = b'{"model":"auto", "temperature": 0.50,"messages":[{"role":"user","content":"caf\\u00e9 ann\\u0040example.org"}]}'
    assert gateway.post(raw).status_code == 200
    [record] = gateway.records()
    assert (
        record.request
        == '{"model":"auto", "temperature": 0.50,"messages":[{"role":"user","content":"café [EMAIL_1]"}]}'
    )


def test_judgement_is_scrubbed(start_gateway: StartGateway) -> None:
    gateway = start_gateway(rest=SCRUB)
    identity = gateway.post(body("hi")).headers["x-router-decision-id"]
    judgement = {"decision_id": identity, "label": STAFF, "correction": f"Write to {ADDRESS}."}
    assert httpx.post(f"{gateway.origin}/v1/feedback", json=judgement, timeout=20).status_code == 200
    _, kept = read(Path(gateway.config.log.dir))
    assert isinstance(kept, FeedbackRecord)
    assert (kept.label, kept.correction) == ("[STAFF_1]", "Write to [EMAIL_1].")


def test_request_that_holds_nothing_is_logged_as_it_came(start_gateway: StartGateway) -> None:
    gateway = start_gateway(rest=SCRUB)
    raw = json.dumps(body("nothing of anybody")).encode()
    gateway.post(raw)
    [record] = gateway.records()
    assert isinstance(record, DecisionRecord)
    assert record.request == raw.decode()


@pytest.mark.parametrize(
    ("lines", "key"),
    [
        ('enabled = ["mail"]', "log.scrub.enabled"),
        ('enabled = ["email"]\ntimeout_s = 0.05', "log.scrub.timeout_s"),
        ("patterns = { email = 'x' }", "log.scrub.patterns.email"),
        ("patterns = { mine = 'a+' }", "log.scrub: patterns.mine"),
        ("patterns = { mine = '(' }", "log.scrub: patterns.mine"),
        ('engine = "presidio"', "locum[scrub]"),
    ],
)
def test_wrong_configuration_is_refused_by_its_key(lines: str, key: str) -> None:
    text = f'[student]\nbase_url = "http://127.0.0.1:1/v1"\n[teacher]\nbase_url = "http://127.0.0.1:2/v1"\nmodel = "t"\n[log.scrub]\n{lines}\n'
    with pytest.raises(ConfigError) as refused:
        open_engine(parse(text).log.scrub)
    assert key in str(refused.value)
