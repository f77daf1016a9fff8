"""The cascade in full, through the gateway: what is measured of a draft, what is checked, and what is recorded of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from loadtests.fake_backend import BackendThread
from policies import artefact
from policies.chain import PolicyChain
from policies.registry import build_all
from policies.scoring.models import Linear
from policies.scoring.text import SCHEMA as SCHEMA_OF_TEXTS
from tests.contract.conftest import RunningGateway, StartGateway
from tests.contract.drafts import BAND, HI, UNSURE, Start, ask, cascades, chosen, draft_of, signals_of
from tests.contract.scripted import Says, scripted
from tests.contract.test_cascade import the_record
from tests.policies.scoring.building import TRAINING, artefact_of, dense, lexical

SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
TOOLS = [{"type": "function", "function": {"name": "weather", "parameters": SCHEMA}}]
ALLOWED = {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": []}}
OPTIONS = [{"role": "user", "content": "Which is a fruit?\nA) stone\nB) apple\nAnswer with the letter."}]


@pytest.fixture
def start(start_gateway: StartGateway, tmp_path: Path) -> Iterator[Start]:
    with cascades(start_gateway, tmp_path) as begin:
        yield begin


@pytest.mark.parametrize("streamed", [False, True])
def test_spread_of_a_draft_is_recorded_and_hidden_from_the_client(start: Start, streamed: bool) -> None:
    gateway, student = start(Says("four words of text"), options="top_logprobs = 3")
    response = ask(gateway, stream=streamed)
    assert chosen(response)[0] == "student"
    assert (student.received[0]["logprobs"], student.received[0]["top_logprobs"]) == (True, 3)
    assert "-2.1" not in response.text
    signals = signals_of(gateway)
    assert signals.mean_logprob == signals.min_logprob == signals.logprob_q10 == pytest.approx(-0.1)
    assert signals.mean_margin == signals.min_margin == pytest.approx(2.0)
    assert signals.mean_entropy is not None and 0.2 < signals.mean_entropy < 0.5
    assert (signals.tokens, signals.failed, signals.agreement) == (4, (), None)


def test_alternatives_are_not_asked_for_when_no_reviewer_needs_them(start: Start) -> None:
    gateway, student = start()
    ask(gateway)
    assert student.received[0]["logprobs"] is True
    assert "top_logprobs" not in student.received[0]
    assert signals_of(gateway).mean_margin is None


def test_logprobs_of_the_clients_own_come_as_it_asked_for_them(start: Start) -> None:
    gateway, student = start(options="top_logprobs = 3")
    answer = gateway.client().chat.completions.create(model="auto", messages=HI, logprobs=True)  # type: ignore[arg-type]
    assert "top_logprobs" not in student.received[0]
    assert answer.choices[0].logprobs is not None
    assert [each.logprob for each in answer.choices[0].logprobs.content or ()] == [-0.1]
    assert signals_of(gateway).min_logprob == pytest.approx(-0.1)


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize(
    ("says", "asked", "reason"),
    [
        (Says(""), {}, "empty_answer"),
        (Says(None, reasoning="Let me think"), {}, "empty_answer"),
        (Says("half an", finish_reason="length"), {}, "truncated"),
        (Says("I'm sorry, but I can't help with that."), {}, "refused"),
        (Says("Bern"), {"response_format": {"type": "json_object"}}, "broken_json"),
        (
            Says('{"city": 3}'),
            {"response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": SCHEMA}}},
            "broken_json",
        ),
        (Says(None, calls=[("weather", '{"city": 3}')], finish_reason="tool_calls"), {"tools": TOOLS}, "broken_tool_call"),
        (Says(None, calls=[("time", "{}")], finish_reason="tool_calls"), {"tools": TOOLS}, "broken_tool_call"),
        (Says("I like apples"), {"messages": OPTIONS}, "other_form"),
    ],
)  # fmt: skip
def test_draft_that_is_no_answer_goes_to_the_teacher(
    start: Start, says: Says, asked: dict[str, Any], reason: str, streamed: bool
) -> None:
    gateway, _ = start(says, options="commit_window_tokens = 64")
    response = ask(gateway, stream=streamed, **asked)
    assert chosen(response) == ("teacher", reason)
    failed = signals_of(gateway).failed
    assert failed is not None and reason in failed
    assert gateway.metric(f'router_escalations_total{{policy="cascade",reason="{reason}"}}') == 1


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize(
    ("says", "asked"),
    [
        (Says("half an", finish_reason="length"), {"max_tokens": 2}),
        (Says('{"city": "Bern"}'), {"response_format": {"type": "json_object"}}),
        (Says(None, calls=[("weather", '{"city": "Bern"}')], finish_reason="tool_calls"), {"tools": TOOLS}),
        (Says("The answer is (B)."), {"messages": OPTIONS}),
        (Says("Bern"), {"tools": TOOLS, "tool_choice": ALLOWED}),
    ],
)
def test_draft_that_is_an_answer_stays(start: Start, says: Says, asked: dict[str, Any], streamed: bool) -> None:
    gateway, _ = start(says, options="commit_window_tokens = 64")
    assert chosen(ask(gateway, stream=streamed, **asked))[0] == "student"
    assert signals_of(gateway).failed == ()


def test_call_that_comes_in_pieces_is_put_together(start: Start) -> None:
    gateway, _ = start(
        Says(None, calls=[("weather", '{"city": "Bern"}'), ("weather", "{")], finish_reason="tool_calls")
    )
    assert chosen(ask(gateway, stream=True, tools=TOOLS)) == ("teacher", "broken_tool_call")


def test_longer_stream_is_checked_by_its_beginning_only(start: Start) -> None:
    says = Says(" ".join(["word"] * 12), UNSURE, gap_s=0.01)
    gateway, student = start(says, options=f"commit_window_tokens = 4\n{BAND}")
    response = ask(gateway, stream=True, messages=OPTIONS)
    assert response.headers["x-router-route"] == "student"
    draft = draft_of(gateway)
    assert draft.prefix
    assert draft.signals is not None and draft.signals.failed == ()
    assert len(student.received) == 1  # nor is it sampled again


def test_stated_confidence_is_recorded_for_a_model(start: Start) -> None:
    gateway, _ = start(Says("B\nConfidence: 80%"), options="confidence_pattern = 'confidence:\\s*(\\d+%)'")
    ask(gateway)
    assert signals_of(gateway).stated_confidence == pytest.approx(0.8)


def test_official_client_gets_parsed_output_from_whoever_can_write_it(start: Start) -> None:
    gateway, _ = start(Says("Bern, I think"))
    answer = gateway.client().chat.completions.with_raw_response.create(
        model="auto",
        messages=HI,  # type: ignore[arg-type]
        response_format={"type": "json_object"},
    )
    assert answer.headers["x-router-reason"] == "broken_json"
    assert answer.parse().choices[0].message.content


def reviewed(gateway: RunningGateway) -> PolicyChain:
    """The chain of the gateway's document, built anew, as a replay builds it."""
    built = build_all(gateway.config.routing.policies)
    return PolicyChain(
        built.policies, reviewers=built.reviewers, version="replay", default_route="student", on_policy_error="teacher"
    )


@pytest.mark.parametrize("store", [True, False])
def test_recorded_draft_replays_to_the_same_decision(start: Start, store: bool) -> None:
    script = [
        Says("card lost", UNSURE), Says("refund"), Says("card lost", UNSURE), Says("card lost"), Says(""),
        Says("sure", -0.1), Says("unsure", -4.0), Says("I'm sorry, I can't help with that."),
    ]  # fmt: skip
    gateway, _ = start(*script, options=BAND)
    for _ in range(6):
        ask(gateway, store=store)
    chain = reviewed(gateway)
    reasons = []
    for record in gateway.records():
        assert record.features is not None and record.draft is not None
        assert (record.draft.text is not None) is store
        decision, votes = chain.review(record.features, record.draft)
        assert votes[-1] == record.votes[-1]
        assert (decision is not None) is record.draft.escalated
        reasons.append(votes[-1].reason)
    assert reasons == ["low_confidence", "confident", "empty_answer", "confident", "low_confidence", "refused"]


def test_draft_of_a_request_without_reviewers_is_not_measured(start: Start, student: BackendThread) -> None:
    gateway, scripted_student = start(rest="")
    ask(gateway)
    assert "logprobs" not in scripted_student.received[0]
    assert the_record(gateway).draft is None
    assert msgspec.json.decode(msgspec.json.encode(the_record(gateway))).get("draft") is None


def test_score_of_a_model_is_recorded_so_that_no_text_is_needed_later(
    start_gateway: StartGateway, tmp_path: Path
) -> None:
    linear = Linear(intercept=-2.0, dense={"min_logprob": dense(-1.0)}, lexical=lexical({"words": {"prove": 8.0}}))
    made = artefact_of(linear, use="draft", inputs=("min_logprob",), text_schema=SCHEMA_OF_TEXTS)
    sha256 = artefact.write(tmp_path / "model.json", made)
    table = f'[[routing.policies]]\ntype = "cascade"\nmodel = {str(tmp_path / "model.json")!r}\nthreshold = 0.5'
    with scripted() as student:
        gateway = start_gateway(student_url=student.base_url, rest=table)
        hard = [{"role": "user", "content": "prove it"}]
        assert chosen(ask(gateway, messages=hard, store=False)) == ("teacher", "low_confidence")
        assert chosen(ask(gateway, store=False))[0] == "student"
    chain = reviewed(gateway)
    for record in gateway.records():
        assert record.features is not None and record.draft is not None and record.draft.signals is not None
        assert record.features.last_user_turn == ""
        assert record.draft.signals.scored_by == sha256
        assert chain.review(record.features, record.draft)[1][-1] == record.votes[-1]


def test_model_of_another_student_has_no_opinion_on_this_one(start_gateway: StartGateway, tmp_path: Path) -> None:
    training = msgspec.structs.replace(TRAINING, student="another")
    made = artefact_of(Linear(intercept=5.0), use="draft", training=training)
    artefact.write(tmp_path / "model.json", made)
    table = f'[[routing.policies]]\ntype = "cascade"\nmodel = {str(tmp_path / "model.json")!r}\nthreshold = 0.5'
    with scripted() as student:
        gateway = start_gateway(student_url=student.base_url, rest=table)
        assert chosen(ask(gateway))[0] == "student"
    assert the_record(gateway).votes[-1].reason == "other_student"
