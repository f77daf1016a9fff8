"""The wealth process behind a guarantee: rarely wrong, and nearly as strong as the normal approximation."""

from __future__ import annotations

import numpy as np
import pytest

from tests.effort import examples
from trainer.tune.betting import MAX_STAKES, proves
from trainer.tune.bounds import TESTS, hedged_betting, normal_approximation, waudby_smith_ramdas

DRAWS = examples(2000)


def losses(p_lost: float, p_won: float, n: int, *, seed: int, draws: int = DRAWS) -> np.ndarray:
    """1 with p_lost, -1 with p_won, else 0."""
    uniform = np.random.default_rng(seed).random((draws, n))
    return np.where(uniform < p_lost, 1.0, np.where(uniform > 1.0 - p_won, -1.0, 0.0))


@pytest.mark.parametrize(("p_lost", "p_won"), [(0.02, 0.0), (0.07, 0.05), (0.3, 0.28), (0.021, 0.001)])
@pytest.mark.parametrize("n", [300, 1500])
def test_betting_is_wrong_in_at_most_five_per_cent_when_the_loss_is_the_promised_one(
    p_lost: float, p_won: float, n: int
) -> None:
    wrong = hedged_betting(losses(p_lost, p_won, n, seed=n), p_lost - p_won, 0.05)
    assert wrong.mean() <= 0.05 + 2 * np.sqrt(0.05 * 0.95 / DRAWS)


def test_betting_is_wrong_rarely_when_values_are_real_numbers_of_different_weight() -> None:
    generator = np.random.default_rng(3)
    values = generator.choice([-0.5, 0.25, 0.25], size=(DRAWS, 600)) * generator.choice([1.0, 5.0], size=(DRAWS, 600))
    assert proves(values, lowest=-2.5, level=0.05).mean() <= 0.05 + 2 * np.sqrt(0.05 * 0.95 / DRAWS)


def test_betting_holds_its_level_when_a_game_has_more_values_than_stakes() -> None:
    wrong = hedged_betting(losses(0.05, 0.03, 4 * MAX_STAKES + 3, seed=5, draws=600), 0.02, 0.05)
    assert wrong.mean() <= 0.07


def test_betting_proves_nearly_as_often_as_the_normal_approximation_when_the_claim_is_true() -> None:
    drawn = losses(0.05, 0.042, 2000, seed=1, draws=600)
    ours, normal, other = (
        test(drawn, 0.02, 0.05).mean() for test in (hedged_betting, normal_approximation, waudby_smith_ramdas)
    )
    assert ours > normal - 0.08
    assert ours > other + 0.05


def test_betting_proves_nothing_when_there_are_too_few_values() -> None:
    assert not proves(np.full(100, 0.01), lowest=-0.99, level=0.05)
    assert proves(np.full(600, 0.01), lowest=-0.99, level=0.05)


@pytest.mark.parametrize("name", [name for name in TESTS if "no guarantee" not in name])
def test_other_proofs_hold_their_level_too_when_they_are_compared(name: str) -> None:
    wrong = TESTS[name](losses(0.07, 0.05, 500, seed=8, draws=1000), 0.02, 0.05)
    assert wrong.mean() <= 0.06
