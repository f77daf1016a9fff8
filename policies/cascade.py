"""`cascade`: the student answers first, and its own uncertainty says whether the teacher should answer instead.

The signal is the mean logprob of the draft's tokens. By itself it is no probability, and it means something else for
every student: a calibrator, fitted on labelled answers of that very student (`locum tune`, or the trainer's stage
recalibrate), turns it into P(the answer is right). Where none fits, the policy has no opinion and says why.

A stream is judged by its first tokens, before the client sees any of them. An answer that ends within the window is
judged like a plain one. A longer one is scored by the same calibrator although that was fitted on means of whole
answers: an approximation, and as long as no calibrator is fitted on prefixes its scores are no tuned probabilities.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import Field, PrivateAttr

from policies import artefact
from policies.base import (
    Abstain,
    CommitWindow,
    PolicyConfigError,
    RequestFeatures,
    ReviewerModel,
    RouteDecision,
    StudentDefaults,
    escalate,
)
from policies.calibration import MEAN_LOGPROB, CalibratorArtefact, load
from policies.record import Draft

REASONS = frozenset(
    {
        "low_confidence",
        "confident",
        "empty_answer",
        "truncated",
        "no_logprobs",  # the backend gave none: they were not asked for, or the answer has more than one choice
        "no_calibrator",  # neither the options nor the student's bundle have one
        "no_threshold",  # neither the options nor the bundle have one that was tuned for this calibrator
        "other_student",  # the calibrator was fitted on the answers of another student
    }
)
CALLS = frozenset({"tool_calls", "function_call"})
"""Finish reasons of an answer that is a call: it has no text and is not empty."""


class Cascade(ReviewerModel):
    """Lets the student answer and escalates when P(its draft is wrong) is above `threshold`.

    A cascade pays for the draft as well: its cost, relative to all-teacher, is the escalated share plus the student's
    relative cost. `locum tune` sets the threshold from labelled requests.
    """

    calibrator: str | None = Field(
        None,
        description="Artefact that maps the draft's mean logprob to P(it is right) (`locum tune --out`); default: the "
        "one in the student's bundle.",
    )
    threshold: float | None = Field(
        None,
        ge=0.0,
        le=1.0,
        description="P(the draft is wrong) above which the teacher answers; default: the bundle's, if the "
        "calibrator is the bundle's too.",
    )
    escalate_empty: bool = Field(True, description="Escalate a draft without text that is no tool call either.")
    escalate_truncated: bool = Field(
        False,
        description="Escalate a draft that ended at its token limit. Off: the client's limit would cut the teacher's "
        "answer as well.",
    )
    commit_window_tokens: int = Field(
        16,
        ge=0,
        le=1024,
        description="Streams: tokens of the draft that are held back until it is judged by them; an answer that ends "
        "within them is judged as a whole. 0: streams are not reviewed.",
    )
    commit_window_s: float = Field(
        2.0,
        gt=0.0,
        le=60.0,
        description="Streams: the draft is judged by what there is of it so long after its first token at the latest.",
    )

    _fitted: CalibratorArtefact | None = PrivateAttr(default=None)
    _other_student: bool = PrivateAttr(default=False)

    def model_post_init(self, context: Any, /) -> None:
        if self.calibrator is not None:
            self._fitted = _load(Path(self.calibrator))

    @property
    def name(self) -> str:
        return "cascade"

    @property
    def reasons(self) -> frozenset[str]:
        return REASONS

    def for_student(self, student: StudentDefaults) -> Cascade:
        """This policy with what the bundle brings where the options say nothing.

        A threshold was tuned on the scores of one calibrator and means nothing on another's: beside a configured
        calibrator the bundle's threshold counts only when both map alike.

        Raises: PolicyConfigError: the bundle's calibrator cannot be used.
        """
        threshold, configured, bundled = self.threshold, self._fitted, None
        if student.calibrator is not None and (configured is None or threshold is None):
            bundled = _load(student.calibrator)
        if threshold is None and _same_scores(configured, bundled):
            threshold = student.cascade_threshold
        bound = self.model_copy(update={"threshold": threshold})
        bound._fitted = configured or bundled
        # What lies in the bundle is this student's.
        bound._other_student = configured is not None and not _fits(configured, student)
        return bound

    @property
    def commit_window(self) -> CommitWindow | None:
        """The tokens are the delay that every stream pays: 16 take 0.16 s at 100 tokens/s, and labels, names and short
        facts fit into them as a whole."""
        if not self.commit_window_tokens:
            return None
        return CommitWindow(tokens=self.commit_window_tokens, time_s=self.commit_window_s)

    @property
    def warning(self) -> str | None:
        """What `locum check` says of options that are valid and may keep the policy from deciding."""
        if self.calibrator is None or self.threshold is not None:
            return None
        return (
            "cascade: `calibrator` is set without `threshold`. A bundle's threshold belongs to the bundle's own "
            "calibrator: with another one the cascade abstains with `no_threshold`. Set both (`locum tune --out` "
            "writes them together) or neither"
        )

    def review(self, features: RequestFeatures, draft: Draft) -> RouteDecision | Abstain | None:
        if self.escalate_empty and not draft.prefix and is_empty(draft.text, draft.finish_reason):
            return escalate("empty_answer", score=1.0, threshold=self.threshold)
        if self.escalate_truncated and draft.finish_reason == "length":
            return escalate("truncated", score=1.0, threshold=self.threshold)
        score = self._score(draft)
        if isinstance(score, str):
            return Abstain(reason=score, threshold=self.threshold)
        if self.threshold is None:
            return Abstain(reason="no_threshold", score=score)
        if score > self.threshold:
            return escalate("low_confidence", score=score, threshold=self.threshold)
        return Abstain(reason="confident", score=score, threshold=self.threshold)

    def _score(self, draft: Draft) -> float | str:
        """P(the draft is wrong), or the reason why it is unknown."""
        if self._fitted is None:
            return "no_calibrator"
        if self._other_student:
            return "other_student"
        confidence = None if draft.mean_logprob is None else self._fitted.calibrator.confidence(draft.mean_logprob)
        return "no_logprobs" if confidence is None else 1.0 - confidence


def _load(path: Path) -> CalibratorArtefact:
    """Raises: PolicyConfigError: it cannot be read, or was fitted on something else than mean logprobs."""
    try:
        fitted = load(path)
    except artefact.ArtefactError as exc:
        raise PolicyConfigError(f"calibrator: {exc}") from exc
    if fitted.raw != MEAN_LOGPROB:
        raise PolicyConfigError(
            f"calibrator: {path.name} was fitted on {fitted.raw!r}, but a cascade needs {MEAN_LOGPROB!r}: "
            "fit one with `locum tune`"
        )
    return fitted


def _same_scores(configured: CalibratorArtefact | None, bundled: CalibratorArtefact | None) -> bool:
    """Whether a threshold that was tuned for the bundle's calibrator may be used."""
    return configured is None or (bundled is not None and configured.calibrator == bundled.calibrator)


def _fits(fitted: CalibratorArtefact, student: StudentDefaults) -> bool:
    """Whether it was fitted on this student. The same model in another bundle gives the same logprobs."""
    if fitted.student in ("", student.bundle_id):
        return True
    return bool(fitted.student_model_sha256) and fitted.student_model_sha256 == student.model_sha256


def is_empty(text: str | None, finish_reason: str | None) -> bool:
    """Whether an answer has no content. Without its text (None) that is not known, and taken for no."""
    return text is not None and not text.strip() and finish_reason not in CALLS
