"""Runs a controller through simulated days, with the code that serves: `Budget.reconsider`, `Pacer`, `PacingState`."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import msgspec
import numpy as np

from policies.base import Quote, RequestFeatures, RouteDecision, Signals, escalate
from policies.budget import Budget
from policies.forecast import WINDOW_S, WINDOWS
from policies.governor import DailyBudget
from policies.pacer import Pacer
from policies.pacing import PacingState
from trainer.budget.traffic import DAY_S, FIRST_DAY, REQUESTED_TOKENS, Floats, Population, Requests, Scenario, day_of

SYNC_S = 60.0
"""A gateway does so every few seconds; here it would only take longer."""
TOKENS_PER_S = 50.0
LAST_S = 3_600.0
SAVED_S = 30.0
"""How old the state on disk is at a restart."""


class Controller(Protocol):
    """Who decides what of the wanted escalations happens."""

    name: str

    def passes(self, row: int, now_s: float) -> bool:
        """Whether the teacher answers a request that the student could answer as well."""

    def spent(self, row: int, now_s: float, *, asked: bool) -> None:
        """The teacher's answer has ended. `asked`: it had passed by `passes`."""

    def tick(self, now_s: float) -> None:
        """Time passes: called at least every `SYNC_S`."""

    def price(self) -> float:
        """Per thousand tokens, as it is now."""


@dataclass(frozen=True)
class Outcome:
    """The measured day under one controller."""

    controller: str
    scenario: str
    spend_ratio: float
    """Of the budget, at the end of the day."""
    exhausted_s: float | None
    """Second of the day at which nothing was left; None: it lasted into the last hour."""
    recovered: float
    """Of the gap between all-student and all-teacher."""
    share: float
    """Of the requests: answered by the teacher."""
    largest_jump: float
    """Of the share of the day's wanted tokens that the price lets through, from one five minutes to the next."""
    swings: int
    """How often that share turned round after it had moved by 5 points."""
    spent: Floats
    """[288], cumulated spend at the end of each window, by the budget."""
    let_through: Floats
    """[288], that share."""


class Paced:
    """The product: one `Pacer` a replica around a shared state."""

    name = "budget"

    def __init__(self, requests: Requests, scenario: Scenario, limit_tokens: float) -> None:
        self._requests, self._scenario = requests, scenario
        budget = DailyBudget(purpose="teacher", tokens=limit_tokens)
        self._budget = budget
        self._policy = Budget(tokens_per_day=max(1, int(limit_tokens)))
        self._stored: bytes | None = None
        self._saved: bytes | None = None
        self._pacers = [Pacer(budget, member=f"r{n}") for n in range(scenario.replicas)]
        self._synced_s = [0.0] * scenario.replicas
        self._saved_s = 0.0
        self._restarted = False
        self._quotes: dict[int, Quote] = {}
        self._special_s = 0.0

    def begin_special(self, now_s: float) -> None:
        """The scenario's own day begins."""
        self._special_s = now_s

    def passes(self, row: int, now_s: float) -> bool:
        features, quote = self._quoted(row)
        requests = self._requests
        decision = escalate("low_confidence", score=float(requests.score[row]), threshold=requests.threshold)
        pacer = self._pacers[requests.replica[row]]
        incapable = bool(requests.incapable[row])
        gain = None if incapable else float(requests.score[row]) - requests.threshold
        pacer.wanted(now_s, quote, gain)
        if incapable:
            return True
        signals = msgspec.structs.replace(features.signals, quote=quote)
        answer = self._policy.reconsider(msgspec.structs.replace(features, signals=signals), decision, None)
        passed = not isinstance(answer, RouteDecision)
        if passed:
            self._quotes[row] = quote
        return passed

    def spent(self, row: int, now_s: float, *, asked: bool) -> None:
        requests = self._requests
        self._pacers[requests.replica[row]].spent(
            self._features(row), float(requests.created_s[row]), int(requests.prompt_tokens[row]),
            int(requests.output_tokens[row]), self._quotes.pop(row, None) if asked else None,
        )  # fmt: skip

    def tick(self, now_s: float) -> None:
        second = now_s - self._special_s if self._special_s else -1.0
        scenario = self._scenario
        if scenario.restart_s is not None and second >= scenario.restart_s and not self._restarted:
            self._restart()
        away = scenario.away_s is not None and scenario.away_s[0] <= second < scenario.away_s[1]
        for replica, pacer in enumerate(self._pacers):
            if now_s - self._synced_s[replica] < SYNC_S:
                continue
            self._synced_s[replica] = now_s
            taken = pacer.begin_merge()
            if away:
                pacer.go_alone(taken, now_s)
                continue
            stored = None if self._stored is None else msgspec.msgpack.decode(self._stored, type=PacingState)
            state = pacer.merged(taken, stored, now_s)
            self._stored = msgspec.msgpack.encode(state)
            pacer.end_merge(state)
        if now_s - self._saved_s >= SAVED_S:
            self._saved, self._saved_s = self._stored, now_s

    def price(self) -> float:
        return self._pacers[0].state.price * self._scenario.expected_bias  # of a thousand tokens as they come

    def _restart(self) -> None:
        """`memory://`: all is lost but the file."""
        self._restarted, self._stored = True, self._saved
        self._quotes.clear()
        self._pacers = [Pacer(self._budget, member=f"s{n}") for n in range(self._scenario.replicas)]
        if self._saved is not None:
            for pacer in self._pacers:
                pacer.adopt(msgspec.msgpack.decode(self._saved, type=PacingState))

    def _features(self, row: int) -> RequestFeatures:
        return RequestFeatures(
            prompt_bytes=0, message_count=1, approx_prompt_tokens=int(self._requests.prompt_tokens[row]),
            requested_output_tokens=REQUESTED_TOKENS, signals=Signals(),
        )  # fmt: skip

    def _quoted(self, row: int) -> tuple[RequestFeatures, Quote]:
        features = self._features(row)
        quote = self._pacers[self._requests.replica[row]].quote(features)
        if self._scenario.expected_bias != 1.0:
            quote = msgspec.structs.replace(quote, cost=quote.cost * self._scenario.expected_bias)
        return features, quote


def requests_of(population: Population, scenario: Scenario, *, per_day: int, seed: int) -> Requests:
    """The days before and the scenario's own, one after the other."""
    days = [
        day_of(population, scenario, number=n, per_day=per_day, seed=seed, special=n == scenario.days_before)
        for n in range(scenario.days_before + 1)
    ]
    joined = {
        name: np.concatenate([getattr(day, name) for day in days])
        for name in ("created_s", "score", "gain", "prompt_tokens", "output_tokens", "incapable", "forced", "replica")
    }
    return Requests(**joined, threshold=population.threshold)


def run(requests: Requests, scenario: Scenario, controller: Controller, limit: float) -> Outcome:
    """Let all days pass; the last one is measured.

    Args:
        limit: of a day, in thousands of tokens.
    """
    start_s = (FIRST_DAY + scenario.days_before) * DAY_S
    ends: list[tuple[float, int, bool]] = []
    taught = np.zeros(len(requests), np.bool_)
    prices = np.zeros(WINDOWS)
    next_tick_s, window = float(requests.created_s[0]) if len(requests) else start_s, 0
    seconds = requests.output_tokens / TOKENS_PER_S
    special = False

    def pass_time(until_s: float) -> None:
        nonlocal next_tick_s, window, special
        while next_tick_s <= until_s:
            while ends and ends[0][0] <= next_tick_s:
                ended_s, row, asked = heapq.heappop(ends)
                controller.spent(row, ended_s, asked=asked)
            if not special and next_tick_s >= start_s and isinstance(controller, Paced):
                controller.begin_special(start_s)
                special = True
            controller.tick(next_tick_s)
            while window < WINDOWS and next_tick_s >= start_s + window * WINDOW_S:
                prices[window] = controller.price()
                window += 1
            next_tick_s += SYNC_S

    wanted = requests.wanted
    for row, now_s in enumerate(requests.created_s.tolist()):
        pass_time(now_s)
        if not wanted[row]:
            continue
        forced = bool(requests.forced[row])
        if forced or controller.passes(row, now_s):
            taught[row] = True
            heapq.heappush(ends, (now_s + float(seconds[row]), row, not forced))
    pass_time(start_s + DAY_S - 1.0)
    return measured(requests, taught, prices, controller.name, scenario, limit)


def measured(
    requests: Requests, taught: np.typing.NDArray[np.bool_], prices: Floats, name: str, scenario: Scenario, limit: float
) -> Outcome:
    """Figures of the last day. A request's cost belongs to the day in which it came."""
    start_s = (FIRST_DAY + scenario.days_before) * DAY_S
    rows = requests.created_s >= start_s
    second, cost = requests.created_s[rows] - start_s, requests.cost[rows]
    here, gain = taught[rows], requests.gain[rows]
    cumulated = np.cumsum(np.where(here, cost, 0.0)) / limit
    at_ends = np.interp((np.arange(WINDOWS) + 1) * WINDOW_S, second, cumulated)
    over = np.flatnonzero(cumulated >= 1.0)
    exhausted_s = float(second[over[0]]) if len(over) and second[over[0]] < DAY_S - LAST_S else None
    through = let_through(requests, rows, prices)
    return Outcome(
        controller=name,
        scenario=scenario.name,
        spend_ratio=float(cumulated[-1]),
        exhausted_s=exhausted_s,
        recovered=float(gain[here].sum() / gain.sum()),
        share=float(here.mean()),
        largest_jump=float(np.abs(np.diff(through)).max()),
        swings=swings(through.tolist()),
        spent=at_ends,
        let_through=through,
    )


def let_through(requests: Requests, rows: np.typing.NDArray[np.bool_], prices: Floats) -> Floats:
    """[288], the share of the day's wanted tokens whose gain is above each price; no noise of single windows."""
    wanted = requests.wanted & rows
    free = requests.incapable[wanted] | requests.forced[wanted]
    ratio = np.where(free, np.inf, (requests.score[wanted] - requests.threshold) / requests.cost[wanted])
    order = np.argsort(-ratio)
    cost = requests.cost[wanted][order]
    above = np.searchsorted(-ratio[order], -np.maximum(prices, 0.0), side="left")
    total = np.concatenate([[0.0], np.cumsum(cost)])
    shares: Floats = total[above] / total[-1]
    return shares


def swings(values: Sequence[float], size: float = 0.05) -> int:
    """How often a series turns round after it has moved by `size`."""
    turns, direction, extreme = 0, 0, values[0]
    for value in values[1:]:
        if (direction >= 0 and value > extreme) or (direction <= 0 and value < extreme):
            if direction == 0 and abs(value - extreme) >= size:
                direction = 1 if value > extreme else -1
            if direction != 0:
                extreme = value
        elif direction != 0 and abs(value - extreme) >= size:
            turns, direction, extreme = turns + 1, -direction, value
    return turns


def limit_of(population: Population, *, per_day: int, seed: int, part: float) -> float:
    """So much of what an ordinary day wants, in thousands of tokens."""
    day = day_of(population, Scenario("usual", ""), number=0, per_day=per_day, seed=seed + 1, special=False)
    return part * float(day.cost[day.wanted].sum())
