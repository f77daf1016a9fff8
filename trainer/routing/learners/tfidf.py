"""The baseline that learned routing before generation is held against: TF-IDF words and one logistic regression."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression

from trainer.routing.learners.prompt import texts_of
from trainer.routing.outcomes import Floats, Ints, Outcomes


@dataclass(frozen=True, eq=False)
class TfidfScorer:
    """P(strong better)."""

    vectorizer: TfidfVectorizer
    model: LogisticRegression | None
    """None: the strong model is better always or never."""

    def score(self, rows: Outcomes) -> Floats:
        if self.model is None:
            return np.zeros(len(rows))
        chances: Floats = self.model.predict_proba(self.vectorizer.transform(texts_of(rows)))
        return chances[:, 1]


@dataclass(frozen=True)
class TfidfLearner:
    """scikit-learn's defaults throughout. Frozen, as a baseline is."""

    name: str = "tfidf"

    def fit(self, rows: Outcomes, *, groups: Ints, seed: int) -> TfidfScorer:
        """`groups` and `seed` change nothing: nothing is chosen inside and nothing is random."""
        vectorizer = TfidfVectorizer()
        matrix = vectorizer.fit_transform(texts_of(rows))
        better = rows.advantage > 0
        if better.all() or not better.any():
            return TfidfScorer(vectorizer, None)
        return TfidfScorer(vectorizer, LogisticRegression(solver="liblinear").fit(matrix, better))
