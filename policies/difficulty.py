"""`difficulty`: does the teacher answer this prompt better than the student? A score learned from labelled outcomes.

The artefact of the score comes from `locum evaluate --artefact-out`: fitted on the operator's own queries, of which it
is known how well either model answered them. There is no model that fits everybody's traffic, so none is shipped, and
without one the policy has no opinion. Where the score looks at the text alone it costs a fraction of a millisecond; an
embedding is measured by the gateway, off the event loop and within its budget, and when it does not come in time the
policy abstains rather than guess.
"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import Field, PrivateAttr

from policies import artefact
from policies.base import (
    Abstain,
    PolicyConfigError,
    PolicyModel,
    RequestFeatures,
    RouteDecision,
    Signal,
    StudentDefaults,
    escalate,
)
from policies.scoring.model import ScoreModel, StaleModel, TrainingData, load
from policies.tag_thresholds import ThresholdByTag

REASONS = frozenset(
    {
        "teacher_better",
        "student_enough",
        "no_model",  # the option is not set
        "stale_model",  # fitted for features that this version does not compute
        "other_student",  # fitted on the answers of another student
        "no_threshold",  # neither the options nor the artefact have one
        "no_text",
        "embedding_unavailable",  # not in time, not delivered, or of another size than the model's
    }
)


class _Fitted(NamedTuple):
    """What the option `model` leads to."""

    model: ScoreModel | None
    stale: str = ""
    """Why the file cannot be used by this version; empty when it can."""


class Difficulty(PolicyModel):
    """Escalates prompts that the teacher probably answers better, by a score learned from labelled outcomes."""

    model: str | None = Field(
        None,
        description="Artefact of the score (`locum evaluate --artefact-out`); without one the policy has no opinion.",
    )
    threshold: float | None = Field(
        None,
        ge=0.0,
        le=1.0,
        description="P(the teacher answers better) above which it does; default: the one in the artefact.",
    )
    threshold_by_tag: ThresholdByTag | None = Field(
        None, description="Other thresholds for some values of a tag, as `locum tune --per-tag` writes them."
    )
    use_embedding: bool = Field(
        False, description="Allow a model that needs an embedding of the prompt by the local encoder (`[semantic]`)."
    )

    _other_student: bool = PrivateAttr(default=False)

    def model_post_init(self, context: Any, /) -> None:
        fitted = self._fitted.model
        if fitted is not None and fitted.embedding_size is not None and not self.use_embedding:
            raise PolicyConfigError(
                f"use_embedding: {self.model} needs embeddings by {fitted.fitted.encoder}: set it to true, or fit a "
                "model of the text alone"
            )

    @cached_property
    def _fitted(self) -> _Fitted:
        if self.model is None:
            return _Fitted(None)
        try:
            return _Fitted(load(Path(self.model), use="prompt"))
        except StaleModel as exc:
            return _Fitted(None, stale=str(exc))
        except artefact.ArtefactError as exc:
            raise PolicyConfigError(f"model: {exc}") from exc

    @cached_property
    def _threshold(self) -> float | None:
        fitted = self._fitted.model
        if self.threshold is not None or fitted is None:
            return self.threshold
        return fitted.fitted.default_threshold

    @cached_property
    def _silent(self) -> Abstain | None:
        """The answer to every request where the options lead to no usable score."""
        model, stale = self._fitted
        if stale:
            return Abstain(reason="stale_model", threshold=self.threshold)
        if model is None:
            return Abstain(reason="no_model", threshold=self.threshold)
        return Abstain(reason="other_student", threshold=self._threshold) if self._other_student else None

    @property
    def name(self) -> str:
        return "difficulty"

    @property
    def reasons(self) -> frozenset[str]:
        return REASONS

    @property
    def warning(self) -> str | None:
        """What `locum check` says of options that are valid and keep the policy from deciding."""
        if self._fitted.stale:
            return f"difficulty: abstains with `stale_model`: {self._fitted.stale}"
        if self._fitted.model is None:
            return "difficulty: abstains with `no_model`: set `model` to an artefact of `locum evaluate --artefact-out`"
        if self._threshold is None:
            return "difficulty: abstains with `no_threshold`: its artefact has no threshold, so set one"
        return None

    @property
    def artefact_sha256(self) -> str | None:
        """What has to have voted in shadow before it decides, where the document asks for that."""
        fitted = self._fitted.model
        return fitted.sha256 if fitted is not None else None

    def for_student(self, student: StudentDefaults) -> Difficulty:
        """This policy, silent where its model was fitted on the answers of another student."""
        fitted = self._fitted.model
        bound = self.model_copy()
        bound.__dict__.pop("_silent", None)  # depends on the student
        bound._other_student = fitted is not None and not fits(fitted.fitted.training, student)
        return bound

    def optional_signals(self) -> frozenset[Signal]:
        return frozenset({Signal.PROMPT_EMBEDDING}) if self._needs_embedding else frozenset()

    @cached_property
    def _needs_embedding(self) -> bool:
        model = self._fitted.model
        return model is not None and model.embedding_size is not None

    def needs(self, features: RequestFeatures) -> Signal | None:
        if not self._needs_embedding or self._silent is not None or _is_blank(features.last_user_turn):
            return None
        if self._recorded(features) is not None:
            return None
        signals = features.signals
        known = signals.prompt_embedding is not None or Signal.PROMPT_EMBEDDING in signals.unavailable
        return None if known else Signal.PROMPT_EMBEDDING

    def decide(self, features: RequestFeatures) -> RouteDecision | Abstain | None:
        if self._silent is not None:
            return self._silent
        model, threshold = self._fitted.model, self._threshold
        if self.threshold_by_tag is not None:
            threshold = self.threshold_by_tag.of(features.tags, threshold)
        assert model is not None  # noqa: S101 - otherwise it is silent
        score = self._recorded(features)
        if score is None:
            if _is_blank(features.last_user_turn):
                return Abstain(reason="no_text", threshold=threshold)
            embedding = features.signals.prompt_embedding
            if model.embedding_size is not None and (embedding is None or len(embedding) != model.embedding_size):
                return Abstain(reason="embedding_unavailable", threshold=threshold)
            score = model.probability({}, features.last_user_turn, embedding)
        if threshold is None:
            return Abstain(reason="no_threshold", score=score)
        if score > threshold:
            return escalate("teacher_better", score=score, threshold=threshold)
        return Abstain(reason="student_enough", score=score, threshold=threshold)

    def _recorded(self, features: RequestFeatures) -> float | None:
        """What this very model said of the request when it was decided; None: no record tells."""
        scores, model = features.signals.scores, self._fitted.model
        return scores.get(model.sha256) if isinstance(scores, dict) and model is not None else None


def fits(training: TrainingData, student: StudentDefaults) -> bool:
    """Whether a score was learned from this student's answers. The same model in another bundle answers the same."""
    if training.student in ("", student.bundle_id):
        return True
    return bool(training.student_model_sha256) and training.student_model_sha256 == student.model_sha256


def _is_blank(text: str) -> bool:
    return not text or text.isspace()
