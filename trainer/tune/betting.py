"""Evidence that a mean is above 0: the wealth of a gambler who can only grow rich if it is.

Start with 1 and stake on every value in turn, at odds that are fair when the mean is 0: the wealth becomes the product
of 1 + stake * value. With a mean of 0 or less it is a supermartingale whatever the stakes are, as long as each is
chosen before its value is seen; so it ever reaches 1 / level with a probability of at most `level` (Ville 1939). That
is all the proof there is, for any n and any bounded distribution.

Which stakes reach 1 / level most often is another question. Testing at one fixed n pays 1 / level or nothing: a digital
option on the sum of the values. Its hedge (Black & Scholes 1973, zero drift) stakes the inverse Mills ratio of the part
of the goal that is reached, by the standard deviation of what is still to come. So the test loses next to nothing
against the normal approximation, which promises nothing: 1.65 standard errors, where stakes that do not look at the
goal (Waudby-Smith & Ramdas 2024) need about sqrt(2 ln(1/level)) = 2.45. The same thought with another stake: STaR-Bets
(Voracek & Orabona 2025).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import lru_cache
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]

MAX_PART = 0.75
"""Of the wealth that one value may take: a stake that risks all of it ends the game."""
OVERSHOOT = 0.1
"""The goal that the stakes aim at lies so far above 1 / level: a hedge slows down as it comes near."""
LAST_VALUES = 5
"""The stakes are those of a game that goes on for so many values: near the end a hedge would stake everything."""
PRIOR_VARIANCE, PRIOR_N = 0.1, 20
"""What the spread is taken for before any value is seen, and how many values that is worth."""
MAX_STAKES = 500
"""Different stakes in a game: of more values than that, some in a row have the same."""


def proves(values: Floats, *, lowest: float, level: float) -> Flags:
    """Whether the mean is above 0.

    Args:
        values: [..., n] independent draws in random order, or any order in which each has a conditional mean of at most
            0 when the claim is false.
        lowest: no value can be below it; negative.
        level: probability of a wrong True, at most.
    Returns:
        [...], one answer for each game.
    """
    played = np.ascontiguousarray(np.moveaxis(values, -1, 0))
    n, games = len(played), played.shape[1:]
    goal = -math.log(level)
    wealth = np.zeros(games)  # its logarithm
    won = np.zeros(games, dtype=bool)
    squares = np.full(games, PRIOR_VARIANCE * lowest * lowest * PRIOR_N)
    for start, stop in _blocks(n):
        spread = np.sqrt(squares / (start + PRIOR_N) * (n - start + LAST_VALUES))
        stake = np.minimum(_inverse_mills(wealth - goal - OVERSHOOT) / spread, -MAX_PART / lowest)
        stake = np.where(won, 0.0, stake)
        block = played[start:stop]
        wealth += np.log1p(stake * block).sum(axis=0)
        won |= wealth >= goal
        if won.all():
            break
        squares += np.square(block).sum(axis=0)
    return won


def _blocks(n: int) -> Iterator[tuple[int, int]]:
    length = -(-n // MAX_STAKES)
    return ((start, min(start + length, n)) for start in range(0, n, length))


def _inverse_mills(log_share: Floats) -> Floats:
    """phi(z) / Phi(z) at the z where Phi(z) = exp(log_share), by interpolation; log_share below 0."""
    grid, ratios = _mills_table()
    inside = np.interp(log_share, grid, ratios)
    return np.where(log_share < grid[0], np.sqrt(-2.0 * np.minimum(log_share, -1.0)), inside)


@lru_cache(maxsize=1)
def _mills_table() -> tuple[Floats, Floats]:
    normal = NormalDist()
    shares = np.exp(np.concatenate([np.arange(-30.0, -0.02, 0.02), np.linspace(-0.02, -1e-6, 200)]))
    ratios = [normal.pdf(normal.inv_cdf(share)) / share for share in shares.tolist()]
    return np.log(shares), np.array(ratios)
