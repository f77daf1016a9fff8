"""Days of simulated requests: when they come, what the policies think of them, what the teacher's answer would take."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]

DAY_S = 86_400.0
FIRST_DAY = 20_002
"""A Tuesday, counted since 1970-01-01."""
REQUESTED_TOKENS = 2_048
PEAK_S, SWING = 14 * 3_600.0, 0.8
INCAPABLE_SHARE, FORCED_SHARE = 0.02, 0.01


@dataclass(frozen=True)
class Population:
    """What requests are drawn from, [n] each."""

    score: Floats
    """P(the student is inadequate), as a policy gives it."""
    gain: Floats
    """Score of the teacher's answer less that of the student's."""
    output_tokens: Floats
    """Of the teacher's answer."""
    threshold: float

    @classmethod
    def synthetic(cls, seed: int = 0, size: int = 20_000) -> Population:
        """Calibrated scores; the teacher is wrong too, more often where the student is, and its answers get longer."""
        rng = np.random.default_rng(seed)
        score = rng.beta(1.2, 3.0, size)
        weak = rng.random(size) >= score
        strong = rng.random(size) >= 0.35 * score
        tokens = np.ceil(rng.lognormal(5.2 + 0.6 * score, 0.7))
        return cls(score, strong.astype(np.float64) - weak, np.minimum(tokens, REQUESTED_TOKENS), threshold=0.15)


@dataclass(frozen=True)
class Scenario:
    """What is special about the day that is measured."""

    name: str
    about: str
    rate: Callable[[Floats], Floats] = np.ones_like
    """Multiplies the usual rate, by the second of the day."""
    longer: Callable[[Floats], Floats] = np.ones_like
    """Multiplies the length of answers."""
    expected_bias: float = 1.0
    """Multiplies the expected cost: a predictor that is wrong."""
    replicas: int = 1
    restart_s: float | None = None
    """Second of the day at which every process is killed and started again."""
    away_s: tuple[float, float] | None = None
    """From when to when the shared state is out of reach."""
    days_before: int = 3
    """Ordinary days from which the profile is learned."""
    profile_s: float = 0.0
    """The day's shape is so much later than that of the days before."""


@dataclass(frozen=True)
class Requests:
    """In the order in which they come, [n] each."""

    created_s: Floats
    """Epoch time."""
    score: Floats
    gain: Floats
    prompt_tokens: Floats
    output_tokens: Floats
    incapable: Flags
    forced: Flags
    threshold: float
    replica: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))

    def __len__(self) -> int:
        return len(self.created_s)

    @property
    def wanted(self) -> Flags:
        """The teacher gets them at a price of 0."""
        return (self.score > self.threshold) | self.incapable | self.forced

    @property
    def cost(self) -> Floats:
        """Of the teacher's answers, in thousands of tokens."""
        return (self.prompt_tokens + self.output_tokens) / 1_000


def usual_rate(seconds: Floats) -> Floats:
    """By the second of the day, with a mean of 1."""
    return 1.0 + SWING * np.cos(2 * np.pi * (seconds - PEAK_S) / DAY_S)


def day_of(
    population: Population, scenario: Scenario, *, number: int, per_day: int, seed: int, special: bool
) -> Requests:
    """One day.

    Args:
        number: from 0, of the days of the simulation.
        special: the scenario's own day; else an ordinary one.
    """
    rng = np.random.default_rng([seed, number])
    grid = np.arange(0.0, DAY_S, 60.0) + 30.0
    rate = usual_rate(grid - (scenario.profile_s if special else 0.0))
    if special:
        rate = rate * scenario.rate(grid)
    counts = rng.poisson(rate * per_day / len(grid))
    second = np.sort(np.repeat(grid, counts) + rng.uniform(-30.0, 30.0, counts.sum()))
    size = len(second)
    drawn = rng.integers(0, len(population.score), size)
    longer = scenario.longer(second) if special else np.ones(size)
    return Requests(
        created_s=(FIRST_DAY + number) * DAY_S + np.clip(second, 0.0, DAY_S - 1e-3),
        score=population.score[drawn],
        gain=population.gain[drawn],
        prompt_tokens=np.ceil(rng.lognormal(5.0, 0.8, size)),
        output_tokens=np.minimum(np.ceil(population.output_tokens[drawn] * longer), REQUESTED_TOKENS),
        incapable=rng.random(size) < INCAPABLE_SHARE,
        forced=rng.random(size) < FORCED_SHARE,
        threshold=population.threshold,
        replica=rng.integers(0, scenario.replicas, size),
    )


def _bursts(seconds: Floats) -> Floats:
    factor = np.ones_like(seconds)
    for start_h in (3.0, 10.5, 19.25):
        factor[(seconds >= start_h * 3_600) & (seconds < start_h * 3_600 + 900)] = 5.0
    return factor


def _of_shape(shape: Callable[[Floats], Floats]) -> Callable[[Floats], Floats]:
    """The factor that makes a day of this shape, by the hour, out of the usual one. Its mean is 1."""
    mean = shape(np.arange(0.0, 24.0, 1 / 60)).mean()
    return lambda seconds: shape(seconds / 3_600.0) / mean / usual_rate(seconds)


def _two_peaks(hours: Floats) -> Floats:
    return 0.15 + np.exp(-(((hours - 9.5) / 1.8) ** 2)) + 0.9 * np.exp(-(((hours - 20.0) / 2.2) ** 2))


def _office(hours: Floats) -> Floats:
    return np.where((hours >= 8.0) & (hours < 18.0), 1.0, 0.05)


SCENARIOS = (
    Scenario("usual day", "a daily sinusoid, peak to trough 9:1"),
    Scenario("first day", "no profile yet", days_before=0),
    Scenario("first night", "no profile yet, and the peak at 2:00", days_before=0, profile_s=-12 * 3_600.0),
    Scenario("first flat day", "no profile yet, and nothing to learn", days_before=0, rate=_of_shape(np.ones_like)),
    Scenario("first two peaks", "no profile yet: 9:30 and 20:00", days_before=0, rate=_of_shape(_two_peaks)),
    Scenario("first office day", "no profile yet, 8:00 to 18:00", days_before=0, rate=_of_shape(_office)),
    Scenario("first bursts", "no profile yet, and the bursts", days_before=0, rate=_bursts),
    Scenario(
        "first at 14:00",
        "the gateway is started in the afternoon",
        days_before=0,
        rate=lambda s: np.where(s < 14 * 3_600.0, 0.0, 1.0),
    ),
    Scenario("weekend", "half of the traffic, three hours later", rate=lambda s: 0.5 + 0 * s, profile_s=10_800.0),
    Scenario("bursts", "five times the traffic for a quarter of an hour, thrice", rate=_bursts),
    Scenario("step at noon", "twice the traffic from noon on", rate=lambda s: np.where(s < DAY_S / 2, 1.0, 2.0)),
    Scenario("half at noon", "half of the traffic from noon on", rate=lambda s: np.where(s < DAY_S / 2, 1.0, 0.5)),
    Scenario("longer answers", "they grow to twice their length over the day", longer=lambda s: 1.0 + s / DAY_S),
    Scenario("wrong lengths", "the predictor expects 0.4 of the true cost", expected_bias=0.4),
    Scenario("4 replicas", "each sees a quarter", replicas=4),
    Scenario("restart", "4 replicas killed at 13:00, half a minute of counts lost", replicas=4, restart_s=13 * 3_600.0),
    Scenario("store away", "4 replicas on their own from 9:00 to 13:00", replicas=4, away_s=(32_400.0, 46_800.0)),
    Scenario(
        "all at once",
        "bursts, a step, longer answers, a wrong predictor, 4 replicas, a restart",
        rate=lambda s: _bursts(s) * np.where(s < DAY_S / 2, 1.0, 1.5),
        longer=lambda s: 1.0 + 0.5 * s / DAY_S,
        expected_bias=0.4,
        replicas=4,
        restart_s=13 * 3_600.0,
    ),
)
