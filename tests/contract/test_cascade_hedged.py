"""Hedging beside a commit window: two calls of the student, one of which is a draft, and perhaps two of the teacher."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from loadtests.fake_backend import BackendThread
from router.resilience.hedge import MIN_SAMPLES
from tests.contract.conftest import RunningGateway, StartGateway, chats
from tests.contract.test_disconnect import WaitUntil, leave
from tests.contract.windows import WORDS, stream, text_of, window

HEDGED = "[resilience.hedging]\nenabled = true\nmin_delay_s = 0.5\n"  # a healthy call is quicker on a busy machine too
STUCK_ONCE = "fault-hang-times-1-tokens-40-gap-0.01"


@pytest.fixture
def gateway(start_gateway: StartGateway, student: BackendThread, teacher: BackendThread) -> RunningGateway:
    """It knows already how quick both models are."""
    gateway = start_gateway(rest=HEDGED + window())
    for model in ("auto", "teacher"):
        for _ in range(MIN_SAMPLES):
            stream(gateway, model=model)
    student.state.reset()
    teacher.state.reset()
    return gateway


def saying(directive: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": f"[[{directive}]]"}]


def nothing_is_left(gateway: RunningGateway, student: BackendThread, teacher: BackendThread) -> bool:
    ready: Any = httpx.get(f"{gateway.origin}/readyz").json()
    inflight = [ready[role]["replicas"][0]["inflight_requests"] for role in ("student", "teacher")]
    return inflight == [0, 0] and student.state.in_flight == teacher.state.in_flight == 0


@pytest.mark.parametrize(("logprob", "route"), [("0.5", "student"), ("2.5", "teacher")])
def test_draft_of_the_second_call_is_judged_when_the_first_hangs(
    gateway: RunningGateway,
    student: BackendThread,
    teacher: BackendThread,
    wait_until: WaitUntil,
    logprob: str,
    route: str,
) -> None:
    response = stream(gateway, messages=saying(f"{STUCK_ONCE}-logprob-{logprob}"))
    escalated = route == "teacher"
    assert response.headers["x-router-route"] == route
    assert text_of(response).startswith("".join(WORDS))
    assert (chats(student), chats(teacher)) == (2, 2 if escalated else 0)  # the teacher hangs once as well
    wait_until(lambda: nothing_is_left(gateway, student, teacher))
    assert student.state.aborted >= 1
    assert gateway.metric('router_hedges_total{outcome="won"}') == 1 + escalated
    *_, record = records = gateway.records()
    assert len(records) == 2 * MIN_SAMPLES + 1
    assert record.draft is not None
    assert (record.route, record.draft.escalated, record.outcome) == (route, escalated, "ok")


def test_all_calls_end_when_the_client_leaves_while_two_teachers_are_asked(
    gateway: RunningGateway, student: BackendThread, teacher: BackendThread, wait_until: WaitUntil
) -> None:
    messages = saying("fault-hang-times-2-tokens-400-gap-0.01-logprob-2.5")
    for model, stuck in (("student", student), ("auto", teacher)):  # the first request uses up the student's faults
        body = {"stream": True, "model": model, "messages": messages}
        leave(gateway, body, after=None, once=lambda stuck=stuck: stuck.state.in_flight == 2)
        wait_until(lambda: nothing_is_left(gateway, student, teacher))
    assert (chats(student), chats(teacher)) == (3, 2)
    assert (student.state.aborted, teacher.state.aborted) == (3, 2)
    wait_until(lambda: len(gateway.records()) == 2 * MIN_SAMPLES + 2)
    record = gateway.records()[-1]
    assert record.outcome == "client_disconnected"
    assert record.draft is not None and record.draft.escalated
