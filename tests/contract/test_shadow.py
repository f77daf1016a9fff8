"""Shadow answers through a real gateway: who is asked beside the client, what is kept of it, and what never is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from loadtests.fake_backend import BackendThread, Received
from policies.record import ShadowRecord
from policies.traffic.reader import read, shadows
from tests.contract.conftest import RunningGateway, StartGateway, chats
from tests.contract.tenants import AUTH, KEYS, WaitUntil, ask, leave_during
from tests.judge_server import JudgeServer, Shown

BOTH = "[quality.shadow]\nstudent_share = 1.0\nteacher_share = 1.0\n"
STUDENT = "[quality.shadow]\nstudent_share = 1.0\n"
EXACT = '[[quality.graders]]\ntype = "exact"\n'


def say(gateway: RunningGateway, text: str = "hi", **fields: Any) -> str:
    """The decision id of an answer."""
    body = {"model": "auto", "messages": [{"role": "user", "content": text}], **fields}
    response = gateway.post(body)
    assert response.status_code == 200, response.text
    return response.headers["x-router-decision-id"]


def shadowed(gateway: RunningGateway) -> list[ShadowRecord]:
    return list(shadows(Path(gateway.config.log.dir)))


def wait_for(gateway: RunningGateway, wait_until: WaitUntil, count: int = 1) -> list[ShadowRecord]:
    wait_until(lambda: len(shadowed(gateway)) >= count)
    return shadowed(gateway)


def asked_of(backend: BackendThread) -> list[Received]:
    return [received for received in backend.state.received if received.path.endswith("/chat/completions")]


def test_students_answer_is_put_to_the_teacher_and_recorded_beside_it(
    start_gateway: StartGateway, student: BackendThread, teacher: BackendThread, wait_until: WaitUntil
) -> None:
    gateway = start_gateway(rest=STUDENT)
    decision_id = say(gateway, "[[fake-tokens-5]]", router={"tags": {"team": "docs"}, "session": "s1"})
    (shadow,) = wait_for(gateway, wait_until)
    (record,) = gateway.records()
    assert (shadow.decision_id, shadow.status) == (decision_id, "ok")
    assert (shadow.delivered, shadow.asked, shadow.propensity) == ("student", "teacher", 1.0)
    assert (shadow.student, shadow.teacher, shadow.purpose) == ("student", "teacher", "shadow")
    assert (shadow.tags, shadow.session, shadow.tenant) == ({"team": "docs"}, "s1", "default")
    assert shadow.completion
    assert shadow.finish_reason == "stop"
    assert shadow.usage is not None
    assert shadow.cost_usd == pytest.approx(
        (shadow.usage.prompt_tokens * 2.5 + shadow.usage.completion_tokens * 10) / 1e6
    )
    assert shadow.created_s >= record.created_s
    assert shadow.latency_s is not None
    assert shadow.latency_s > 0
    (mine,), (theirs,) = asked_of(student), asked_of(teacher)
    assert msgspec.json.decode(theirs.body) == {**msgspec.json.decode(mine.body), "model": "teacher"}
    assert (theirs.header("x-router-purpose"), theirs.header("x-router-train")) == (b"shadow", b"none")
    assert gateway.metric('router_shadow_total{asked="teacher",outcome="ok"}') == 1
    assert gateway.metric('router_shadow_cost_usd_total{asked="teacher"}') == pytest.approx(shadow.cost_usd)
    assert gateway.metric('router_requests_total{outcome="ok"') == 0 or len(gateway.records()) == 1
    assert record.cost_usd is not None
    assert record.cost_usd < shadow.cost_usd  # nobody pays for the shadow but the operator


def test_stream_and_tools_are_put_to_the_other_model_as_one_plain_answer(
    start_gateway: StartGateway, teacher: BackendThread, wait_until: WaitUntil
) -> None:
    gateway = start_gateway(rest=STUDENT)
    tools = [{"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}]
    say(gateway, stream=True, stream_options={"include_usage": True}, tools=tools, temperature=0.5)
    (shadow,) = wait_for(gateway, wait_until)
    assert shadow.status == "ok"
    (theirs,) = asked_of(teacher)
    body = msgspec.json.decode(theirs.body)
    assert body["stream"] is False
    assert "stream_options" not in body
    assert "router" not in body
    assert (body["tools"], body["temperature"]) == (tools, 0.5)


def test_teachers_answer_is_put_to_the_student_with_what_its_uncertainty_needs(
    start_gateway: StartGateway, student: BackendThread, wait_until: WaitUntil
) -> None:
    gateway = start_gateway(rest=BOTH, student="capture_logprobs = true")
    say(gateway, "[[fake-logprob-2.5]]", model="teacher")
    (shadow,) = wait_for(gateway, wait_until)
    assert (shadow.delivered, shadow.asked, shadow.status) == ("teacher", "student", "ok")
    assert shadow.mean_logprob == pytest.approx(-2.5)
    assert len(asked_of(student)) == 1


@pytest.mark.parametrize(
    "fields",
    [
        {"store": False},
        {"router": {"train": "metadata"}},
        {"router": {"train": "none"}},
        {"router": {"purpose": "eval"}},
        {"router": {"purpose": "shadow"}},
        {"n": 2},
    ],
)
def test_request_is_never_shadowed_when_it_may_not_be_kept_or_is_no_traffic(
    start_gateway: StartGateway, teacher: BackendThread, fields: dict[str, Any], wait_until: WaitUntil
) -> None:
    gateway = start_gateway(rest=STUDENT)
    say(gateway, **fields)
    decision_id = say(gateway)  # drawn after it
    (shadow,) = wait_for(gateway, wait_until)
    assert shadow.decision_id == decision_id
    assert chats(teacher) == 1


def test_request_of_another_dialect_is_put_to_the_other_model_as_a_chat(
    start_gateway: StartGateway, teacher: BackendThread, wait_until: WaitUntil
) -> None:
    gateway = start_gateway(rest=STUDENT, student='native_apis = ["messages"]', teacher='native_apis = ["messages"]')
    body = {"model": "auto", "max_tokens": 9, "system": "Be brief.", "messages": [{"role": "user", "content": "hi"}]}
    assert httpx.post(f"{gateway.origin}/v1/messages", json=body, timeout=20).status_code == 200
    completion = {"model": "auto", "prompt": "once upon"}  # no chat: there is nothing to compare it as
    assert httpx.post(f"{gateway.origin}/v1/completions", json=completion, timeout=20).status_code == 200
    (shadow,) = wait_for(gateway, wait_until)
    assert (shadow.status, bool(shadow.completion)) == ("ok", True)
    (theirs,) = asked_of(teacher)
    assert [message["role"] for message in msgspec.json.decode(theirs.body)["messages"]] == ["system", "user"]


def test_judge_grades_what_the_gateway_shows_it(start_gateway: StartGateway, wait_until: WaitUntil) -> None:
    def judging(shown: Shown) -> str:
        return "A={} B={}".format(*(5 if "mine" in answer else 1 for answer in (shown.first, shown.second)))

    with JudgeServer(judging) as judge:
        gateway = start_gateway(
            rest=f'{STUDENT}[[quality.graders]]\ntype = "judge"\ntags = {{task = "chat"}}\n[quality.judge]\n'
            f'base_url = "{judge.base_url}"\nmodel = "judge-1"\n'
        )
        say(gateway, "[[fake-echo]] mine", router={"tags": {"task": "chat"}})
        say(gateway, "[[fake-echo]] mine", router={"tags": {"task": "code"}})
        found = {shadow.tags["task"]: shadow for shadow in wait_for(gateway, wait_until, 2)}
    (grade,) = found["chat"].grades
    assert (grade.grader, grade.student, grade.preferred, grade.consistent) == ("judge/judge-1/v1", 1.0, "tie", True)
    assert found["chat"].judge_usage is not None
    assert (found["chat"].judge_cost_usd, found["code"].grades) == (None, ())  # its price is unknown
    assert len(judge.seen) == 2
    assert gateway.metric('router_judge_calls_total{outcome="ok"}') == 2


def test_request_is_not_shown_to_a_model_that_its_tenant_may_not_use(
    start_gateway: StartGateway, teacher: BackendThread, wait_until: WaitUntil
) -> None:
    gateway = start_gateway(KEYS, rest=f'{AUTH}[tenants.acme]\nallowed_routes = ["student"]\n{STUDENT}')
    assert ask(gateway).status_code == 200
    assert ask(gateway, key="key-of-beta").status_code == 200
    (shadow,) = wait_for(gateway, wait_until)
    assert shadow.tenant == "beta"
    assert chats(teacher) == 1


def test_clients_are_answered_while_the_shadow_hangs_and_the_rest_is_skipped(
    start_gateway: StartGateway, teacher: BackendThread, wait_until: WaitUntil
) -> None:
    """The order of events: the one call hangs all the time, and every client has its answer meanwhile."""
    gateway = start_gateway(
        teacher_model="fault-hang", rest=f"{STUDENT}max_concurrency = 1\nmax_queue = 2\ndrain_timeout_s = 0.05\n"
    )
    ids = [say(gateway)]
    wait_until(lambda: chats(teacher) == 1)
    ids += [say(gateway) for _ in range(4)]
    skipped = wait_for(gateway, wait_until, 2)
    assert [shadow.status for shadow in skipped] == ["skipped_queue"] * 2
    assert {shadow.decision_id for shadow in skipped} == set(ids[3:])
    assert chats(teacher) == 1
    gateway.stop()
    ended = {shadow.decision_id: shadow.status for shadow in shadowed(gateway)}
    assert ended == {
        ids[0]: "timeout", ids[1]: "skipped_shutdown", ids[2]: "skipped_shutdown", ids[3]: "skipped_queue",
        ids[4]: "skipped_queue",
    }  # fmt: skip
    kinds = [type(record).__name__ for record in read(Path(gateway.config.log.dir))]
    assert kinds[:2] == ["DecisionRecord", "DecisionRecord"]  # the record of an answer comes before its shadow's


def test_shadow_is_given_up_at_its_deadline(start_gateway: StartGateway, wait_until: WaitUntil) -> None:
    gateway = start_gateway(teacher_model="fault-hang", rest=f"{STUDENT}deadline_s = 0.05\n")
    say(gateway)
    (shadow,) = wait_for(gateway, wait_until)
    assert (shadow.status, shadow.cost_usd, shadow.completion) == ("timeout", None, None)


def test_breaker_of_live_traffic_does_not_open_when_shadows_fail(
    start_gateway: StartGateway, wait_until: WaitUntil
) -> None:
    gateway = start_gateway(
        teacher_model="fault-500", rest=f"{STUDENT}[resilience.breaker]\nconsecutive_failures = 2\n"
    )
    for _ in range(4):
        say(gateway)
    assert [shadow.status for shadow in wait_for(gateway, wait_until, 4)] == ["error"] * 4
    assert gateway.metric('router_breaker_state{replica="teacher"}') == 0


def test_model_is_not_asked_while_its_breaker_is_open(
    start_gateway: StartGateway, teacher: BackendThread, wait_until: WaitUntil
) -> None:
    gateway = start_gateway(
        teacher_model="fault-500",
        rest=f"{STUDENT}[resilience.breaker]\nconsecutive_failures = 1\nopen_s = 600.0\n[resilience.retries]\nmax_per_request = 0\n",
    )
    assert gateway.post({"model": "teacher", "messages": [{"role": "user", "content": "x"}]}).status_code == 503
    asked = chats(teacher)
    say(gateway)
    (shadow,) = wait_for(gateway, wait_until)
    assert (shadow.status, chats(teacher)) == ("skipped_unavailable", asked)


def test_busy_student_is_not_asked(start_gateway: StartGateway, student: BackendThread, wait_until: WaitUntil) -> None:
    gateway = start_gateway(rest=f"{BOTH}max_student_inflight_requests = 1\n")

    def meanwhile() -> bool:
        if chats(student) == 0:
            return False
        say(gateway, model="teacher")
        (shadow,) = wait_for(gateway, wait_until)
        assert (shadow.asked, shadow.status, chats(student)) == ("student", "skipped_load", 1)
        return True

    leave_during(gateway, "[[fault-hang]]", after=None, once=meanwhile)


def test_budget_of_the_day_ends_the_asking(
    start_gateway: StartGateway, teacher: BackendThread, wait_until: WaitUntil
) -> None:
    gateway = start_gateway(rest=f"{STUDENT}budget_usd_per_day = 0.3\nmax_concurrency = 1\n")
    dear = "[[fake-prompt-tokens-100000-tokens-0]]"  # 0.25 USD at the teacher
    for _ in range(4):
        say(gateway, dear, max_tokens=10)
    found = wait_for(gateway, wait_until, 4)
    assert sorted(shadow.status for shadow in found) == ["ok", "ok", "skipped_budget", "skipped_budget"]
    assert chats(teacher) == 2
    assert gateway.metric('router_shadow_cost_usd_total{asked="teacher"}') == pytest.approx(0.5)


def test_draft_of_a_cascade_is_the_students_answer_and_is_not_asked_for_again(
    start_gateway: StartGateway, student: BackendThread, wait_until: WaitUntil
) -> None:
    gateway = start_gateway(rest=f'{BOTH}{EXACT}[[routing.policies]]\ntype = "cascade"\nescalate_truncated = true\n')
    say(gateway, "[[fake-tokens-20]]", max_tokens=3)
    (shadow,) = wait_for(gateway, wait_until)
    (record,) = gateway.records()
    assert record.draft is not None
    assert record.route == "teacher"
    assert (shadow.asked, shadow.status, shadow.completion) == ("student", "ok", record.draft.text)
    assert (shadow.cost_usd, shadow.predicted) == (0.0, 1.0)
    assert chats(student) == 1


def test_grades_feed_the_sums_that_quality_is_estimated_from(
    start_gateway: StartGateway, wait_until: WaitUntil
) -> None:
    gateway = start_gateway(rest=f"[quality.shadow]\nstudent_share = 1.0\n{EXACT}")
    say(gateway, "[[fake-echo]] forty-two")
    say(gateway)  # the fake teacher's words are its own
    found = wait_for(gateway, wait_until, 2)
    grades = [shadow.grades[0] for shadow in found]
    assert {grade.grader for grade in grades} == {"exact/teacher"}
    assert {grade.teacher for grade in grades} == {1.0}
    assert sum(grade.student or 0.0 for grade in grades) >= 1.0
    moment = 'router_quality_moments_total{{delivered="{}",moment="{}",route="{}",source="shadow"}}'.format
    assert gateway.metric(moment("yes", "n", "student")) == 2
    assert gateway.metric(moment("no", "w", "teacher")) == 2
    assert gateway.metric(moment("no", "n", "student")) == gateway.metric(moment("yes", "n", "teacher")) == 0
    assert gateway.metric(moment("yes", "ws", "student")) == sum(grade.student or 0.0 for grade in grades)
