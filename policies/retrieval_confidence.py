"""`retrieval_confidence`: is the retrieved context good enough for the student to answer from?"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

from pydantic import Field

from policies.base import Abstain, PolicyModel, RequestFeatures, RouteDecision, Signal, escalate

Aggregate = Literal["top1", "mean_k", "margin"]


class RetrievalConfidence(PolicyModel):
    """Escalates when P(the retrieved context is sufficient) is below `escalate_below`."""

    escalate_below: float = Field(0.55, ge=0.0, le=1.0, description="Confidence below which the teacher answers.")
    aggregate: Aggregate = Field("top1", description="How the chunk scores become one confidence.")
    k: int = Field(3, ge=1, le=100, description="Chunks that `mean_k` averages.")
    min_chunks: int = Field(1, ge=1, le=100, description="With fewer scored chunks the confidence is unknown.")
    escalate_when_empty: bool = Field(True, description="Escalate when the client searched and found nothing.")
    compute: bool = Field(False, description="Measure similarities locally when scores are missing ([semantic]).")

    @property
    def name(self) -> str:
        return "retrieval_confidence"

    @property
    def reasons(self) -> frozenset[str]:
        return frozenset(
            {
                "low_confidence", "confident", "nothing_retrieved", "no_retrieval", "too_few_chunks",
                "scores_missing", "scores_uncalibrated", "similarity_unavailable",
            }
        )

    def optional_signals(self) -> frozenset[Signal]:
        return frozenset({Signal.CHUNK_SIMILARITIES}) if self.compute else frozenset()

    def needs(self, features: RequestFeatures) -> Signal | None:
        if not self.compute or features.retrieval_confidence is not None or not features.chunks:
            return None
        if isinstance(self._from_scores(features), float):
            return None
        signals = features.signals
        if signals.chunk_similarities is not None or Signal.CHUNK_SIMILARITIES in signals.unavailable:
            return None
        return Signal.CHUNK_SIMILARITIES

    def decide(self, features: RequestFeatures) -> RouteDecision | Abstain | None:
        threshold = 1.0 - self.escalate_below
        confidence = self._confidence(features)
        if isinstance(confidence, str):
            if confidence == "nothing_retrieved" and self.escalate_when_empty:
                return escalate(confidence, score=1.0, threshold=threshold)
            return Abstain(reason=confidence, threshold=threshold)
        if confidence < self.escalate_below:
            return escalate("low_confidence", score=1.0 - confidence, threshold=threshold)
        return Abstain(reason="confident", score=1.0 - confidence, threshold=threshold)

    def _confidence(self, features: RequestFeatures) -> float | str:
        if features.retrieval_confidence is not None:
            return features.retrieval_confidence
        if not features.chunks:
            return "nothing_retrieved" if features.retrieval_attempted else "no_retrieval"
        stated = self._from_scores(features)
        if isinstance(stated, float) or not self.compute:
            return stated
        similarities = features.signals.chunk_similarities
        if not similarities:
            return "similarity_unavailable"
        return self._aggregated([min(1.0, max(0.0, value)) for value in similarities])

    def _from_scores(self, features: RequestFeatures) -> float | str:
        scores = [chunk.score for chunk in features.chunks if chunk.score is not None]
        if not scores:
            return "scores_missing"
        if not all(math.isfinite(score) and 0.0 <= score <= 1.0 for score in scores):
            return "scores_uncalibrated"
        return self._aggregated(scores)

    def _aggregated(self, scores: Sequence[float]) -> float | str:
        if len(scores) < max(self.min_chunks, 2 if self.aggregate == "margin" else 1):
            return "too_few_chunks"
        ranked = sorted(scores, reverse=True)
        if self.aggregate == "top1":
            return float(ranked[0])
        if self.aggregate == "margin":
            return float(ranked[0] - ranked[1])
        best = ranked[: self.k]
        return float(sum(best) / len(best))
