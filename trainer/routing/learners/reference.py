"""The frozen reference: what anyone would fit first, so that a better score can be told from an easier measurement.

Logistic regression on the signals of the weak model's answer, with the target "strong better" (what is won by
escalating, not whether the weak model is wrong). It never looks at the text. It is not improved: every published
comparison is against these very lines, and a change of them would change all of those.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from sklearn.linear_model import LogisticRegression

from trainer.routing.outcomes import Floats, Ints, Outcomes


@dataclass(frozen=True)
class SignalColumns:
    """Signals as columns of a linear model, on the scale of the rows that it was fitted on."""

    mean: Floats
    """[k], of the values that are there."""
    scale: Floats
    """[k], their standard deviation; 1 where they do not differ."""
    levels: tuple[tuple[str, tuple[str, ...]], ...]
    """Each categorical signal with its values in the training rows; another value later on is none of them."""

    @classmethod
    def of(cls, rows: Outcomes) -> SignalColumns:
        mean, scale = [], []
        for column in rows.signals.T:
            present = column[~np.isnan(column)]
            spread = float(present.std()) if present.size else 0.0
            mean.append(float(present.mean()) if present.size else 0.0)
            scale.append(spread if spread > 0 else 1.0)
        levels = tuple((name, tuple(sorted(set(values)))) for name, values in sorted(rows.categorical.items()))
        return cls(np.array(mean), np.array(scale), levels)

    def matrix(self, rows: Outcomes) -> Floats:
        """[n, 2 k + number of levels]: standardised values, 0 where one is missing; what is missing; one-hot levels."""
        missing = np.isnan(rows.signals)
        values = np.where(missing, 0.0, (rows.signals - self.mean) / self.scale)
        one_hot = [
            np.array([[value == level for level in known] for value in rows.categorical[name]], dtype=np.float64)
            for name, known in self.levels
        ]
        return np.hstack([values, missing.astype(np.float64), *one_hot])


@dataclass(frozen=True)
class ReferenceScorer:
    """P(strong better) by one logistic regression."""

    columns: SignalColumns
    model: LogisticRegression | None
    """None where the strong model is better always or never: nothing tells the rows apart then."""

    def score(self, rows: Outcomes) -> Floats:
        if self.model is None:
            return np.zeros(len(rows))
        chances: Floats = self.model.predict_proba(self.columns.matrix(rows))
        return chances[:, 1]


@dataclass(frozen=True)
class Reference:
    """`LogisticRegression(C=1)` of scikit-learn on standardised signals and indicators of missing ones."""

    name: str = "reference"

    def fit(self, rows: Outcomes, *, groups: Ints, seed: int) -> ReferenceScorer:
        """Fits on all rows; `groups` and `seed` change nothing, as nothing is chosen inside and nothing is random."""
        better = rows.strong > rows.weak
        columns = SignalColumns.of(rows)
        matrix = columns.matrix(rows)
        if matrix.shape[1] == 0 or better.all() or not better.any():
            return ReferenceScorer(columns, None)
        model = LogisticRegression(C=1.0, max_iter=1_000)
        model.fit(matrix, better)
        return ReferenceScorer(columns, model)
