"""`POST /v1/feedback`: judgements reach the log beside their records, and never more of them than was agreed to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import pytest

from policies.quality.judgements import judgements
from policies.record import FeedbackRecord
from policies.traffic.reader import read
from tests.contract.conftest import RunningGateway, StartGateway

PLAIN = {"model": "auto", "messages": [{"role": "user", "content": "hi"}]}
SOME_ID = "0123456789abcdef" * 2


def post(gateway: RunningGateway, body: Any, **headers: str) -> httpx.Response:
    content = body if isinstance(body, bytes) else None
    return httpx.post(
        f"{gateway.origin}/v1/feedback",
        content=content,
        json=None if content is not None else body,
        headers={name.replace("_", "-"): value for name, value in headers.items()},
        timeout=20,
    )


def answered(gateway: RunningGateway, **body: Any) -> str:
    """The decision id of an answer."""
    return gateway.post({**PLAIN, **body}).headers["x-router-decision-id"]


def kept(gateway: RunningGateway) -> list[FeedbackRecord]:
    found = read(Path(gateway.config.log.dir), kind="feedback")
    return [record for record in found if isinstance(record, FeedbackRecord)]


def test_judgement_is_in_the_log_when_it_is_acknowledged(gateway: RunningGateway) -> None:
    decision_id = answered(gateway)
    response = post(gateway, {"decision_id": decision_id, "score": 0.25, "correction": "héllo", "source": "human"})
    assert response.status_code == 200, response.text
    assert response.json() == {"decision_id": decision_id, "kept": ["score", "correction"], "dropped": []}
    (record,) = kept(gateway)
    assert (record.decision_id, record.score, record.correction, record.source) == (decision_id, 0.25, "héllo", "human")
    assert record.tenant == "default"


def test_newest_judgement_of_a_kind_is_joined_to_its_record(gateway: RunningGateway) -> None:
    decision_id = answered(gateway)
    for body in ({"score": 0.0}, {"label": "a"}, {"score": 1.0}):
        assert post(gateway, {"decision_id": decision_id, **body}).status_code == 200
    (record,) = gateway.records()
    joined = judgements(Path(gateway.config.log.dir)).of(record)
    assert joined is not None
    assert (joined.score, joined.label, joined.correction) == (1.0, "a", None)


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"score": 1}, None),
        ({"decision_id": SOME_ID}, "score"),
        ({"decision_id": "nonsense", "score": 1}, "decision_id"),
        ({"decision_id": SOME_ID + "\n", "score": 1}, "decision_id"),
        ({"decision_id": SOME_ID, "score": 1.01}, "score"),
        ({"decision_id": SOME_ID, "score": True}, "score"),
        ({"decision_id": SOME_ID, "label": ""}, "label"),
        ({"decision_id": SOME_ID, "label": "x" * 1001}, "label"),
        ({"decision_id": SOME_ID, "correction": "x" * 200_001}, "correction"),
        ({"decision_id": SOME_ID, "score": 1, "source": "<script>"}, "source"),
        ({"decision_id": SOME_ID, "score": 1, "extra": 1}, None),
        (b"{", None),
        (b"[]", None),
        (b'{"decision_id":"' + SOME_ID.encode() + b'","label":"\\ud800"}', None),
        (b'{"decision_id":"' + SOME_ID.encode() + b'","score":NaN}', None),
        (b"\xff", None),
        (b"", None),
    ],
)
def test_bad_judgement_is_a_400_that_names_the_field(gateway: RunningGateway, body: Any, param: str | None) -> None:
    response = post(gateway, body)
    assert response.status_code == 400, response.text
    assert response.json()["error"]["param"] == param
    assert not kept(gateway)


def test_large_body_is_refused(gateway: RunningGateway) -> None:
    assert post(gateway, b" " * (2**20 + 1)).status_code == 413


def test_tenant_comes_from_the_key_and_an_unknown_key_is_refused(start_gateway: StartGateway) -> None:
    gateway = start_gateway(
        {"LOCUM_API_KEYS": "acme=key-of-acme,other=key-of-other"}, rest='[auth]\nkeys_env = "LOCUM_API_KEYS"'
    )
    assert post(gateway, {"decision_id": SOME_ID, "score": 1}).status_code == 401
    assert post(gateway, {"decision_id": SOME_ID, "score": 1}, authorization="Bearer wrong-key").status_code == 401
    answer = gateway.post(PLAIN, headers={"authorization": "Bearer key-of-acme"})
    decision_id = answer.headers["x-router-decision-id"]
    foreign = post(gateway, {"decision_id": decision_id, "score": 0}, authorization="Bearer key-of-other")
    assert foreign.status_code == 200  # whose the id is says the log, not this process
    (record,) = [each for each in gateway.records() if each.decision_id == decision_id]
    log = Path(gateway.config.log.dir)
    assert [each.tenant for each in kept(gateway)] == ["other"]
    assert judgements(log).of(record) is None
    assert post(gateway, {"decision_id": decision_id, "score": 1}, authorization="Bearer key-of-acme").is_success
    joined = judgements(log).of(record)
    assert joined is not None
    assert joined.score == 1.0


@pytest.mark.parametrize(
    ("request_options", "headers", "log_options", "expected"),
    [
        ({}, {}, "", ["score", "label", "correction"]),
        ({"store": False}, {}, "", ["score"]),
        ({"router": {"train": "metadata"}}, {}, "", ["score"]),
        ({}, {"x_router_train": "metadata"}, "", ["score"]),
        ({"router": {"train": "full"}}, {"x_router_train": "full"}, 'capture = "metadata"', ["score"]),
        ({"router": {"train": "none"}}, {}, "", []),
        ({}, {"x_router_train": "none"}, "", []),
        ({"store": True}, {}, 'capture = "none"', []),
    ],
)
def test_strictest_level_decides_what_of_a_judgement_is_kept(
    start_gateway: StartGateway,
    request_options: dict[str, Any],
    headers: dict[str, str],
    log_options: str,
    expected: list[str],
) -> None:
    gateway = start_gateway(rest=log_options)
    decision_id = answered(gateway, **request_options)
    body = {"decision_id": decision_id, "score": 1, "label": "private", "correction": "private"}
    response = post(gateway, body, **headers)
    texts = b"".join(path.read_bytes() for path in Path(gateway.config.log.dir).glob("*.seg"))
    assert (b"private" in texts) == (len(expected) == 3)
    if expected:
        assert response.json()["kept"] == expected
        assert [each.score for each in kept(gateway)] == [1.0]
    else:
        assert response.status_code == 409
        assert response.json()["error"]["code"] == "not_captured"
        assert not kept(gateway)


@pytest.mark.parametrize(
    ("request_options", "expected"),
    [({}, ["score", "label", "correction"]), ({"store": False}, ["score"]), ({"router": {"train": "none"}}, None)],
)
def test_consent_holds_when_the_judgement_comes_to_another_gateway(
    start_gateway: StartGateway, request_options: dict[str, Any], expected: list[str] | None
) -> None:
    decision_id = answered(start_gateway(), **request_options)
    other = start_gateway()
    response = post(other, {"decision_id": decision_id, "score": 1, "label": "private", "correction": "private"})
    assert response.json().get("kept") == expected
    texts = b"".join(path.read_bytes() for path in Path(other.config.log.dir).glob("*.seg"))
    assert (b"private" in texts) == (expected is not None and "label" in expected)


def test_texts_about_a_refused_request_are_not_kept(gateway: RunningGateway) -> None:
    refused = gateway.post({"model": "auto", "messages": []})
    assert refused.status_code == 400
    response = post(gateway, {"decision_id": refused.headers["x-router-decision-id"], "score": 0, "label": "private"})
    assert response.json()["kept"] == ["score"]


def test_judgement_is_refused_when_the_log_is_off(start_gateway: StartGateway) -> None:
    gateway = start_gateway(log_dir="")
    assert post(gateway, {"decision_id": SOME_ID, "score": 1}).status_code == 409


def moment(route: str, name: str) -> str:
    return f'router_quality_moments_total{{delivered="yes",moment="{name}",route="{route}",source="feedback"}}'


def test_scores_are_counted_for_the_model_that_answered_whichever_process_hears_them(
    start_gateway: StartGateway,
) -> None:
    answering, hearing = start_gateway(), start_gateway()
    ids = [answered(answering, model="teacher"), answered(answering), answered(answering)]
    streamed = answering.post({**PLAIN, "model": "teacher", "stream": True})
    ids.append(streamed.headers["x-router-decision-id"])
    assert {record.decision_id for record in answering.records()} == set(ids)
    for decision_id, score in zip(ids, (1.0, 0.5, 0.25, 0.75), strict=True):
        assert post(hearing, {"decision_id": decision_id, "score": score, "label": "x"}).is_success
    assert post(hearing, {"decision_id": ids[0], "score": 0.0}).is_success  # a change of mind is no second answer
    assert post(hearing, {"decision_id": "f" * 32, "score": 0.0}).is_success  # nobody's
    assert [hearing.metric(moment("teacher", name)) for name in ("n", "w", "ws", "w2s2")] == [2, 2, 1.75, 1.5625]
    assert [hearing.metric(moment("student", name)) for name in ("n", "ws")] == [2, 0.75]
    assert [hearing.metric(f'router_feedback_total{{kind="{kind}"}}') for kind in ("score", "label")] == [6, 4]
    assert answering.metric(moment("teacher", "n")) == 0


def test_score_is_not_counted_as_quality_when_the_request_was_no_traffic(gateway: RunningGateway) -> None:
    decision_id = answered(gateway, router={"purpose": "eval"})
    assert post(gateway, {"decision_id": decision_id, "score": 1.0}).is_success
    assert gateway.metric(moment("student", "n")) == 0
    assert gateway.metric('router_feedback_total{kind="score"}') == 1
