"""What fails while the beginning of a stream is held back: the client still gets one answer, and nobody works in vain."""

from __future__ import annotations

import pytest

from loadtests.fake_backend import BackendThread
from router.draft_stream import MAX_HELD_BYTES
from tests.contract.conftest import StartGateway, chats
from tests.contract.test_cascade import the_record
from tests.contract.test_disconnect import WaitUntil, leave
from tests.contract.windows import (
    SURE,
    WEAK,
    WORDS,
    StartCascade,
    asked,
    direct,
    draft_of,
    starting,
    stream,
    text_of,
    window,
)


@pytest.fixture
def start_cascade(start_gateway: StartGateway) -> StartCascade:
    return starting(start_gateway)


@pytest.mark.parametrize(
    ("teacher_model", "cause", "gap", "on_escalation"),
    [
        ("fault-500", "server_error", "", "reserve"),
        ("fault-reset", "disconnected", "", "reserve"),
        ("fault-error-frame", "stream_error", "", "reserve"),
        ("fault-422", "refused", "", "reserve"),
        ("fault-hang", "timeout", "", "reserve"),
        ("fault-garbage", "invalid_response", "", "reserve"),
        ("fault-500", "server_error", "-gap-0.01", "reserve"),  # the draft is still coming when the teacher has failed
        ("fault-hang", "timeout", "-gap-0.01", "reserve"),
        ("fault-reset", "disconnected", "-gap-0.01", "cancel"),
        ("fault-error-frame", "stream_error", "-gap-0.01", "cancel"),
        ("fault-422", "refused", "-gap-0.01", "cancel"),
        ("fault-hang", "timeout", "-gap-0.01", "cancel"),
    ],
)
def test_students_whole_stream_is_delivered_once_when_no_teacher_can_be_had(
    start_cascade: StartCascade, student: BackendThread, teacher_model: str, cause: str, gap: str, on_escalation: str
) -> None:
    model = f"{WEAK}-tokens-40-fixed{gap}"
    gateway = start_cascade(
        model, teacher_model, teacher="first_token_timeout_s = 0.4", rest=window(on_escalation=on_escalation)
    )
    response = stream(gateway)
    assert chats(student) == (1 if on_escalation == "reserve" else 2)
    assert response.content == direct(student, model)
    headers = response.headers
    assert (headers["x-router-route"], headers["x-router-reason"]) == ("student", f"fallback_{cause}")
    assert headers["x-router-degraded"] == "teacher_unavailable"
    record = the_record(gateway)
    assert (record.outcome, record.fallback_cause, record.route) == ("degraded", cause, "student")
    draft = draft_of(gateway)
    assert draft.escalated
    assert record.usage is not None
    assert record.usage.completion_tokens == 40
    assert record.cost_usd is not None
    assert draft.window.asked_again is (on_escalation == "cancel")
    students_usd = gateway.metric('router_cost_usd_total{route="student"}')
    assert students_usd == pytest.approx(record.cost_usd)
    answer_usd = (record.usage.prompt_tokens * 0.02 + 40 * 0.04) / 1e6
    assert record.cost_usd == pytest.approx(answer_usd + (draft.cost_usd if on_escalation == "cancel" else 0.0))
    assert gateway.metric(f'router_fallbacks_total{{cause="{cause}"}}') == 1


def test_student_that_refuses_logprobs_is_asked_without(start_cascade: StartCascade, student: BackendThread) -> None:
    gateway = start_cascade("fault-422-times-1-fixed")
    response = stream(gateway)
    assert response.headers["x-router-route"] == "student"
    assert chats(student) == 2
    assert "logprobs" not in asked(student)
    record = the_record(gateway)
    assert record.votes[-1].reason == "no_logprobs"
    assert draft_of(gateway).tokens >= 4


@pytest.mark.parametrize(
    ("student_model", "cause"),
    [
        ("fault-reset-mid-3", "disconnected"), ("fault-cut-3", "disconnected"),
        ("fault-error-frame-mid-3", "stream_error"), ("fault-hang-mid-3", "timeout"),
    ],
)  # fmt: skip
def test_student_that_breaks_within_the_window_is_an_ordinary_fall_back(
    start_cascade: StartCascade, teacher: BackendThread, student_model: str, cause: str
) -> None:
    gateway = start_cascade(
        f"{student_model}-logprob-0.5", "fake-fixed", rest=window(tokens=8), student="idle_timeout_s = 0.3"
    )
    response = stream(gateway)
    assert response.content == direct(teacher, "fake-fixed")
    assert (response.headers["x-router-route"], response.headers["x-router-reason"]) == ("teacher", f"fallback_{cause}")
    record = the_record(gateway)
    assert (record.outcome, record.draft) == ("ok", None)


def test_stream_that_breaks_behind_the_window_ends_in_an_error(start_cascade: StartCascade) -> None:
    gateway = start_cascade("fault-reset-mid-9-logprob-0.5-tokens-20-gap-0.01")
    response = stream(gateway)
    assert text_of(response) == "".join(WORDS[:9])
    assert '"error"' in response.text and "[DONE]" not in response.text
    assert the_record(gateway).outcome == "backend_error"


@pytest.mark.parametrize("phase", ["window", "teacher"])
def test_both_calls_are_cancelled_when_the_client_leaves(
    start_cascade: StartCascade, student: BackendThread, teacher: BackendThread, wait_until: WaitUntil, phase: str
) -> None:
    slow = "fake-gap-0.05-tokens-400-logprob-2.5"
    gateway = start_cascade(slow, "fault-hang", rest=window(tokens=300 if phase == "window" else 2, time_s=50.0))
    busy = student if phase == "window" else teacher
    leave(gateway, {"stream": True}, after=None, once=lambda: busy.state.in_flight == 1)
    wait_until(lambda: student.state.aborted == 1)
    wait_until(lambda: teacher.state.aborted == (phase == "teacher"))
    wait_until(lambda: [record.outcome for record in gateway.records()] == ["client_disconnected"])
    record = the_record(gateway)
    assert (record.draft is not None) == (phase == "teacher")
    assert record.completion is None
    wait_until(lambda: gateway.metric("router_inflight_requests") == 0)


def test_deadline_holds_within_the_window(start_cascade: StartCascade) -> None:
    gateway = start_cascade(
        "fake-gap-0.05-tokens-400", rest=window(tokens=1000, time_s=50.0), server="request_timeout_s = 0.6"
    )
    assert stream(gateway).status_code == 504


def test_heartbeats_go_on_within_the_window(start_cascade: StartCascade) -> None:
    gateway = start_cascade(f"{SURE}-gap-0.1", rest=window(tokens=6), server="heartbeat_interval_s = 0.05")
    response = stream(gateway)
    assert response.text.startswith(": waiting for the answer\n\n")
    assert response.headers["x-router-route"] == "pending"
    assert text_of(response) == "".join(WORDS)


def test_streams_after_an_escalation_find_the_student_well(
    start_cascade: StartCascade, student: BackendThread, wait_until: WaitUntil
) -> None:
    gateway = start_cascade(f"{WEAK}-gap-0.01-tokens-200")
    for _ in range(8):  # more than the failures in a row that open a breaker
        stream(gateway)
    wait_until(lambda: student.state.in_flight == 0)
    assert [record.reason for record in gateway.records()] == ["doubtful"] * 8
    assert gateway.metric('router_breaker_state{replica="student"}') == 0


def test_window_closes_when_it_holds_a_mebibyte(start_cascade: StartCascade, student: BackendThread) -> None:
    model = f"{SURE}-wide-200000-gap-0.02-fixed"
    gateway = start_cascade(model, rest=window(tokens=1000, time_s=50.0))
    assert stream(gateway).content == direct(student, model)
    draft = draft_of(gateway)
    assert draft.prefix
    assert MAX_HELD_BYTES <= len(draft.text) + 200_000 < MAX_HELD_BYTES + 4 * 200_000
