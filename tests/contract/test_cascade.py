"""The student's draft is reviewed before the client sees anything; the client gets one answer, whatever happens."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from loadtests.fake_backend import BackendThread
from policies.record import DecisionRecord
from tests.contract.conftest import RunningGateway, StartGateway, chats
from tests.contract.test_disconnect import WaitUntil, leave

HI = [{"role": "user", "content": "hi"}]
DOUBTER = '[[routing.policies]]\ntype = "tests.contract.reviewers:Doubter"'
BROKEN = '[[routing.policies]]\ntype = "tests.contract.reviewers:Broken"'
WEAK, SURE = "fake-logprob-2.5-tokens-5", "fake-logprob-0.5"
StartCascade = Callable[..., RunningGateway]


@pytest.fixture
def start_cascade(start_gateway: StartGateway) -> StartCascade:
    def start(student_model: str, teacher_model: str = "teacher", **parts: str) -> RunningGateway:
        return start_gateway(student_model=student_model, teacher_model=teacher_model, **{"rest": DOUBTER, **parts})

    return start


def the_record(gateway: RunningGateway) -> DecisionRecord:
    records = gateway.records()
    assert len(records) == 1
    return records[0]


def test_weak_draft_is_replaced_by_the_teachers_answer(
    start_cascade: StartCascade, student: BackendThread, teacher: BackendThread
) -> None:
    gateway = start_cascade(WEAK)
    response = gateway.post({"model": "auto", "messages": HI, "max_tokens": 7})
    assert response.content == b"".join(teacher.state.received[-1].response)
    headers = response.headers
    assert (headers["x-router-route"], headers["x-router-reason"]) == ("teacher", "doubtful")
    assert headers["x-router-policy"] == "doubter"
    assert "x-router-degraded" not in headers
    assert json.loads(student.state.received[-1].body)["logprobs"] is True
    assert "logprobs" not in json.loads(teacher.state.received[-1].body)


def test_record_of_an_escalation_holds_draft_costs_and_votes(start_cascade: StartCascade) -> None:
    gateway = start_cascade(WEAK)
    answer = gateway.post({"model": "auto", "messages": HI}).json()
    record = the_record(gateway)
    assert (record.route, record.reason, record.outcome) == ("teacher", "doubtful", "ok")
    assert (record.decision.route, record.decision.reason) == ("student", "default")
    assert record.completion == answer["choices"][0]["message"]["content"]
    draft = record.draft
    assert draft is not None
    assert draft.escalated
    assert draft.review is not None
    assert (draft.review.policy, draft.review.score, draft.review.threshold) == ("doubter", 0.9, 0.5)
    assert draft.mean_logprob == pytest.approx(-2.5)
    assert (draft.tokens, draft.finish_reason) == (5, "stop")
    assert draft.text == "The quick brown fox jumps"
    assert record.votes[-1].policy == "doubter"
    assert record.votes[-1].route == "teacher"
    assert draft.cost_usd is not None
    assert record.counterfactual_cost_usd is not None
    assert record.cost_usd == pytest.approx(draft.cost_usd + record.counterfactual_cost_usd)
    assert record.usage is not None
    assert record.usage.completion_tokens == 8


def test_metrics_count_the_escalation_and_both_models(start_cascade: StartCascade) -> None:
    gateway = start_cascade(WEAK)
    gateway.post({"model": "auto", "messages": HI})
    record = the_record(gateway)
    assert gateway.metric('router_escalations_total{policy="doubter",reason="doubtful"}') == 1
    assert gateway.metric('router_tokens_total{direction="output",route="student"}') == 5
    assert gateway.metric('router_tokens_total{direction="output",route="teacher"}') == 8
    assert record.draft is not None
    assert gateway.metric('router_cost_usd_total{route="student"}') == pytest.approx(record.draft.cost_usd)
    assert gateway.metric('router_cost_usd_total{route="teacher"}') == pytest.approx(record.counterfactual_cost_usd)


def test_sure_draft_is_delivered_without_a_trace_of_the_review(
    start_cascade: StartCascade, student: BackendThread, teacher: BackendThread
) -> None:
    gateway = start_cascade(SURE)
    response = gateway.post({"model": "auto", "messages": HI})
    assert (response.headers["x-router-route"], response.headers["x-router-reason"]) == ("student", "default")
    assert response.json()["choices"][0]["logprobs"] is None
    assert chats(teacher) == 0
    record = the_record(gateway)
    assert record.draft is not None
    assert (record.draft.escalated, record.draft.review) == (False, None)
    assert record.mean_logprob == record.draft.mean_logprob == pytest.approx(-0.5)
    assert record.cost_usd == record.draft.cost_usd
    assert [(vote.policy, vote.reason) for vote in record.votes] == [("doubter", "sure")]
    assert gateway.metric('router_escalations_total{policy="doubter"') == 0


def test_draft_is_recorded_without_its_text_below_full(start_cascade: StartCascade) -> None:
    gateway = start_cascade(WEAK)
    gateway.post({"model": "auto", "messages": HI, "store": False})
    draft = the_record(gateway).draft
    assert draft is not None
    assert draft.text is None
    assert draft.mean_logprob == pytest.approx(-2.5)


@pytest.mark.parametrize(
    ("teacher_model", "cause"),
    [
        ("fault-500", "server_error"), ("fault-reset", "disconnected"), ("fault-garbage", "invalid_response"),
        ("fault-429", "rate_limited"), ("fault-422", "refused"), ("fault-hang", "timeout"),
    ],
)  # fmt: skip
def test_draft_is_delivered_degraded_when_the_teacher_fails(
    start_cascade: StartCascade, student: BackendThread, teacher_model: str, cause: str
) -> None:
    gateway = start_cascade(f"{WEAK}-fixed", teacher_model, teacher="request_timeout_s = 0.5")
    response = gateway.post({"model": "auto", "messages": HI})
    assert response.status_code == 200
    assert response.json()["choices"][0]["message"]["content"] == "The quick brown fox jumps"
    headers = response.headers
    assert (headers["x-router-route"], headers["x-router-reason"]) == ("student", f"fallback_{cause}")
    assert headers["x-router-degraded"] == ("overload" if cause == "rate_limited" else "teacher_unavailable")
    record = the_record(gateway)
    assert (record.outcome, record.fallback_cause, record.route) == ("degraded", cause, "student")
    assert record.draft is not None
    assert record.draft.escalated
    assert record.cost_usd == record.draft.cost_usd
    assert gateway.metric(f'router_fallbacks_total{{cause="{cause}"}}') == 1


def test_draft_is_delivered_before_the_requests_own_deadline(start_cascade: StartCascade) -> None:
    gateway = start_cascade(WEAK, "fault-hang", server="request_timeout_s = 1.5")
    response = gateway.post({"model": "auto", "messages": HI})
    assert response.status_code == 200
    assert response.headers["x-router-degraded"] == "teacher_unavailable"


def test_deadline_covers_the_draft_as_well(start_cascade: StartCascade, teacher: BackendThread) -> None:
    gateway = start_cascade("fault-hang", server="request_timeout_s = 0.5")
    assert gateway.post({"model": "auto", "messages": HI}).status_code == 504
    assert chats(teacher) == 0


@pytest.mark.parametrize("phase", ["draft", "teacher"])
def test_running_call_is_cancelled_when_the_client_leaves(
    start_cascade: StartCascade, student: BackendThread, teacher: BackendThread, wait_until: WaitUntil, phase: str
) -> None:
    models = ("fault-hang", "teacher") if phase == "draft" else (WEAK, "fault-hang")
    gateway = start_cascade(*models)
    busy = student if phase == "draft" else teacher
    leave(gateway, {}, after=None, once=lambda: busy.state.in_flight == 1)
    wait_until(lambda: busy.state.aborted == 1)
    wait_until(lambda: [record.outcome for record in gateway.records()] == ["client_disconnected"])
    draft = the_record(gateway).draft
    assert (draft is not None) == (phase == "teacher")
    if draft is not None:
        assert draft.cost_usd is not None
        assert gateway.metric('router_tokens_total{direction="output",route="student"}') == 5
    wait_until(lambda: gateway.metric("router_inflight_requests") == 0)


@pytest.mark.parametrize("members", [{"model": "student"}, {"stream": True}, {"n": 2}])
def test_forced_streamed_and_manifold_answers_are_not_reviewed(
    start_cascade: StartCascade, teacher: BackendThread, members: dict[str, object]
) -> None:
    gateway = start_cascade(WEAK)
    response = gateway.post({"model": "auto", "messages": HI, **members})
    assert response.headers["x-router-route"] == "student"
    assert chats(teacher) == 0
    assert the_record(gateway).draft is None


def test_students_failure_is_an_ordinary_fall_back(start_cascade: StartCascade) -> None:
    gateway = start_cascade("fault-500")
    response = gateway.post({"model": "auto", "messages": HI})
    assert (response.headers["x-router-route"], response.headers["x-router-reason"]) == (
        "teacher",
        "fallback_server_error",
    )
    assert the_record(gateway).draft is None


def test_student_that_stands_in_for_the_teacher_is_not_reviewed(start_cascade: StartCascade) -> None:
    gateway = start_cascade(WEAK, "fault-500", rest='[routing]\ndefault_route = "teacher"\n' + DOUBTER)
    response = gateway.post({"model": "auto", "messages": HI})
    assert response.headers["x-router-degraded"] == "teacher_unavailable"
    assert the_record(gateway).draft is None


@pytest.mark.parametrize(("configured", "route"), [("teacher", "teacher"), ("student", "student")])
def test_on_policy_error_decides_when_a_reviewer_raises(
    start_cascade: StartCascade, configured: str, route: str
) -> None:
    gateway = start_cascade(SURE, rest=f'[routing]\non_policy_error = "{configured}"\n' + BROKEN)
    response = gateway.post({"model": "auto", "messages": HI})
    assert (response.status_code, response.headers["x-router-route"]) == (200, route)
    assert gateway.metric('router_policy_errors_total{policy="broken"}') == 1


def test_explain_shows_the_review(start_cascade: StartCascade) -> None:
    gateway = start_cascade(WEAK)
    response = gateway.post({"model": "auto", "messages": HI, "router": {"explain": True}})
    explained = json.loads(response.headers["x-router-explain"])
    assert explained["review"]["policy"] == "doubter"
    assert explained["votes"][-1]["reason"] == "doubtful"


def test_student_without_logprobs_is_kept_when_the_reviewer_abstains(
    start_cascade: StartCascade, teacher: BackendThread
) -> None:
    gateway = start_cascade(WEAK)
    gateway.post({"model": "auto", "messages": HI, "top_logprobs": 1})
    record = the_record(gateway)
    assert record.votes[-1].reason == "no_logprobs"
    assert record.route == "student"
