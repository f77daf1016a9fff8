"""P(wrong) of answers and of their beginnings, by curves that never saw them: as the gateway would have scored them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from policies.calibration import MEAN_LOGPROB, CalibratorArtefact, fit
from policies.draft_signals import PREFIX_TOKENS
from policies.prefix_calibration import Answer, fit_prefixes, prefix_curve
from trainer.window.collect import Row

FOLDS = 5
Floats: TypeAlias = NDArray[np.float64]
Bools: TypeAlias = NDArray[np.bool_]


def mean_of(row: Row, tokens: int) -> float:
    """Mean logprob of the first tokens, or of the whole answer without its stop token where that ends within them; 0:
    of the whole answer. As `policies.drafts.logprobs.mean_logprob` takes it."""
    content = row.logprobs[: len(row.logprobs) - row.stop_token]
    seen = content[:tokens] if 0 < tokens < len(row.logprobs) else content
    return sum(seen) / len(seen)


def fitted(rows: Sequence[Row]) -> CalibratorArtefact:
    """What `locum tune` would make of these answers. Raises: ValueError: all are right, or all are wrong."""
    curves = fit_prefixes(Answer(_prefix_means(row), len(row.logprobs), row.right) for row in rows)
    return CalibratorArtefact(
        calibrator=fit([mean_of(row, 0) for row in rows], [row.right for row in rows]), raw=MEAN_LOGPROB, source="",
        n=len(rows), n_sufficient=sum(row.right for row in rows), ece=0.0, reliability=(), prefixes=curves,
    )  # fmt: skip


def _prefix_means(row: Row) -> tuple[float, ...]:
    return tuple(mean_of(row, tokens) for tokens in PREFIX_TOKENS if tokens < len(row.logprobs))


class Scores:
    """P(wrong) of answers, each by curves of its own."""

    def __init__(self, rows: Sequence[Row], curves: Sequence[CalibratorArtefact]) -> None:
        self.rows = rows
        self.wrong: Bools = np.array([not row.right for row in rows])
        self._curves = curves

    @classmethod
    def cross_fitted(cls, rows: Sequence[Row]) -> Scores:
        """Every answer by curves that were fitted on the other folds."""
        folds = [fitted([row for place, row in enumerate(rows) if place % FOLDS != out]) for out in range(FOLDS)]
        return cls(rows, [folds[place % FOLDS] for place in range(len(rows))])

    def at(self, tokens: int) -> Floats:
        """[n]: P(wrong) at this window; 0: of the whole answer."""
        return np.array([self._one(place, tokens) for place in range(len(self.rows))])

    def _one(self, place: int, tokens: int) -> float:
        row, curves = self.rows[place], self._curves[place]
        goes_on = 0 < tokens < len(row.logprobs)
        curve = prefix_curve(curves, tokens) if goes_on else curves.calibrator
        return 1.0 - (curve.confidence(mean_of(row, tokens)) or 0.0)

    def of_last(self, place: int, mean: float) -> float:
        """As a late alarm scores the mean of the last tokens: by the curve of whole answers."""
        return 1.0 - (self._curves[place].calibrator.confidence(mean) or 0.0)
