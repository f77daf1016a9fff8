"""Commit, extend or escalate: what the reviewers of a stream may say, and what it does to both models and the client."""

from __future__ import annotations

import pytest

from loadtests.fake_backend import BackendThread
from tests.contract.conftest import RunningGateway, StartGateway, chats
from tests.contract.test_cascade import the_record
from tests.contract.test_disconnect import WaitUntil, leave
from tests.contract.windows import (
    SURE,
    WEAK,
    WORDS,
    StartCascade,
    direct,
    draft_of,
    reviewer,
    starting,
    stream,
    text_of,
)


@pytest.fixture
def start_cascade(start_gateway: StartGateway) -> StartCascade:
    return starting(start_gateway)


def reviews_of(gateway: RunningGateway) -> list[tuple[int, str]]:
    return [(each.tokens, each.action) for each in draft_of(gateway).window.reviews]


def test_window_doubles_until_its_maximum_while_the_reviewer_hesitates(
    start_cascade: StartCascade, student: BackendThread
) -> None:
    model = f"{SURE}-fixed-gap-0.01"
    gateway = start_cascade(model, rest=reviewer("Hesitant", tokens=2, max_tokens=8))
    response = stream(gateway)
    assert response.content == direct(student, model)
    assert reviews_of(gateway) == [(2, "extend"), (4, "extend"), (8, "commit")]
    draft = draft_of(gateway)
    assert (draft.prefix, draft.extendable, draft.tokens) == (True, False, 8)
    held = [each.held_s for each in draft.window.reviews]
    assert held == sorted(held) and draft.window.held_s == held[-1]
    assert draft.window.reviews[0].policy == "hesitant" and draft.window.reviews[0].reason == "hesitates"
    record = the_record(gateway)
    assert [vote.reason for vote in record.votes] == ["sure"]  # the one that decided
    assert record.ttft_s is not None and record.ttft_s >= 0.06


@pytest.mark.parametrize(("model", "route"), [(SURE, "student"), (WEAK, "teacher")])
def test_last_review_decides_when_the_reviewer_knows_before_the_maximum(
    start_cascade: StartCascade, model: str, route: str
) -> None:
    gateway = start_cascade(f"{model}-gap-0.01", rest=reviewer("Hesitant", tokens=2, max_tokens=64, until=4))
    assert stream(gateway).headers["x-router-route"] == route
    last = "commit" if route == "student" else "escalate"
    assert reviews_of(gateway) == [(2, "extend"), (4, last)]
    assert draft_of(gateway).extendable


def test_answer_that_ends_while_the_window_grows_is_judged_as_a_whole(start_cascade: StartCascade) -> None:
    gateway = start_cascade("fake-tokens-5-gap-0.01", rest=reviewer("Hesitant", tokens=2, max_tokens=64))
    assert text_of(stream(gateway)) == "".join(WORDS[:5])
    assert [action for _, action in reviews_of(gateway)] == ["extend", "extend", "commit"]
    draft = draft_of(gateway)
    assert (draft.prefix, draft.extendable, draft.finish_reason) == (False, False, "stop")


def test_slow_student_is_judged_at_the_time_bounds(start_cascade: StartCascade) -> None:
    rest = reviewer("Hesitant", tokens=50, max_tokens=400, time_s=0.2, max_time_s=0.5)
    gateway = start_cascade("fake-gap-0.04-tokens-400-logprob-2.5", rest=rest)
    assert stream(gateway).headers["x-router-route"] == "teacher"
    held = draft_of(gateway).window
    assert [each.action for each in held.reviews] == ["extend", "extend", "extend", "escalate"]
    assert all(each.tokens < 50 for each in held.reviews)
    assert held.held_s < 2.0


def test_hesitation_about_a_plain_answer_is_an_abstention(start_cascade: StartCascade) -> None:
    gateway = start_cascade(SURE, rest=reviewer("Hesitant"))
    answer = gateway.post({"model": "auto", "messages": [{"role": "user", "content": "hi"}]})
    assert answer.headers["x-router-route"] == "student"
    assert draft_of(gateway).window is None


def test_student_is_cancelled_before_the_teacher_has_said_anything(
    start_cascade: StartCascade, student: BackendThread, teacher: BackendThread, wait_until: WaitUntil
) -> None:
    gateway = start_cascade(f"{WEAK}-gap-0.05-tokens-400", "fake-delay-30")
    leave(gateway, {"stream": True}, after=None, once=lambda: student.state.aborted == 1)
    assert chats(teacher) == 1
    wait_until(lambda: [record.outcome for record in gateway.records()] == ["client_disconnected"])
    draft = draft_of(gateway)
    assert draft.usage.completion_tokens < 20  # what it would have written in the teacher's 30 s is saved
    wait_until(lambda: student.state.in_flight == teacher.state.in_flight == 0)


def test_answer_that_ended_within_the_window_is_delivered_when_no_teacher_can_be_had(
    start_cascade: StartCascade, student: BackendThread
) -> None:
    gateway = start_cascade("fake-tokens-3-logprob-2.5-fixed", "fault-500")
    response = stream(gateway)
    assert response.headers["x-router-degraded"] == "teacher_unavailable"
    assert chats(student) == 1
    assert response.content == direct(student, "fake-tokens-3-logprob-2.5-fixed")
    assert not draft_of(gateway).thrown_away


def test_stream_ends_in_an_error_when_the_student_breaks_after_it_was_asked_again(
    start_cascade: StartCascade, student: BackendThread
) -> None:
    gateway = start_cascade("fault-reset-mid-9-gap-0.02-tokens-40-logprob-2.5", "fault-500")
    response = stream(gateway)
    assert chats(student) == 2
    assert text_of(response) == "".join(WORDS[:9])
    assert '"error"' in response.text and "[DONE]" not in response.text
    record = the_record(gateway)
    assert (record.outcome, record.route) == ("backend_error", "student")


def test_client_that_leaves_while_the_student_is_asked_again_cancels_it(
    start_cascade: StartCascade, student: BackendThread, wait_until: WaitUntil
) -> None:
    gateway = start_cascade(f"{WEAK}-gap-0.1-tokens-400", "fault-500")
    leave(gateway, {"stream": True}, after=b'"content":"', once=lambda: chats(student) == 2)
    wait_until(lambda: student.state.aborted == 2)
    wait_until(lambda: [record.outcome for record in gateway.records()] == ["client_disconnected"])
    assert draft_of(gateway).thrown_away


def test_heartbeats_go_on_while_the_window_grows(start_cascade: StartCascade) -> None:
    rest = reviewer("Hesitant", tokens=2, max_tokens=8)
    gateway = start_cascade(f"{SURE}-gap-0.1", rest=rest, server="heartbeat_interval_s = 0.05")
    response = stream(gateway)
    assert response.text.startswith(": waiting for the answer\n\n")
    assert response.text.count("data: [DONE]") == 1
    assert text_of(response) == "".join(WORDS)
