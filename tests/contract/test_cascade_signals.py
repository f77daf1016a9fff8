"""The cascade in full, through the gateway: what is measured of a draft, what is checked, and when it is sampled again."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from loadtests.fake_backend import BackendThread
from policies import artefact
from policies.calibration import MEAN_LOGPROB, CalibratorArtefact, Platt
from policies.chain import PolicyChain
from policies.draft_signals import DraftSignal, DraftSignals
from policies.record import Draft
from policies.registry import build_all
from policies.scoring.models import Linear
from policies.scoring.text import SCHEMA as SCHEMA_OF_TEXTS
from tests.contract.conftest import RunningGateway, StartGateway, chats
from tests.contract.scripted import Says, Student, scripted
from tests.contract.test_cascade import the_record
from tests.policies.scoring.building import TRAINING, artefact_of, dense, lexical

HI = [{"role": "user", "content": "hi"}]
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
TOOLS = [{"type": "function", "function": {"name": "weather", "parameters": SCHEMA}}]
OPTIONS = [{"role": "user", "content": "Which is a fruit?\nA) stone\nB) apple\nAnswer with the letter."}]
BAND = "second_sample_band = [0.4, 0.6]"
UNSURE = -1.0
"""The calibrator below says 0.5 here."""

Start = Callable[..., tuple[RunningGateway, Student]]


@pytest.fixture
def start(start_gateway: StartGateway, tmp_path: Path) -> Iterator[Start]:
    """Starts a cascade over a scripted student; the teacher is the fake backend."""
    fitted = CalibratorArtefact(
        calibrator=Platt(slope=2.0, intercept=2.0), raw=MEAN_LOGPROB, source="test", n=9, n_sufficient=5, ece=0.0,
        reliability=(),
    )  # fmt: skip
    artefact.write(tmp_path / "calibrator.json", fitted)
    with ExitStack() as running:

        def begin(*script: Says, options: str = "", **parts: str) -> tuple[RunningGateway, Student]:
            student = running.enter_context(scripted(*script))
            table = f"calibrator = {str(tmp_path / 'calibrator.json')!r}\nthreshold = 0.5\n{options}"
            rest = f'[[routing.policies]]\ntype = "cascade"\n{table}'
            return start_gateway(student_url=student.base_url, **{"rest": rest, **parts}), student

        yield begin


def signals_of(gateway: RunningGateway) -> DraftSignals:
    draft = the_record(gateway).draft
    assert draft is not None and draft.signals is not None
    return draft.signals


def draft_of(gateway: RunningGateway) -> Draft:
    draft = the_record(gateway).draft
    assert draft is not None
    return draft


def chosen(response: httpx.Response) -> tuple[str, str]:
    return response.headers["x-router-route"], response.headers["x-router-reason"]


def ask(gateway: RunningGateway, **members: Any) -> httpx.Response:
    return gateway.post({"model": "auto", "messages": HI, **members})


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


@pytest.mark.parametrize("streamed", [False, True])
def test_second_sample_that_agrees_keeps_an_uncertain_draft(
    start: Start, teacher: BackendThread, streamed: bool
) -> None:
    gateway, student = start(Says("card lost", UNSURE), Says("Card lost.", UNSURE), options=BAND)
    response = ask(gateway, stream=streamed, seed=7, logprobs=True, max_tokens=9)
    assert chosen(response)[0] == "student"
    assert "Card lost." not in response.text
    assert chats(teacher) == 0
    first, second = student.received
    assert second["temperature"] == 0.7
    assert second.get("stream", False) is False
    assert not {"seed", "logprobs", "top_logprobs", "stream_options"} & set(second)
    assert (second["messages"], second["max_tokens"]) == (first["messages"], 9)
    assert signals_of(gateway).agreement == 1.0


def test_second_sample_that_differs_calls_the_teacher_in(start: Start, teacher: BackendThread) -> None:
    gateway, _ = start(Says("card lost", UNSURE), Says("refund"), options=f"{BAND}\nsecond_sample_temperature = 1.0")
    response = ask(gateway, temperature=0)
    assert chosen(response) == ("teacher", "low_confidence")
    draft = draft_of(gateway)
    assert draft.review is not None
    assert draft.review.score == pytest.approx(0.75)
    assert draft.text == "card lost"


def test_cost_of_a_second_sample_is_counted_with_its_draft(start: Start) -> None:
    says = Says("card lost", UNSURE), Says("card lost", UNSURE)
    gateway, _ = start(*says, options=BAND)
    ask(gateway)
    record, draft = the_record(gateway), draft_of(gateway)
    one_usd = (10 * 0.02 + 2 * 0.04) / 1e6
    assert draft.sample_cost_usd == pytest.approx(one_usd)
    assert draft.cost_usd == record.cost_usd == pytest.approx(2 * one_usd)
    assert draft.usage is not None and draft.sample_usage is not None and record.usage is not None
    assert (draft.usage.prompt_tokens, draft.usage.completion_tokens) == (20, 4)
    assert (record.usage.prompt_tokens, record.usage.completion_tokens) == (10, 2)
    assert gateway.metric('router_tokens_total{direction="input",route="student"}') == 20
    assert gateway.metric('router_cost_usd_total{route="student"}') == pytest.approx(2 * one_usd)
    assert gateway.metric('router_second_samples_total{outcome="ok"}') == 1


def test_cost_of_a_second_sample_is_part_of_a_draft_that_is_thrown_away(start: Start) -> None:
    gateway, _ = start(Says("card lost", UNSURE), Says("refund now please"), options=BAND)
    ask(gateway)
    record, draft = the_record(gateway), draft_of(gateway)
    assert draft.cost_usd == pytest.approx((20 * 0.02 + 5 * 0.04) / 1e6)
    assert record.counterfactual_cost_usd is not None and draft.cost_usd is not None
    assert record.cost_usd == pytest.approx(draft.cost_usd + record.counterfactual_cost_usd)
    assert gateway.metric('router_draft_tokens_total{direction="input"}') == 20


@pytest.mark.parametrize(
    ("second", "options", "outcome"),
    [
        (Says("card lost", delay_s=3.0), "second_sample_timeout_s = 0.2", "timeout"),
        (Says(status=500), "", "error"),
        (Says(status=400), "", "error"),
    ],
)
def test_draft_is_judged_without_a_second_sample_that_does_not_come(
    start: Start, second: Says, options: str, outcome: str
) -> None:
    gateway, student = start(Says("card lost", UNSURE), second, options=f"{BAND}\n{options}")
    response = ask(gateway)
    assert response.status_code == 200
    assert chosen(response)[0] == "student"  # 0.5 is not above 0.5
    signals = signals_of(gateway)
    assert (signals.agreement, signals.unavailable) == (None, (DraftSignal.AGREEMENT,))
    assert len(student.received) == 2
    assert gateway.metric(f'router_second_samples_total{{outcome="{outcome}"}}') == 1
    assert (draft_of(gateway).sample_usage is not None) is (outcome == "timeout")
    assert gateway.metric('router_retries_total{cause="server_error"}') == 0


def test_second_samples_are_bounded_in_number(start: Start) -> None:
    one_at_a_time = f"{BAND}\nsecond_sample_max_inflight = 1"
    slow = Says("card lost", UNSURE, delay_s=0.3)
    gateway, _ = start(slow, options=one_at_a_time)
    with httpx.Client(timeout=20) as client:

        def one(_: int) -> int:
            body = {"model": "auto", "messages": HI}
            return client.post(f"{gateway.origin}/v1/chat/completions", json=body).status_code

        with ThreadPoolExecutor(4) as pool:
            assert list(pool.map(one, range(4))) == [200] * 4
    agreed = [record.draft.signals.agreement for record in gateway.records() if record.draft and record.draft.signals]
    assert agreed.count(1.0) >= 1
    assert agreed.count(None) == gateway.metric('router_second_samples_total{outcome="no_room"}') >= 1


def test_draft_outside_of_the_band_is_not_sampled_again(start: Start) -> None:
    gateway, student = start(Says("card lost", -0.1), options=BAND)
    assert chosen(ask(gateway))[0] == "student"
    assert len(student.received) == 1


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
