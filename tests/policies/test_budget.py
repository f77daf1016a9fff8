"""The budget of teacher tokens: what passes at a price, how the price is found, and whole simulated days."""

from __future__ import annotations

import dataclasses
import math
import random

import msgspec
import pytest

from policies.base import Abstain, Quote, RequestFeatures, RouteDecision, Signal, Signals, escalate
from policies.budget import Budget
from policies.chain import PolicyChain
from policies.forecast import DAY_S, WINDOW_S, WINDOWS, Forecast
from policies.governing import Governors
from policies.governor import DailyBudget
from policies.lengths import Lengths
from policies.pacer import Pacer
from policies.pacing import MAX_PRICE, PacingState, Takings
from policies.registry import PolicyConfigError, build
from trainer.budget.controllers import CutOff, Pid
from trainer.budget.simulation import Outcome, Paced, limit_of, requests_of, run, swings
from trainer.budget.traffic import SCENARIOS, Population, Scenario

POLICY = Budget(tokens_per_day=100_000)
NOON_S = 20_000 * DAY_S + DAY_S / 2


def seen(price: float | None = None, cost: float = 0.5, **fields: object) -> RequestFeatures:
    signals = Signals() if price is None else Signals(quote=Quote(price=price, cost=cost, tokens=300.0))
    values = {"prompt_bytes": 1, "message_count": 1, "approx_prompt_tokens": 200, "requested_output_tokens": 2048}
    return RequestFeatures(**{**values, **fields}, signals=signals)  # type: ignore[arg-type]


def weak(score: float | None = 0.8, threshold: float | None = 0.5, *, capable: bool = True) -> RouteDecision:
    return escalate("weak", score=score, threshold=threshold, student_capable=capable)


def reason_of(answer: RouteDecision | Abstain | None) -> tuple[str | None, str]:
    assert answer is not None
    return (answer.route if isinstance(answer, RouteDecision) else None), answer.reason


async def never(signal: Signal, features: RequestFeatures) -> RequestFeatures:
    raise AssertionError("nothing was to be measured")


# What passes


@pytest.mark.parametrize(
    ("price", "expected"),
    [
        (0.0, (None, "worth_its_price")),
        (0.59, (None, "worth_its_price")),
        (0.61, ("student", "over_price")),
        (None, (None, "no_price")),
    ],
)
def test_escalation_passes_when_it_is_worth_more_than_its_price(
    price: float | None, expected: tuple[str | None, str]
) -> None:
    assert reason_of(POLICY.reconsider(seen(price), weak(), None)) == expected


def test_threshold_is_raised_by_what_the_answer_costs_when_a_decision_is_taken_back() -> None:
    answer = POLICY.reconsider(seen(0.7), weak(), None)
    assert isinstance(answer, RouteDecision)
    assert answer.threshold == pytest.approx(0.85)
    assert answer.score == 0.8


def test_request_passes_whatever_the_price_when_only_the_teacher_can_answer() -> None:
    assert reason_of(POLICY.reconsider(seen(MAX_PRICE), weak(capable=False), None)) == (None, "student_incapable")


def test_escalation_without_a_score_is_given_up_last() -> None:
    dear = seen(1.9)
    assert reason_of(POLICY.reconsider(dear, weak(), None)) == ("student", "over_price")
    assert reason_of(POLICY.reconsider(dear, weak(None, None), None)) == (None, "worth_its_price")
    assert reason_of(POLICY.reconsider(seen(2.1), weak(None, None), None)) == ("student", "over_price")


def test_student_keeps_its_requests_when_there_is_budget_in_plenty() -> None:
    student = RouteDecision(route="student", reason="default")
    assert reason_of(POLICY.reconsider(seen(0.0), student, None)) == (None, "not_escalated")


@pytest.mark.parametrize("options", [{"tokens_per_day": 5, "usd_per_day": 1.0}, {"tokens_per_day": 0}, {"usd": 1}])
def test_budget_is_refused_when_its_options_make_no_limit(options: dict[str, object]) -> None:
    with pytest.raises(PolicyConfigError, match=r"usd|tokens_per_day"):
        build("budget", options)


async def test_decision_replays_exactly_when_its_features_are_read_back() -> None:
    class Escalates:
        name, reasons = "escalates", frozenset({"weak"})

        def optional_signals(self) -> frozenset[object]:
            return frozenset()

        def needs(self, features: RequestFeatures) -> None:
            return None

        def decide(self, features: RequestFeatures) -> RouteDecision:
            return weak()

    chain = PolicyChain(
        [Escalates()],  # type: ignore[list-item]
        version="v1", default_route="student", on_policy_error="teacher", governors=Governors([POLICY], version="v1"),
    )  # fmt: skip
    for price in (0.1, 0.59, 0.61, 5.0):
        features = msgspec.json.decode(msgspec.json.encode(seen(price)), type=RequestFeatures)
        first, again = [await chain.evaluate(each, never) for each in (seen(price), features)]
        assert first.decision == again.decision
        assert first.decision.route == ("teacher" if price < 0.6 else "student")
        assert [vote.policy for vote in first.votes] == ["escalates", "budget"]


# Lengths


def test_lengths_are_learned_by_prompt_and_tag_when_answers_come() -> None:
    rng, lengths = random.Random(0), Lengths()
    for _ in range(400):
        prompt = rng.choice((50, 800))
        tag = rng.choice(("code", "chat"))
        tokens = (prompt**0.5 * 10) * (2.0 if tag == "code" else 0.5) * rng.lognormvariate(0, 0.3)
        lengths.add(tag, prompt, 4096, tokens, lengths.fitted().raw(prompt, 4096))
    line = lengths.fitted()
    for prompt in (50, 800):
        for tag, factor in (("code", 2.0), ("chat", 0.5)):
            truth = prompt**0.5 * 10 * factor * math.exp(0.045)
            assert line.tokens(tag, prompt, 4096) == pytest.approx(truth, rel=0.35)
    assert line.tokens("code", 800, 64) == 64


def test_lengths_of_two_processes_add_up() -> None:
    one, other, both = Lengths(), Lengths(), Lengths()
    for number in range(40):
        for lengths in (both, (one, other)[number % 2]):
            lengths.add("", 100 + number, 1000, 50 + number, 60)
    one.merge(other)
    merged, together = one.fitted(), both.fitted()
    assert merged.weights == pytest.approx(together.weights)
    assert merged.overall == pytest.approx(together.overall)


# Forecast


def test_forecast_expects_what_is_left_of_a_usual_day() -> None:
    forecast = Forecast()
    first = 20_000 * WINDOWS
    shape = [1.0 + math.sin(2 * math.pi * each / WINDOWS) for each in range(WINDOWS)]
    forecast.add({first + each: shape[each] for each in range(WINDOWS)})
    forecast.end_day(20_000)
    forecast.add({first + WINDOWS + each: shape[each] for each in range(WINDOWS // 2)})
    assert forecast.left(NOON_S + DAY_S) == pytest.approx(sum(shape[WINDOWS // 2 :]), rel=0.1)


def test_burst_is_no_new_level_and_a_step_is_one() -> None:
    def level(recent: list[float]) -> float:
        forecast = Forecast(profile=[1.0] * WINDOWS)
        now = 20_000 * WINDOWS + 100
        forecast.add({now - len(recent) + each: volume for each, volume in enumerate(recent)})
        forecast.left(now * WINDOW_S)
        return forecast.level

    assert level([1.0] * 21 + [5.0] * 3) == pytest.approx(1.0, rel=0.1)  # its mean is 1.5
    assert level([1.0] * 9 + [2.0] * 15) == pytest.approx(2.0, rel=0.35)


def forecast_of(shape: list[float], hours: float, *, since_h: float = 0.0) -> tuple[float, float]:
    """What is expected to come after so many hours of a first day, and what comes."""
    forecast, first = Forecast(), 20_000 * WINDOWS
    seen = range(int(since_h * 12), int(hours * 12))
    forecast.add({first + window: shape[window] for window in seen})
    return forecast.left(20_000 * DAY_S + hours * 3_600), sum(shape[int(hours * 12) :])


ONE_PEAK = [1.0 - 0.8 * math.cos(2 * math.pi * (each / 12 - 2.0) / 24) for each in range(WINDOWS)]
TWO_PEAKS = [
    0.15 + math.exp(-(((e / 12 - 9.5) / 1.8) ** 2)) + math.exp(-(((e / 12 - 20) / 2.2) ** 2)) for e in range(288)
]


@pytest.mark.parametrize(
    ("shape", "hours", "low", "high"),
    [
        (ONE_PEAK, 1.0, 0.33, 0.8),  # a night might be all that is to come: more is expected, not yet enough
        (ONE_PEAK, 10.0, 0.6, 1.2),
        (ONE_PEAK, 14.0, 0.8, 1.2),
        (ONE_PEAK, 20.0, 0.85, 1.15),
        ([1.0] * WINDOWS, 0.5, 1.0, 1.7),
        ([1.0] * WINDOWS, 6.0, 0.9, 1.1),
        (TWO_PEAKS, 14.0, 0.35, 1.5),  # a trough of the afternoon is no evening
    ],
)
def test_first_day_is_expected_to_go_on_like_days_that_fit_what_has_come(
    shape: list[float], hours: float, low: float, high: float
) -> None:
    expected, truth = forecast_of(shape, hours)
    assert low <= expected / truth <= high


def test_first_day_begins_where_the_gateway_was_started() -> None:
    expected, truth = forecast_of(ONE_PEAK, 18.0, since_h=12.0)
    assert 0.8 <= expected / truth <= 1.75


def test_forecast_of_a_first_day_knows_nothing_before_anything_has_come() -> None:
    assert Forecast().left(NOON_S) == 0.0
    forecast = Forecast()
    forecast.add({int(NOON_S // WINDOW_S): 2.0})
    assert forecast.left(NOON_S + 60) == pytest.approx(2.0 * 144, rel=0.01)  # the first window is not over yet


# Price


def test_price_lets_through_the_share_that_is_asked_for() -> None:
    state, rng = PacingState(), random.Random(1)
    takings, ratios = Takings(), []
    for _ in range(3_000):
        gain, cost = rng.random(), rng.uniform(0.2, 1.0)
        takings.want(NOON_S, gain, cost)
        ratios.append((gain / cost, cost))
    takings.want(NOON_S, None, 100.0)
    state.curve, state.certain = takings.curve, takings.certain
    total = sum(cost for _, cost in ratios) + 100.0
    for share in (0.1, 0.3, 0.7, 0.95):
        price = state.price_of(share)
        passed = 100.0 + sum(cost for ratio, cost in ratios if ratio > price)
        assert passed / total == pytest.approx(share, abs=0.02)
    assert state.price_of(1.0) == 0.0


def test_nothing_but_what_must_passes_when_the_budget_is_spent() -> None:
    state = PacingState(unit="1000 tokens")
    takings = Takings()
    takings.spend(NOON_S, 11.0, 10.0)
    state.take(takings, limit=10.0, now_s=NOON_S, member="a")
    assert (state.share, state.price) == (0.0, MAX_PRICE)
    state.take(Takings(), limit=10.0, now_s=NOON_S + DAY_S, member="a")
    assert state.spent == 0.0
    assert state.price < MAX_PRICE


def test_spend_belongs_to_the_day_of_the_request_when_its_answer_ends_after_midnight() -> None:
    state, takings = PacingState(), Takings()
    takings.spend(NOON_S, 3.0, None)
    state.take(takings, limit=10.0, now_s=NOON_S + DAY_S, member="a")
    assert state.spent == 0.0


def test_processes_know_together_what_each_has_spent() -> None:
    budget = DailyBudget(purpose="teacher", tokens=100_000.0)
    pacers = [Pacer(budget, member=name) for name in "ab"]
    stored: PacingState | None = None
    for step in range(20):
        for pacer in pacers:
            pacer.spent(seen(), NOON_S, 300, 200, Quote(price=0.0, cost=0.5, tokens=200.0))
            stored = pacer.merged(pacer.begin_merge(), stored, NOON_S + step)
            pacer.end_merge(msgspec.msgpack.decode(msgspec.msgpack.encode(stored), type=PacingState))
    assert pacers[1].state.spent == pytest.approx(20.0)
    assert pacers[1].state.members.keys() == {"a", "b"}


def test_process_counts_for_the_others_while_they_are_out_of_reach_and_tells_them_the_truth_later() -> None:
    budget = DailyBudget(purpose="teacher", tokens=100_000.0)
    one, other = (Pacer(budget, member=name) for name in "ab")
    stored = PacingState(unit=one.unit)
    for pacer in (one, other):
        stored = pacer.merged(pacer.begin_merge(), stored, NOON_S)
        pacer.end_merge(msgspec.msgpack.decode(msgspec.msgpack.encode(stored), type=PacingState))
    other.end_merge(stored)
    assert one.state.members.keys() == {"a"}
    one.state.members = {"a": NOON_S, "b": NOON_S}
    for step in range(10):
        one.spent(seen(), NOON_S, 300, 200, None)
        one.go_alone(one.begin_merge(), NOON_S + step)
    assert one.state.spent == pytest.approx(10.0)  # 5 of its own, and as much of the other's
    stored = one.merged(one.begin_merge(), stored, NOON_S + 20)
    assert stored.spent == pytest.approx(5.0)


def test_state_in_another_unit_is_not_taken_for_ones_own() -> None:
    pacer = Pacer(DailyBudget(purpose="teacher", usd=5.0), usd=lambda prompt, output: (prompt + 4 * output) / 1e6)
    stored = PacingState(unit="1000 tokens", spent=77.0)
    assert pacer.merged(pacer.begin_merge(), stored, NOON_S).spent == 0.0
    assert pacer.cost(1_000, 250) == pytest.approx(0.002)


# Whole days

PER_DAY = 4_000
POPULATION = Population.synthetic()
FIRST_DAY = next(each for each in SCENARIOS if each.name == "first day")
LIMIT = limit_of(POPULATION, per_day=PER_DAY, seed=0, part=0.3)


def day(name: str, **changes: object) -> tuple[Outcome, Outcome]:
    """A scenario under the controller, and under a cut-off."""
    found = next(each for each in SCENARIOS if each.name == name)
    changed = {"days_before": min(1, found.days_before), **changes}
    scenario: Scenario = dataclasses.replace(found, **changed)  # type: ignore[arg-type]
    requests = requests_of(POPULATION, scenario, per_day=PER_DAY, seed=3)
    paced = run(requests, scenario, Paced(requests, scenario, LIMIT * 1_000), LIMIT)
    return paced, run(requests, scenario, CutOff(requests, LIMIT), LIMIT)


@pytest.mark.parametrize(
    ("name", "changes"), [("usual day", {}), ("all at once", {"replicas": 2}), ("store away", {"replicas": 2})]
)
def test_budget_lasts_exactly_for_the_day_and_buys_more_than_first_come_first_served(
    name: str, changes: dict[str, object]
) -> None:
    paced, cut_off = day(name, **changes)
    assert abs(paced.spend_ratio - 1.0) <= 0.02
    assert paced.exhausted_s is None
    assert paced.largest_jump <= 0.15  # of the share, from five minutes to the next; a cut-off jumps by 0.9
    assert paced.swings <= 8
    assert paced.recovered > cut_off.recovered + 0.02
    assert cut_off.exhausted_s is not None


@pytest.mark.parametrize("name", ["first day", "first night", "first two peaks"])
def test_budget_lasts_for_a_first_day_whatever_its_hours_are(name: str) -> None:
    paced, cut_off = day(name)
    assert 0.96 <= paced.spend_ratio <= 1.02
    assert paced.exhausted_s is None
    assert paced.swings <= 8
    assert paced.recovered > cut_off.recovered


def test_first_day_buys_more_than_spending_by_the_clock() -> None:
    gained = []
    for seed in range(2):
        requests = requests_of(POPULATION, FIRST_DAY, per_day=PER_DAY, seed=seed)
        controllers = (Paced(requests, FIRST_DAY, LIMIT * 1_000), Pid(requests, LIMIT))
        paced, pid = (run(requests, FIRST_DAY, each, LIMIT) for each in controllers)
        gained.append(paced.recovered - pid.recovered / max(1.0, pid.spend_ratio))
    assert sum(gained) > 0.0


def test_swings_count_turns_and_not_noise() -> None:
    assert swings([0.5, 0.52, 0.49, 0.5, 0.51]) == 0
    assert swings([0.1, 0.3, 0.5, 0.7]) == 0
    assert swings([0.1, 0.5, 0.2, 0.6, 0.58, 0.7]) == 2
