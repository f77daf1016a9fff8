"""Other ways to prove that a mean loss is at most `most`, to compare `betting.proves` with. All but the last are valid
for any distribution of losses in [-1, 1] and any n.

Each takes losses [draws, n], independent in a row, and gives one answer a row, wrong with a probability of at most
`level` where the mean loss is above `most`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from trainer.tune.betting import proves

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]
Test = Callable[[Floats, float, float], Flags]


def hedged_betting(losses: Floats, most: float, level: float) -> Flags:
    return proves(most - losses, lowest=most - 1.0, level=level)


def waudby_smith_ramdas(losses: Floats, most: float, level: float) -> Flags:
    """Betting with predictable plug-in stakes, as in Bates et al. 2021, prop. 5, on losses brought to [0, 1]."""
    n = losses.shape[1]
    unit, goal = (losses + 1.0) / 2.0, (most + 1.0) / 2.0
    counts = np.arange(1, n + 1)
    means = (0.5 + np.cumsum(unit, axis=1)) / (1 + counts)
    variances = (0.25 + np.cumsum(np.square(unit - means), axis=1)) / (1 + counts)
    before = np.concatenate([np.full((len(unit), 1), 0.25), variances[:, :-1]], axis=1)
    stakes = np.minimum(1.0, np.sqrt(2.0 * math.log(1.0 / level) / (n * before)))
    wealth = np.cumsum(np.log1p(stakes * (goal - unit)), axis=1)
    found: Flags = wealth.max(axis=1) >= math.log(1.0 / level)
    return found


def hoeffding_bentkus(losses: Floats, most: float, level: float) -> Flags:
    """The smaller of both p-values, as in Bates et al. 2021, prop. 4, on losses brought to [0, 1]."""
    n = losses.shape[1]
    mean, goal = (losses.mean(axis=1) + 1.0) / 2.0, (most + 1.0) / 2.0
    below = np.clip(np.minimum(mean, goal), 1e-12, 1.0 - 1e-12)
    divergence = below * np.log(below / goal) + (1.0 - below) * np.log((1.0 - below) / (1.0 - goal))
    bentkus = math.e * _binomial_cdf(n, goal)[np.minimum(np.ceil(n * mean - 1e-9).astype(np.intp), n)]
    found: Flags = np.minimum(np.exp(-n * divergence), bentkus) <= level
    return found


def empirical_bernstein(losses: Floats, most: float, level: float) -> Flags:
    """Maurer & Pontil 2009, theorem 4; the range of a loss is 2."""
    n = losses.shape[1]
    logarithm = math.log(2.0 / level)
    bound = np.sqrt(2.0 * losses.var(axis=1, ddof=1) * logarithm / n) + 2.0 * 7.0 * logarithm / (3.0 * (n - 1))
    found: Flags = losses.mean(axis=1) + bound <= most
    return found


def clopper_pearson(losses: Floats, most: float, level: float) -> Flags:
    """Losses of -1, 0 and 1 only: the upper limit of P(1) less the lower one of P(-1), each at half the level."""
    n = losses.shape[1]
    upper = _upper_limits(n, level / 2.0)
    lost, won = (losses > 0).sum(axis=1), (losses < 0).sum(axis=1)
    found: Flags = upper[lost] - (1.0 - upper[n - won]) <= most
    return found


def normal_approximation(losses: Floats, most: float, level: float) -> Flags:
    """No guarantee: what a test could reach if the mean were normal and its standard error known."""
    n = losses.shape[1]
    error = losses.std(axis=1, ddof=1) / math.sqrt(n)
    found: Flags = losses.mean(axis=1) + NormalDist().inv_cdf(1.0 - level) * error <= most
    return found


TESTS: dict[str, Test] = {
    "Hoeffding-Bentkus": hoeffding_bentkus,
    "empirical Bernstein": empirical_bernstein,
    "Clopper-Pearson, both signs": clopper_pearson,
    "WSR betting": waudby_smith_ramdas,
    "hedged betting (locum tune)": hedged_betting,
    "normal, no guarantee": normal_approximation,
}


@lru_cache(maxsize=8)
def _log_factorials(n: int) -> Floats:
    return np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, n + 1)))])


@lru_cache(maxsize=8)
def _binomial_cdf(n: int, p: float) -> Floats:
    """P(Bin(n, p) <= k) for k = 0 ... n."""
    below: Floats = np.minimum(np.cumsum(np.exp(_log_pmf(n, np.array([p]))[0])), 1.0)
    return below


def _log_pmf(n: int, p: Floats) -> Floats:
    """[len(p), n + 1]"""
    table, k = _log_factorials(n), np.arange(n + 1)
    chosen = table[n] - table[k] - table[n - k]
    result: Floats = chosen + k * np.log(p)[:, None] + (n - k) * np.log1p(-p)[:, None]
    return result


@lru_cache(maxsize=8)
def _upper_limits(n: int, level: float) -> Floats:
    """Clopper & Pearson's upper limit for k = 0 ... n successes, rounded up to a grid of 4,000 shares."""
    limits = np.ones(n + 1)
    shares = np.linspace(0.0, 1.0, 4001)[1:-1]
    for part in np.array_split(shares[::-1], 40):  # falling: the smallest share that is still refuted stays
        cdf = np.cumsum(np.exp(_log_pmf(n, part)), axis=1)
        for share, row in zip(part.tolist(), cdf, strict=True):
            limits[row <= level] = share
    return limits
