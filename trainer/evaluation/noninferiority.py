"""Whether one system loses no more than a margin against another on the same cases: tests, bounds, Holm, sample size.

Non-inferiority is a one-sided question. At a confidence of 95 % each test has a level of 5 %, and the bound that goes
with it is one-sided as well: the lower bound lies at or above -margin exactly when the student is shown to be within
the margin, the upper bound below it exactly when it is shown to be worse. The two null hypotheses exclude each other,
so only one of the two errors can be made, and the level is not divided between them. Lower and upper bound together
are the two-sided interval of confidence 1 - 2 * level (90 % for 5 %).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from trainer.evaluation.statistics import Floats, Pairs, difference_interval, tango_score

EXACT_UP_TO = 150
"""Cases up to which p-values are exact (maximised over the nuisance parameter); beyond, the score is close enough."""
NUISANCE_GRID = 120
BLOCK_ENTRIES = 100_000
"""Probabilities that are computed at once: what stays in the processor's cache."""
BOUND_STEPS = 14
"""Halvings of [-1, 1]: an exact bound is found to about 0.01 points."""
MAX_LABELS = 10_000_000
"""More missing labels than this are reported as None: no evaluation set will settle it."""
DECIDING_POWER = 0.8


def non_inferiority_p(observed: Pairs, margin: float) -> float:
    """One-sided p-value of H0: the student is worse than the reference by `margin` or more.

    Small = shown to be better than that. Up to EXACT_UP_TO cases it is exact: the probability under H0 of a score at
    least as large, maximised over the share of discordant cases, so that the level holds for every n.
    With a margin of 0 it asks for superiority. Raises: ValueError: margin outside [0, 1).
    """
    return _p_at_most(observed, -_checked(margin))


def inferiority_p(observed: Pairs, margin: float) -> float:
    """One-sided p-value of H0: the student loses no more than `margin`; small = shown to be worse.

    `margin` in [0, 1); the same test with the roles swapped.
    """
    return _p_at_most(observed.mirrored, _checked(margin))


def lower_bound(observed: Pairs, level: float) -> float:
    """One-sided bound of the difference: the largest that `non_inferiority_p`'s test still rejects at `level`.

    `level` in (0, 0.5). The upper bound is minus that of `observed.mirrored`.
    """
    if observed.n > EXACT_UP_TO:
        return difference_interval(observed, 1 - 2 * level).low
    low, high = -1.0, observed.difference
    for _ in range(BOUND_STEPS):
        middle = (low + high) / 2
        low, high = (middle, high) if _p_at_most(observed, middle) <= level else (low, middle)
    return low


def _checked(margin: float) -> float:
    if not 0 <= margin < 1:
        raise ValueError(f"margin must be at least 0 and below 1, not {margin}")
    return margin


def _p_at_most(observed: Pairs, difference: float) -> float:
    """One-sided p-value of H0: the difference is at most `difference`, in (-1, 1)."""
    score = tango_score(observed, difference)
    if observed.n > EXACT_UP_TO:
        return NormalDist().cdf(-score)
    return _exact_p(observed.n, score, -difference)


def _scores(n: int, won: NDArray[np.int64], lost: NDArray[np.int64], difference: float) -> Floats:
    """`tango_score` of many tables at once."""
    a = 2.0 * n
    b = -(won + lost) + (2.0 * n - won + lost) * difference
    c = -lost * difference * (1.0 - difference)
    lost_share = (np.sqrt(np.maximum(b * b - 4.0 * a * c, 0.0)) - b) / (2.0 * a)
    variance = n * (2.0 * lost_share + difference * (1.0 - difference))
    distance = won - lost - n * difference
    with np.errstate(divide="ignore", invalid="ignore"):
        score = distance / np.sqrt(np.maximum(variance, 0.0))
    return np.where(np.abs(distance) < 1e-12, 0.0, score)


def _exact_p(n: int, score: float, margin: float) -> float:
    """Largest probability, over the nuisance parameter, of a score >= `score` when the difference is `-margin`.

    Source: the unconditional test of Sidik 2003, Statistics in Medicine 22, 265-278, with Tango's score as order.
    """
    if score == -math.inf or math.isnan(score):
        return 1.0
    won, lost = np.meshgrid(np.arange(n + 1), np.arange(n + 1), indexing="ij")
    inside = won + lost <= n
    won, lost = won[inside], lost[inside]
    extreme = _scores(n, won, lost, -margin) >= score - 1e-9
    won, lost = won[extreme], lost[extreme]
    if won.size == 0:
        return 0.0
    log_ways = _log_multinomial(n, won, lost)
    highest = (1.0 - abs(margin)) / 2.0
    # Denser near 0: with few discordant cases the probability peaks there.
    won_shares = highest * np.linspace(0.0, 1.0, NUISANCE_GRID) ** 2 + max(0.0, -margin)
    lost_shares = won_shares + margin
    shares = np.stack([won_shares, lost_shares, 1.0 - won_shares - lost_shares], axis=1)
    tables = np.stack([won, lost, n - won - lost]).astype(np.float64)
    logs = np.log(np.maximum(shares, 1e-300))
    blocks = np.array_split(logs, math.ceil(len(logs) * won.size / BLOCK_ENTRIES))
    return min(1.0, max(float(np.exp(block @ tables + log_ways).sum(axis=1).max()) for block in blocks))


def _log_multinomial(n: int, won: NDArray[np.int64], lost: NDArray[np.int64]) -> Floats:
    log_factorial = np.concatenate(([0.0], np.cumsum(np.log(np.arange(1, n + 1)))))
    return np.asarray(log_factorial[n] - log_factorial[won] - log_factorial[lost] - log_factorial[n - won - lost])


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """Adjusted p-values that control the family-wise error. Source: Holm 1979."""
    adjusted: dict[str, float] = {}
    largest = 0.0
    ordered = sorted(p_values.items(), key=lambda item: item[1])
    for rank, (name, p_value) in enumerate(ordered):
        largest = max(largest, min(1.0, (len(ordered) - rank) * p_value))
        adjusted[name] = largest
    return {name: adjusted[name] for name in p_values}


def holm_levels(p_values: Mapping[str, float], level: float) -> dict[str, float]:
    """The level at which Holm's step-down tests each hypothesis: what the bound that goes with the test is taken at.

    The smallest p-value is tested at level / m, the next at level / (m - 1) and so on; from the first that is not
    rejected on, all keep the level of that step. For those that are not rejected, the bounds at these levels hold
    together with confidence 1 - level. Source: Strassburger & Bretz 2008, Statistics in Medicine 27, 4914-4927.
    """
    levels: dict[str, float] = {}
    step, stopped = level, False
    for rank, (name, p_value) in enumerate(sorted(p_values.items(), key=lambda item: item[1])):
        if not stopped:
            step = level / (len(p_values) - rank)
            stopped = p_value > step
        levels[name] = step
    return levels


def missing_labels(observed: Pairs, margin: float, confidence: float, *, comparisons: int = 1) -> int | None:
    """How many more labelled cases would decide the test, if the observed shares are the true ones.

    The score grows with the square root of the cases, so the count follows from it; with power DECIDING_POWER, in
    whichever direction the observation points. `comparisons` tightens the level as Holm's first step does.
    Returns None where no feasible number would: the observed difference is at the margin.
    """
    score = abs(tango_score(observed, -margin))
    needed = NormalDist().inv_cdf(1 - (1 - confidence) / comparisons) + NormalDist().inv_cdf(DECIDING_POWER)
    if score <= 0 or not math.isfinite(score):
        return None if score <= 0 else 1
    total = math.ceil(observed.n * (needed / score) ** 2)
    return None if total > MAX_LABELS else max(1, total - observed.n)
