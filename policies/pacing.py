"""Spreads a day's budget of the teacher: which share of what is wanted there is money for, and at which price.

**Problem.** Of the requests of a day those are to be escalated that gain most, with their costs adding up to the
budget. That is a knapsack, and its solution for many small items is a price: escalate when the gain is above
`price * cost`. The price is the dual variable of the budget and the same all day; nobody knows it before its end.

**Controller.** Solve the rest of the day again and again (model predictive, a primal-dual method with resolving; the
feedback is that what was spent is subtracted). `left` is what is left of the budget, `volume` what the policies would
like to spend for the rest of the day at a price of 0 (policies/forecast.py), corrected by what answers really took
against what was expected of them. `left / volume` is the share that can be had. The share moves towards it with a time
constant, so that no five minutes differ much from the five before, and the price is read off the demand curve: the
distribution of gain per cost over the last hours, weighted by cost. Whoever passes whatever the price is (the student
cannot serve it, the client insists) is in the curve with an infinite gain.

Several processes share one `PacingState`. Each gathers `Takings` and merges them into the state, atomically; whoever
does so moves the price for all.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import msgspec

from policies.forecast import DAY_S, HORIZON_S, WINDOW_S, Forecast
from policies.lengths import Lengths

SCHEMA = 1
TIME_CONSTANT_S = 1_200.0
"""Of the share's way to where it ought to be: a few windows."""
RESERVE = 0.003
"""Of the budget, not planned with: running into its end stops everything at once."""
MAX_STEP_S = 60.0
"""A state that was out of reach for hours is no reason to hurry: the others have not told what they saw."""
CURVE_HALF_LIFE_S = 6 * 3_600.0
CORRECTION_HALF_LIFE_S = 2 * 3_600.0
CORRECTION_ANSWERS = 20.0
"""Answers until the real cost is believed more than the expected one."""
FEW_REQUESTS = 50.0
CORRECTION_BOUNDS = (0.1, 10.0)
BINS_PER_DECADE = 20
LOWEST_EXPONENT, HIGHEST_EXPONENT = -6, 8
"""Of ten: gains per cost outside are counted at the ends."""
MAX_PRICE = 10.0**HIGHEST_EXPONENT
FADE_EVERY_S = 60.0
MEMBER_S = 120.0
"""A process that has not been heard of for so long shares the budget no more."""


class Takings(msgspec.Struct):
    """What one process has seen since it last merged."""

    spent: dict[int, float] = {}
    """Cost of the teacher's answers, by the day (since 1970) of their requests."""
    volumes: dict[int, float] = {}
    """Expected cost of what was wanted, by window."""
    curve: dict[int, float] = {}
    """The same, by the bin of the gain per cost."""
    wants: float = 0.0
    """How many that were."""
    certain: float = 0.0
    """The same of what passes at any price."""
    charged: float = 0.0
    """Cost of answers whose cost had been expected ..."""
    expected: float = 0.0
    """... and what had been."""
    answers: float = 0.0
    lengths: Lengths = msgspec.field(default_factory=Lengths)

    def want(self, now_s: float, gain: float | None, cost: float) -> None:
        """A request that the policies send to the teacher at a price of 0.

        Args:
            gain: score less threshold; None: it passes at any price.
        """
        if cost <= 0.0:
            return  # what takes nothing is no question
        window = int(now_s // WINDOW_S)
        self.volumes[window] = self.volumes.get(window, 0.0) + cost
        if gain is None:
            self.certain += cost
        else:
            place = bin_of(gain / cost)
            self.curve[place] = self.curve.get(place, 0.0) + cost
            self.wants += 1.0

    def spend(self, created_s: float, cost: float, expected: float | None) -> None:
        """An answer of the teacher has ended.

        Args:
            created_s: when its request came.
            expected: its cost as it was quoted; None: it was not.
        """
        day = int(created_s // DAY_S)
        self.spent[day] = self.spent.get(day, 0.0) + cost
        if expected is not None:
            self.charged += cost
            self.expected += expected
            self.answers += 1.0

    def merge(self, other: Takings) -> None:
        """Add what another one has."""
        self.spent = _sum(self.spent, other.spent)
        self.volumes = _sum(self.volumes, other.volumes)
        self.curve = _sum(self.curve, other.curve)
        self.wants += other.wants
        self.certain += other.certain
        self.charged += other.charged
        self.expected += other.expected
        self.answers += other.answers
        self.lengths.merge(other.lengths)

    def times(self, factor: float) -> Takings:
        """As if so many processes had seen the same."""
        return Takings(
            spent=_scaled(self.spent, factor),
            volumes=_scaled(self.volumes, factor),
            curve=_scaled(self.curve, factor),
            wants=self.wants * factor,
            certain=self.certain * factor,
            charged=self.charged * factor,
            expected=self.expected * factor,
            answers=self.answers * factor,
        )


class PacingState(msgspec.Struct):
    """What all processes know together. JSON and MessagePack read it back as it is."""

    schema: int = SCHEMA
    unit: str = ""
    """Of all costs: a state in another unit means nothing."""
    day: int = 0
    spent: float = 0.0
    """Today."""
    share: float = 1.0
    """Of what is wanted: how much there is budget for."""
    price: float = 0.0
    """Of one unit of cost, in score."""
    updated_s: float = 0.0
    faded_s: float = 0.0
    forecast: Forecast = msgspec.field(default_factory=Forecast)
    curve: dict[int, float] = {}
    wants: float = 0.0
    certain: float = 0.0
    charged: float = 0.0
    expected: float = 0.0
    answers: float = 0.0
    lengths: Lengths = msgspec.field(default_factory=Lengths)
    members: dict[str, float] = {}
    """When each process was last heard of."""

    def take(self, takings: Takings, *, limit: float, now_s: float, member: str = "") -> None:
        """Add what one process has seen, let the time pass, and move the price.

        Args:
            limit: of a day, in the unit of the costs.
            now_s: epoch time. A clock that is behind the last one moves nothing.
            member: the process.
        """
        elapsed_s = max(0.0, now_s - self.updated_s) if self.updated_s else 0.0
        now_s = max(now_s, self.updated_s)
        self._pass_time(now_s)
        self._add(takings, now_s)
        self.updated_s = now_s
        heard = {name: at_s for name, at_s in self.members.items() if now_s - at_s < MEMBER_S}
        self.members = {**heard, member: now_s}
        self._steer(limit, now_s, elapsed_s)

    @property
    def correction(self) -> float:
        """What answers take, by what was expected of them."""
        if self.answers <= 0.0 or self.expected <= 0.0:
            return 1.0
        prior = CORRECTION_ANSWERS * self.expected / self.answers
        low, high = CORRECTION_BOUNDS
        return min(high, max(low, (self.charged + prior) / (self.expected + prior)))

    def foreseen(self, now_s: float) -> float:
        """What will have been spent by the end of the day at the present share."""
        rest_s = DAY_S - now_s % DAY_S
        wanted = self.forecast.left(now_s)
        horizon_s = max(rest_s, 1.0)
        ahead = wanted if horizon_s >= HORIZON_S else wanted * horizon_s / HORIZON_S
        return self.spent + self.share * ahead * self.correction

    def _pass_time(self, now_s: float) -> None:
        """Let old sums fade, now and then."""
        elapsed_s = now_s - self.faded_s
        if elapsed_s < FADE_EVERY_S:
            return
        if self.faded_s:
            factor = 0.5 ** (elapsed_s / CURVE_HALF_LIFE_S)
            self.curve = {place: weight * factor for place, weight in self.curve.items() if weight * factor > 1e-12}
            self.certain *= factor
            self.wants *= factor
            factor = 0.5 ** (elapsed_s / CORRECTION_HALF_LIFE_S)
            self.charged, self.expected, self.answers = (
                each * factor for each in (self.charged, self.expected, self.answers)
            )
            self.lengths.fade(elapsed_s)
        self.faded_s = now_s

    def _add(self, takings: Takings, now_s: float) -> None:
        self.forecast.add(takings.volumes)
        day = int(now_s // DAY_S)
        if day > self.day:
            if self.day:
                self.forecast.end_day(self.day)
            self.day, self.spent = day, 0.0
        self.spent += takings.spent.get(day, 0.0)
        self.curve = _sum(self.curve, takings.curve)
        self.certain += takings.certain
        self.wants += takings.wants
        self.charged += takings.charged
        self.expected += takings.expected
        self.answers += takings.answers
        self.lengths.merge(takings.lengths)

    def _steer(self, limit: float, now_s: float, elapsed_s: float) -> None:
        left = limit - self.spent
        if left <= 0.0:
            self.share, self.price = 0.0, MAX_PRICE
            return
        wanted = self.forecast.left(now_s) * self.correction
        planned = max(0.0, left - RESERVE * limit)
        target = 1.0 if wanted <= planned else planned / wanted
        self.share += (target - self.share) * (1.0 - math.exp(-min(elapsed_s, MAX_STEP_S) / TIME_CONSTANT_S))
        # A handful of requests is no demand curve yet: until there are more, all is a little cheaper.
        self.price = self.price_of(self.share) * min(1.0, self.wants / FEW_REQUESTS)

    def price_of(self, share: float) -> float:
        """The price at which this share of what is wanted passes, by the demand curve."""
        total = sum(self.curve.values()) + self.certain
        above = share * total - self.certain
        if share >= 1.0 or total <= 0.0:
            return 0.0
        for place in sorted(self.curve, reverse=True):
            weight = self.curve[place]
            if above < weight:
                # Within a bin the gains are taken to be spread evenly over its logarithm.
                part = 1.0 - max(0.0, above) / weight
                return float(10.0 ** (LOWEST_EXPONENT + (place + part) / BINS_PER_DECADE))
            above -= weight
        return 0.0


def bin_of(ratio: float) -> int:
    """The bin of a gain per cost."""
    if ratio <= 0.0:
        return 0
    exponent = min(float(HIGHEST_EXPONENT), max(float(LOWEST_EXPONENT), math.log10(ratio)))
    return int((exponent - LOWEST_EXPONENT) * BINS_PER_DECADE)


def _sum(one: Mapping[int, float], other: Mapping[int, float]) -> dict[int, float]:
    if not other:
        return dict(one)
    found = dict(one)
    for key, value in other.items():
        found[key] = found.get(key, 0.0) + value
    return found


def _scaled(values: Mapping[int, float], factor: float) -> dict[int, float]:
    return {key: value * factor for key, value in values.items()}
