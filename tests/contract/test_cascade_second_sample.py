"""A second sample: when the student is asked again, what that costs, and what it decides."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from loadtests.fake_backend import BackendThread
from policies.draft_signals import DraftSignal
from tests.contract.conftest import StartGateway, chats
from tests.contract.drafts import BAND, HI, UNSURE, Start, ask, cascades, chosen, draft_of, signals_of
from tests.contract.scripted import Says
from tests.contract.test_cascade import the_record


@pytest.fixture
def start(start_gateway: StartGateway, tmp_path: Path) -> Iterator[Start]:
    with cascades(start_gateway, tmp_path) as begin:
        yield begin


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
