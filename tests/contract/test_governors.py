"""Budget, exploration and shadows in a real gateway: what clients get, what is recorded, what is counted."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from policies.base import Lot, Quote
from policies.explore import Explore
from router.governance.lots import uniform
from tests.contract.conftest import RunningGateway, StartGateway
from tests.contract.test_admin import AUTH, ENVIRON, Admin

HARD = '[[routing.policies]]\ntype = "tests.contract.learned:Hard"\n'
BUDGET = '[[routing.policies]]\ntype = "budget"\n{options}\n[admin]\ndir = "{folder}"\n'
EXPLORE = '[[routing.policies]]\ntype = "explore"\nto_teacher = 0.5\nto_student = 0.5\n{options}\n'
SHADOW = '[[routing.policies]]\ntype = "tests.contract.learned:Hard"\nmode = "shadow"\nartefact = "a"\n'
SLOW = '[[routing.policies]]\ntype = "tests.contract.learned:Slow"\nmode = "shadow"\n'
DOUBTER = '[[routing.policies]]\ntype = "tests.contract.reviewers:Doubter"\n'
WEAK = "fake-logprob-2.5-tokens-5"


def ask(gateway: RunningGateway, text: str = "a hard one", **fields: Any) -> httpx.Response:
    return gateway.post({"model": "auto", "messages": [{"role": "user", "content": text}], **fields})


def wait_for(metric: str, gateway: RunningGateway, value: float) -> None:
    deadline_s = time.monotonic() + 15
    while gateway.metric(metric) < value:
        assert time.monotonic() < deadline_s, f"{metric} stays at {gateway.metric(metric)}"
        time.sleep(0.05)


def test_teacher_is_given_up_when_the_budget_is_spent_and_insisted_on_all_the_same(
    start_gateway: StartGateway, tmp_path: Path
) -> None:
    gateway = start_gateway(rest=HARD + BUDGET.format(options="tokens_per_day = 10", folder=tmp_path))
    assert ask(gateway).headers["x-router-route"] == "teacher"
    wait_for("router_teacher_budget_spent_ratio", gateway, 1.0)
    late = ask(gateway)
    assert (late.headers["x-router-route"], late.headers["x-router-reason"]) == ("student", "over_price")
    assert late.headers["x-router-policy"] == "budget"
    assert ask(gateway, model="teacher").headers["x-router-route"] == "teacher"
    first, second, forced = sorted(gateway.records(), key=lambda record: record.created_s)
    assert first.features is not None
    assert isinstance(first.features.signals.quote, Quote)
    assert (first.features.signals.quote.price, second.decision.propensity) == (0.0, 1.0)
    assert [(vote.policy, vote.reason) for vote in second.votes] == [("hard", "hard"), ("budget", "over_price")]
    assert forced.decision.policy == "request"


def test_gateway_without_governors_records_nothing_of_them(start_gateway: StartGateway) -> None:
    gateway = start_gateway(rest=HARD)
    ask(gateway)
    (record,) = gateway.records()
    assert record.features is not None
    assert not record.features.signals.quote
    assert not record.features.signals.lot


def test_explored_requests_carry_the_probability_of_what_was_done(start_gateway: StartGateway) -> None:
    gateway = start_gateway(rest=HARD + EXPLORE.format(options=""))
    policy = Explore(to_teacher=0.5, to_student=0.5)
    for number in range(24):
        ask(gateway, "a hard one" if number % 2 else "an easy one")
    routes = set()
    for record in gateway.records():
        assert record.features is not None
        lot = record.features.signals.lot
        assert isinstance(lot, Lot)
        assert lot.draw == uniform(record.decision_id)
        tentative = "teacher" if "hard" in record.features.last_user_turn else "student"
        drawn = lot.draw < policy.probability({}, tentative)  # type: ignore[arg-type]
        assert record.route == ({"teacher": "student", "student": "teacher"}[tentative] if drawn else tentative)
        assert record.decision.propensity == 0.5
        routes.add((tentative, record.route))
    assert len(routes) == 4


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"router": {"explore": False}}, "opted_out"),
        ({"router": {"purpose": "eval"}}, "not_traffic"),
        ({"router": {"train": "none", "explain": True}}, "not_recorded"),
    ],
)
def test_nothing_is_explored_when_the_client_objects(
    start_gateway: StartGateway, fields: dict[str, Any], reason: str
) -> None:
    gateway = start_gateway(rest=HARD + EXPLORE.format(options=""))
    answers = [ask(gateway, **fields) for _ in range(6)]
    assert {answer.headers["x-router-route"] for answer in answers} == {"teacher"}
    records = gateway.records()
    assert {record.decision.propensity for record in records} <= {1.0}
    assert {vote.reason for record in records for vote in record.votes if vote.policy == "explore"} <= {reason}
    if not records:
        assert f'"reason":"{reason}"' in answers[0].headers["x-router-explain"]


def test_draft_is_kept_or_thrown_away_by_lot_when_it_is_reviewed(start_gateway: StartGateway) -> None:
    gateway = start_gateway(student_model=WEAK, rest=DOUBTER + EXPLORE.format(options=""))
    for _ in range(16):
        ask(gateway)
    kept = set()
    for record in gateway.records():
        assert record.decision.propensity == 1.0
        assert record.draft is not None and record.draft.review is not None
        assert record.draft.review.propensity == 0.5
        assert record.draft.escalated == (record.route == "teacher")
        assert record.features is not None and isinstance(record.features.signals.lot, Lot)
        assert record.draft.escalated == (record.features.signals.lot.draw >= 0.5)
        kept.add(record.route)
    assert kept == {"student", "teacher"}


def test_answer_that_was_drawn_for_the_student_is_not_reviewed(start_gateway: StartGateway) -> None:
    gateway = start_gateway(student_model=WEAK, rest=HARD + DOUBTER + EXPLORE.format(options=""))
    for _ in range(12):
        ask(gateway)
    by_student = [record for record in gateway.records() if record.route == "student"]
    assert by_student
    assert all(record.draft is None and record.decision.propensity == 0.5 for record in by_student)


def test_votes_in_shadow_are_recorded_and_counted_and_decide_nothing(start_gateway: StartGateway) -> None:
    gateway = start_gateway(rest=SHADOW)
    for text in ("a hard one", "an easy one", "a hard one"):
        assert ask(gateway, text).headers["x-router-route"] == "student"
    records = gateway.records()
    assert sorted((vote.reason, vote.shadow) for record in records for vote in record.votes) == [
        ("easy", True), ("hard", True), ("hard", True),
    ]  # fmt: skip
    votes = 'router_shadow_votes_total{agreement="%s",policy="hard",route="%s"}'
    assert gateway.metric(votes % ("other", "teacher")) == 2.0
    assert gateway.metric(votes % ("same", "abstain")) == 1.0
    assert gateway.total("router_escalations_total") == 0.0


def test_shadow_that_is_slow_and_fails_costs_the_request_nothing(start_gateway: StartGateway) -> None:
    gateway = start_gateway(rest=SLOW)
    assert ask(gateway).status_code == 200
    for _ in range(8):
        assert ask(gateway).headers["x-router-route"] == "student"
    asked = sum(bool(record.votes) for record in gateway.records())
    assert asked <= 2  # the first call has used up the time of hundreds of requests


def test_explanation_shows_governors_and_shadows(start_gateway: StartGateway, tmp_path: Path) -> None:
    rest = HARD + EXPLORE.format(options="") + SHADOW + BUDGET.format(options="tokens_per_day = 9", folder=tmp_path)
    answer = ask(start_gateway(rest=rest), router={"explain": True})
    explained = answer.headers["x-router-explain"]
    for part in ('"policy":"budget"', '"reason":"worth_its_price"', '"policy":"explore"', '"shadow":true'):
        assert part in explained


def test_learned_policy_is_refused_until_it_has_voted_in_shadow(start_gateway: StartGateway, tmp_path: Path) -> None:
    rest = SHADOW + AUTH.format(folder=tmp_path / "admin")
    admin = Admin(start_gateway(environ=ENVIRON, rest=rest), tmp_path / "admin")
    deciding = {"type": "tests.contract.learned:Hard", "artefact": "a"}
    in_shadow = {**deciding, "mode": "shadow"}
    assert admin.put({"routing": {"require_shadow_votes": 3, "policies": [in_shadow]}}, expected=0).status_code == 200
    for bar in (3, 0):  # nor in one step with a lower bar
        early = admin.put({"routing": {"require_shadow_votes": bar, "policies": [deciding]}}, expected=1)
        assert (early.status_code, early.json()["error"]["code"]) == (409, "not_shadowed")
        assert "has 0 of 3 votes in shadow" in early.json()["error"]["message"]
    tried = admin.ask("POST", "policy/validate", json={"document": {"routing": {"policies": [deciding]}}, "records": 0})
    assert (tried.json()["valid"], len(tried.json()["problems"])) == (False, 1)
    headers = {"authorization": "Bearer client-key-1"}
    for _ in range(3):
        question = {"model": "auto", "messages": [{"role": "user", "content": "a hard one"}]}
        assert admin.gateway.post(question, headers=headers).status_code == 200
    assert admin.put({"routing": {"require_shadow_votes": 3, "policies": [deciding]}}, expected=1).status_code == 200
    renamed = {**deciding, "score": 0.9}  # another threshold, the same artefact
    assert admin.put({"routing": {"require_shadow_votes": 9, "policies": [renamed]}}, expected=2).status_code == 200
    assert [entry["result"] for entry in admin.audit()] == ["ok", "refused", "refused", "ok", "ok"]
