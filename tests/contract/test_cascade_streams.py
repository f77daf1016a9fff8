"""The beginning of the student's stream is reviewed before the client sees anything; the client gets one stream."""

from __future__ import annotations

import itertools
import json
from typing import Any

import anthropic
import httpx
import openai
import pytest

from loadtests.fake_backend import BackendThread
from tests.contract.conftest import StartGateway, chats
from tests.contract.test_cascade import DOUBTER, the_record
from tests.contract.test_disconnect import WaitUntil
from tests.contract.windows import (
    DONE,
    HI,
    RESERVE,
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


SHAPES = ["", "-extra", "-crlf", "-split", "-merge", "-calls-2"]
# A comment before the usage frame stays where the frame itself is cut out.
USAGE_ASKED = [*((shape, False) for shape in SHAPES), *((shape, True) for shape in [*SHAPES, "-heartbeat", "-odd"])]


@pytest.mark.parametrize(("shape", "usage"), USAGE_ASKED)
def test_accepted_stream_is_byte_for_byte_the_students_own(
    start_cascade: StartCascade, student: BackendThread, teacher: BackendThread, shape: str, usage: bool
) -> None:
    model = f"{SURE}-fixed{shape}"
    gateway = start_cascade(model)
    members: dict[str, object] = {"stream_options": {"include_usage": True}} if usage else {}
    response = stream(gateway, **members)
    assert asked(student)["logprobs"] is True
    assert b'"logprob":-0.5' in b"".join(student.state.received[-1].response)
    assert response.content == direct(student, model, **members)
    headers = response.headers
    assert (headers["x-router-route"], headers["x-router-reason"]) == ("student", "default")
    assert chats(teacher) == 0


def test_rejected_stream_is_replaced_by_the_teachers(
    start_cascade: StartCascade, student: BackendThread, teacher: BackendThread, wait_until: WaitUntil
) -> None:
    gateway = start_cascade(f"{WEAK}-gap-0.05-tokens-400", "fake-fixed")
    response = stream(gateway)
    assert response.content == direct(teacher, "fake-fixed")
    headers = response.headers
    assert (headers["x-router-route"], headers["x-router-reason"]) == ("teacher", "doubtful")
    assert headers["x-router-policy"] == "early_doubter"
    assert "x-router-degraded" not in headers
    assert "logprobs" not in json.loads(teacher.state.received[-2].body)
    wait_until(lambda: student.state.aborted == 1)


def test_record_of_an_escalated_stream_holds_the_draft_and_its_cost(start_cascade: StartCascade) -> None:
    gateway = start_cascade(f"{WEAK}-gap-0.02-tokens-400", "fake")
    stream(gateway)
    record = the_record(gateway)
    assert (record.route, record.reason, record.outcome, record.stream) == ("teacher", "doubtful", "ok", True)
    assert record.completion == "".join(WORDS[:8])
    assert record.mean_logprob is None
    draft = draft_of(gateway)
    assert (draft.escalated, draft.prefix, draft.finish_reason) == (True, True, None)
    assert draft.text == "".join(WORDS[: draft.tokens])
    assert 4 <= draft.tokens < 400
    assert draft.mean_logprob == pytest.approx(-2.5)
    assert draft.review.policy == record.votes[-1].policy == "early_doubter"
    assert draft.usage.completion_tokens >= draft.tokens
    assert record.cost_usd == pytest.approx(draft.cost_usd + record.counterfactual_cost_usd)
    assert gateway.metric('router_escalations_total{policy="early_doubter",reason="doubtful"}') == 1
    assert gateway.metric('router_tokens_total{direction="output",route="student"}') == draft.usage.completion_tokens
    assert gateway.metric('router_tokens_total{direction="output",route="teacher"}') == 8


def test_what_the_student_writes_until_the_teacher_begins_is_counted_with_the_draft(
    start_cascade: StartCascade,
) -> None:
    gateway = start_cascade(f"{WEAK}-gap-0.02-tokens-400", "fake-delay-0.8", rest=RESERVE)
    stream(gateway)
    draft = draft_of(gateway)
    assert draft.tokens < 40
    assert draft.tokens + 5 < draft.usage.completion_tokens < 400


def test_usage_of_a_rejected_draft_is_the_backends_when_it_has_ended_meanwhile(start_cascade: StartCascade) -> None:
    gateway = start_cascade(f"{WEAK}-tokens-40-prompt-tokens-900-gap-0.001", "fake-delay-1", rest=RESERVE)
    stream(gateway)
    draft = draft_of(gateway)
    assert (draft.prefix, draft.finish_reason) == (True, None)
    assert (draft.usage.prompt_tokens, draft.usage.completion_tokens) == (900, 40)


def test_record_of_an_accepted_stream_holds_the_prefix_and_the_whole_answers_mean(start_cascade: StartCascade) -> None:
    gateway = start_cascade(f"{SURE}-gap-0.01")
    assert text_of(stream(gateway)) == "".join(WORDS)
    record = the_record(gateway)
    draft = draft_of(gateway)
    assert (draft.escalated, draft.review, draft.prefix) == (False, None, True)
    assert record.completion == "".join(WORDS)
    assert record.completion.startswith(draft.text)
    assert record.mean_logprob == pytest.approx(-0.5)
    assert record.usage is not None
    assert record.usage.completion_tokens == 12
    assert record.cost_usd is not None
    assert [(vote.policy, vote.reason) for vote in record.votes] == [("early_doubter", "sure")]


def test_answer_that_ends_within_the_window_is_judged_as_a_whole(
    start_cascade: StartCascade, student: BackendThread
) -> None:
    gateway = start_cascade(f"{WEAK}-fixed", rest=window(tokens=500))
    assert text_of(stream(gateway)) == "".join(WORDS[:8])
    draft = draft_of(gateway)
    assert (draft.prefix, draft.finish_reason, draft.tokens, draft.text) == (False, "stop", 12, "".join(WORDS))
    assert draft.usage.completion_tokens == 12
    assert student.state.aborted == 0


@pytest.mark.parametrize("end", ["", "-finish-length", "fault-no-done"])
def test_whole_stream_within_the_window_is_passed_on_complete(
    start_cascade: StartCascade, student: BackendThread, end: str
) -> None:
    model = f"{end}-{SURE}-fixed" if end.startswith("fault") else f"{SURE}-fixed{end}"
    gateway = start_cascade(model, rest=window(tokens=500))
    response = stream(gateway)
    assert response.content == direct(student, model) + (DONE if end.startswith("fault") else b"")
    assert not draft_of(gateway).prefix


def test_window_closes_by_time_when_the_student_is_slow(start_cascade: StartCascade) -> None:
    gateway = start_cascade("fake-gap-0.05-tokens-400-logprob-2.5", rest=window(tokens=1000, time_s=0.3))
    assert stream(gateway).headers["x-router-route"] == "teacher"
    draft = draft_of(gateway)
    assert draft.prefix
    assert 1 <= draft.tokens < 100


def test_logprobs_that_the_client_asked_for_are_untouched(start_cascade: StartCascade, student: BackendThread) -> None:
    gateway = start_cascade(f"{SURE}-fixed")
    response = stream(gateway, logprobs=True, top_logprobs=1)
    assert b'"logprob":-0.5' in response.content
    assert response.content == direct(student, f"{SURE}-fixed", logprobs=True, top_logprobs=1)
    assert draft_of(gateway).mean_logprob == pytest.approx(-0.5)


def test_clients_own_logprobs_come_from_the_teacher_after_an_escalation(
    start_cascade: StartCascade, teacher: BackendThread
) -> None:
    gateway = start_cascade(WEAK, "fake-fixed")
    response = stream(gateway, logprobs=True)
    assert response.content == direct(teacher, "fake-fixed", logprobs=True)


@pytest.mark.parametrize(
    ("members", "rest"),
    [
        ({"n": 2}, window()),
        ({"model": "student"}, window()),
        ({}, DOUBTER),  # it has no window
        ({}, '[[routing.policies]]\ntype = "cascade"\ncommit_window_tokens = 0'),
    ],
)
def test_other_streams_go_out_at_once(
    start_cascade: StartCascade, student: BackendThread, members: dict[str, object], rest: str
) -> None:
    gateway = start_cascade(f"{WEAK}-gap-0.02", rest=rest)
    assert stream(gateway, **members).headers["x-router-route"] == "student"
    assert "logprobs" not in asked(student)
    record = the_record(gateway)
    assert (record.draft, record.mean_logprob) == (None, None)


def test_text_completions_are_not_reviewed(start_cascade: StartCascade, student: BackendThread) -> None:
    gateway = start_cascade(WEAK)
    body = {"model": "auto", "prompt": "hi", "stream": True}
    response = httpx.post(f"{gateway.origin}/v1/completions", json=body, timeout=20)
    assert response.headers["x-router-route"] == "student"
    assert "logprobs" not in asked(student)


def test_student_that_stands_in_for_the_teacher_is_not_reviewed(start_cascade: StartCascade) -> None:
    gateway = start_cascade(WEAK, "fault-500", rest='[routing]\ndefault_route = "teacher"\n' + window())
    assert stream(gateway).headers["x-router-degraded"] == "teacher_unavailable"
    assert the_record(gateway).draft is None


def test_first_token_is_counted_when_the_client_gets_it(start_cascade: StartCascade) -> None:
    gateway = start_cascade(f"{SURE}-gap-0.05", rest=window(tokens=8))
    stream(gateway)
    record = the_record(gateway)
    assert record.ttft_s is not None
    assert record.ttft_s >= 0.35


def test_explain_shows_the_review(start_cascade: StartCascade) -> None:
    gateway = start_cascade(WEAK)
    explained = json.loads(stream(gateway, router={"explain": True}).headers["x-router-explain"])
    assert explained["review"]["policy"] == "early_doubter"
    assert explained["votes"][-1]["reason"] == "doubtful"


def test_draft_text_is_not_kept_below_full(start_cascade: StartCascade) -> None:
    gateway = start_cascade(WEAK)
    stream(gateway, store=False)
    assert draft_of(gateway).text is None


@pytest.mark.parametrize(("student_model", "route"), [(SURE, "student"), (WEAK, "teacher")])
def test_openai_client_reads_the_one_stream(start_cascade: StartCascade, student_model: str, route: str) -> None:
    gateway = start_cascade(f"{student_model}-gap-0.01")
    with gateway.client() as client:
        raw = client.chat.completions.with_raw_response.create(model="auto", messages=HI, stream=True)  # type: ignore[call-overload]
        assert raw.headers["x-router-route"] == route
        chunks: openai.Stream[Any] = raw.parse()
        text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == "".join(WORDS[: 12 if route == "student" else 8])


@pytest.mark.parametrize(("student_model", "route"), [(SURE, "student"), (WEAK, "teacher")])
def test_anthropic_client_reads_the_one_stream(start_cascade: StartCascade, student_model: str, route: str) -> None:
    gateway = start_cascade(f"{student_model}-gap-0.01")
    client = anthropic.Anthropic(base_url=gateway.origin, api_key="unused-key", max_retries=0, timeout=20)
    asked_for: Any = {"model": "auto", "max_tokens": 100, "messages": HI}
    with client, client.messages.stream(**asked_for) as events:
        text = "".join(events.text_stream)
        message = events.get_final_message()
    assert (text, message.stop_reason) == ("".join(WORDS[: 12 if route == "student" else 8]), "end_turn")
    record = the_record(gateway)
    assert (record.endpoint, record.route) == ("/v1/messages", route)
    assert draft_of(gateway).escalated is (route == "teacher")


@pytest.mark.parametrize(("student_model", "route"), [(SURE, "student"), (WEAK, "teacher")])
def test_responses_stream_shows_no_logprobs_that_nobody_asked_for(
    start_cascade: StartCascade, student_model: str, route: str
) -> None:
    gateway = start_cascade(f"{student_model}-gap-0.01")
    with gateway.client() as client, client.responses.stream(model="auto", input="hi") as events:
        seen = list(events)
    deltas = [event for event in seen if event.type == "response.output_text.delta"]
    assert "".join(event.delta for event in deltas) == "".join(WORDS[: 12 if route == "student" else 8])
    assert list(itertools.chain.from_iterable(event.logprobs for event in deltas)) == []
    assert the_record(gateway).route == route
