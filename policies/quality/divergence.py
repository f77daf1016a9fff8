"""How different two samples are, and how surely: effect sizes with p-values that hold at tiny levels as well.

An alarm that looks at the data thousands of times a month needs levels around 1e-9. There the normal approximation of
a z-test is wrong by orders of magnitude, so each p-value here is exact or a bound.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import accumulate
from typing import NamedTuple

_NEGLIGIBLE = 1e-12


class Divergence(NamedTuple):
    """Of a current sample from a reference."""

    effect: float
    """Signed where a direction makes sense; 0 = the same."""
    log_p: float
    """Natural logarithm of the two-sided p-value of "nothing has changed"."""


NONE = Divergence(0.0, 0.0)


def of_rates(hits: int, n: int, reference_hits: int, reference_n: int) -> Divergence:
    """Difference of two shares, with the p-value of Fisher's exact test (one-sided, doubled)."""
    if not n or not reference_n:
        return NONE
    effect = hits / n - reference_hits / reference_n
    if effect >= 0:
        log_p = _log_upper_tail(hits, n, hits + reference_hits, n + reference_n)
    else:
        log_p = _log_upper_tail(reference_hits, reference_n, hits + reference_hits, n + reference_n)
    return Divergence(effect, min(0.0, log_p + math.log(2)))


def _log_upper_tail(hits: int, drawn: int, all_hits: int, total: int) -> float:
    """log P(X >= hits) for X hypergeometric: `drawn` of `total`, of which `all_hits` are hits."""
    first = _log_choose(all_hits, hits) + _log_choose(total - all_hits, drawn - hits) - _log_choose(total, drawn)
    term = sums = 1.0
    for x in range(hits, min(all_hits, drawn)):  # the terms fall from here on: `hits` is above the mean
        term *= (all_hits - x) * (drawn - x) / ((x + 1) * (total - all_hits - drawn + x + 1))
        sums += term
        if term < _NEGLIGIBLE * sums:
            break
    return first + math.log(sums)


def _log_choose(n: int, k: int) -> float:
    return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)


def of_histograms(counts: Sequence[int], reference: Sequence[int]) -> Divergence:
    """Largest difference of the two distribution functions (Kolmogorov-Smirnov), over bins in their order.

    The p-value is the first term of Smirnov's series, which bounds it from above; on bins it is larger still than the
    true one. Source: Wei & Dudley 2012, arXiv:1107.5356 (two-sample Dvoretzky-Kiefer-Wolfowitz-Massart).
    """
    n, m = sum(counts), sum(reference)
    if not n or not m:
        return NONE
    gaps = (a / n - b / m for a, b in zip(accumulate(counts), accumulate(reference), strict=True))
    distance = max(abs(gap) for gap in gaps)
    return Divergence(distance, min(0.0, math.log(2) - 2 * distance * distance * n * m / (n + m)))


def of_predictions(excess: float, variance: float, n: int) -> Divergence:
    """Mean of outcomes minus stated probabilities.

    What is summed is a martingale while the probabilities are right, whichever cases are graded, as long as that is
    decided before their outcome is known. Source: Freedman 1975 (a Bernstein bound for martingales).

    Args:
        excess: sum of (outcome - p), each within [-1, 1].
        variance: sum of p * (1 - p).
    """
    if not n:
        return NONE
    distance = abs(excess)
    log_p = math.log(2) - distance * distance / (2 * (variance + distance / 3)) if distance else 0.0
    return Divergence(excess / n, min(0.0, log_p))
