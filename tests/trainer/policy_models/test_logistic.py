"""The solver and the AUROC against values that are known."""

from __future__ import annotations

import random

import pytest

from policies.calibration import sigmoid
from trainer.policy_models.logistic import SparseRow, auroc, fit


def simulated(n: int) -> tuple[list[SparseRow], list[int]]:
    """Labels drawn from sigmoid(2 x0 - 3 x1 + 0.5)."""
    rng = random.Random(0)
    rows: list[SparseRow] = [[(0, rng.uniform(-1, 1)), (1, rng.uniform(-1, 1))] for _ in range(n)]
    return rows, [int(rng.random() < sigmoid(2 * row[0][1] - 3 * row[1][1] + 0.5)) for row in rows]


def test_fit_recovers_the_weights_that_made_the_labels() -> None:
    rows, labels = simulated(8_000)
    weights, intercept = fit(rows, labels, [1.0] * len(rows), [0.0, 0.0], epochs=20)
    assert weights == pytest.approx([2, -3], abs=0.3)
    assert intercept == pytest.approx(0.5, abs=0.15)


def test_penalty_pulls_weights_to_zero() -> None:
    rows, labels = simulated(2_000)
    free, _ = fit(rows, labels, [1.0] * len(rows), [0.0, 0.0])
    held, _ = fit(rows, labels, [1.0] * len(rows), [2_000.0, 0.0])
    assert abs(held[0]) < 0.5 * abs(free[0])
    assert abs(held[1]) > 0.5 * abs(free[1])


def test_fit_is_deterministic() -> None:
    rows, labels = simulated(300)
    assert fit(rows, labels, [1.0] * 300, [1.0, 1.0]) == fit(rows, labels, [1.0] * 300, [1.0, 1.0])


def test_row_weights_count_a_row_as_often_as_they_say() -> None:
    rows: list[SparseRow] = [[(0, 1.0)], [(0, 1.0)]]
    _, even = fit(rows, [1, 0], [1.0, 1.0], [1e6], epochs=200)
    _, skewed = fit(rows, [1, 0], [1.5, 0.5], [1e6], epochs=200)
    assert sigmoid(even) == pytest.approx(0.5, abs=0.05)
    assert sigmoid(skewed) == pytest.approx(0.75, abs=0.07)


@pytest.mark.parametrize(
    ("positive", "negative", "expected"),
    [
        ([0.9, 0.8], [0.1, 0.2], 1.0), ([0.1], [0.9], 0.0), ([0.5], [0.5], 0.5), ([0.9, 0.3], [0.5], 0.5),
        ([1, 1, 0], [0, 0, 1], 2 / 3), ([], [0.5], None), ([0.5], [], None),
    ],
)  # fmt: skip
def test_auroc_is_the_share_of_ordered_pairs(
    positive: list[float], negative: list[float], expected: float | None
) -> None:
    assert auroc(positive, negative) == (None if expected is None else pytest.approx(expected))


def test_auroc_equals_the_count_over_all_pairs() -> None:
    rng = random.Random(3)
    positive = [rng.randint(0, 20) for _ in range(60)]
    negative = [rng.randint(0, 15) for _ in range(50)]
    pairs = sum((p > n) + 0.5 * (p == n) for p in positive for n in negative)
    assert auroc(positive, negative) == pytest.approx(pairs / (60 * 50))
