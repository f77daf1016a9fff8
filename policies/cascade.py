"""`cascade`: the student answers first, and its own uncertainty says whether the teacher should answer instead.

What cannot be an answer at all is sorted out first (policies/drafts/validity.py). For the rest the signal is the mean
logprob of the draft's tokens. By itself it is no probability, and it means something else for every student: a
calibrator, fitted on labelled answers of that very student (`locum tune`, or the trainer's stage recalibrate), turns it
into P(the answer is right). A model of all signals (`locum evaluate --artefact-out`) takes the place of both. Where
nothing fits, the policy has no opinion and says why.

A stream is judged by its first tokens, before the client sees any of them. An answer that ends within the window is
judged like a plain one. A longer one is scored by the curve of prefixes of its length (policies/prefix_calibration.py);
where the calibrator has none, by that of whole answers, an approximation whose scores are no tuned probabilities.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import msgspec
from pydantic import Field, PrivateAttr, field_validator

from policies.base import (
    Abstain,
    DraftMeasures,
    Extend,
    PolicyConfigError,
    RequestFeatures,
    RouteDecision,
    SecondSample,
    StudentDefaults,
    escalate,
)
from policies.calibration import CalibratorArtefact
from policies.draft_signals import DraftSignal
from policies.drafts.score import NO_SCORE, DraftScore, is_within, signals_of
from policies.drafts.stated_confidence import ConfidenceReader
from policies.drafts.validity import BROKEN_CALL, BROKEN_JSON, CHECKS, EMPTY, OTHER_FORM, REFUSED, TRUNCATED, is_empty
from policies.drafts.window_options import WindowOptions
from policies.record import Draft
from policies.tag_thresholds import ThresholdByTag
from policies.window import Progress

REASONS = frozenset(
    {
        *CHECKS,
        "low_confidence",
        "confident",
        "uncertain",  # of a stream: so close to the threshold that more of it shall tell
        "late_alarm",  # of a stream, behind its window
        "no_logprobs",  # the backend gave none: they were not asked for, or the answer has more than one choice
        "no_calibrator",  # neither the options nor the student's bundle have one, and there is no model
        "no_threshold",  # neither the options nor the bundle have one that was tuned for this calibrator
        "other_student",  # the calibrator, or the model, was fitted on the answers of another student
        "stale_model",  # fitted for features that this version does not compute
    }
)
TOP_LOGPROBS = 5
"""Most of a token's distribution; vLLM's throughput falls by a sixth for them."""


class Cascade(WindowOptions):
    """Lets the student answer and escalates when its draft is no answer, or P(it is wrong) is above `threshold`.

    A cascade pays for the draft as well: its cost, relative to all-teacher, is the escalated share plus the student's
    relative cost. `locum tune` sets the threshold from labelled requests.
    """

    calibrator: str | None = Field(
        None,
        description="Artefact that maps the draft's mean logprob to P(it is right) (`locum tune --out`); default: the "
        "one in the student's bundle.",
    )
    model: str | None = Field(
        None,
        description="Artefact of a score on all signals of the draft and the prompt (`locum evaluate --signals ... "
        "--artefact-out`), in place of a calibrator.",
    )
    threshold: float | None = Field(
        None,
        ge=0.0,
        le=1.0,
        description="P(the draft is wrong) above which the teacher answers; default: the model's, else the bundle's, "
        "if the calibrator is the bundle's too.",
    )
    threshold_by_tag: ThresholdByTag | None = Field(
        None, description="Other thresholds for some values of a tag, as `locum tune --per-tag` writes them."
    )
    escalate_empty: bool = Field(True, description="Escalate a draft without text that is no tool call either.")
    escalate_truncated: bool | Literal["unasked"] = Field(
        "unasked",
        description="Escalate a draft that ended at its token limit; `unasked`: only where the client set none, since "
        "its own would cut the teacher's answer as well.",
    )
    escalate_refused: bool = Field(True, description="Escalate a short draft that declines to answer.")
    escalate_broken_call: bool = Field(
        True, description="Escalate a tool call of an unknown tool, or with arguments that do not follow its schema."
    )
    escalate_broken_json: bool = Field(
        True, description="Escalate a draft that is not the JSON that `response_format`, or the prompt, asks for."
    )
    escalate_other_form: bool = Field(
        True,
        description="Escalate a draft without an answer in the form that the prompt asks for: the letter of an option, "
        "a number, one of listed labels.",
    )
    confidence_pattern: str | None = Field(
        None,
        description="Regular expression whose one group is the confidence that the draft states, such as "
        "`confidence:\\s*(\\d+%?)`; a signal for a model.",
    )
    confidence_field: str | None = Field(None, description="The same as a field of the draft's JSON.")
    top_logprobs: int | None = Field(
        None,
        ge=0,
        le=20,
        description="Alternatives that the student tells for every token, for the signals `mean_margin`, `min_margin` "
        f"and `mean_entropy`; default: {TOP_LOGPROBS} where the model uses one of these, else none.",
    )
    second_sample_band: tuple[float, float] | None = Field(
        None,
        description="Scores `[low, high]` between which the student is asked once more and the agreement of both "
        "answers counts; not for the beginning of a stream.",
    )
    second_sample_temperature: float = Field(0.7, ge=0.0, le=2.0, description="Temperature of the second sample.")
    second_sample_timeout_s: float = Field(
        10.0, gt=0.0, le=600.0, description="The draft is judged without a second sample that takes longer."
    )
    second_sample_max_inflight: int = Field(
        8, ge=1, le=1024, description="Second samples at one time in one worker; other drafts are judged without."
    )
    _score: DraftScore = PrivateAttr(default=NO_SCORE)
    _confidence: ConfidenceReader | None = PrivateAttr(default=None)

    @field_validator("second_sample_band")
    @classmethod
    def _check_band(cls, band: tuple[float, float] | None) -> tuple[float, float] | None:
        if band is not None and not 0.0 <= band[0] <= band[1] <= 1.0:
            raise ValueError("must be two rising numbers within [0, 1], such as [0.3, 0.6]")
        return band

    def model_post_init(self, context: Any, /) -> None:
        super().model_post_init(context)
        if self.calibrator is not None and self.model is not None:
            raise PolicyConfigError("model: takes the place of a calibrator; set one of the two")
        if self.model is not None and self.late_alarm != "off":
            raise PolicyConfigError("late_alarm: looks at a few tokens, which only a calibrator scores; remove `model`")
        if self.calibrator is not None:
            self._score = DraftScore.by_calibrator(Path(self.calibrator))
        if self.model is not None:
            self._score = DraftScore.by_model(Path(self.model))
        try:
            self._confidence = ConfidenceReader.of(self.confidence_pattern, self.confidence_field)
        except ValueError as exc:
            raise PolicyConfigError(f"confidence_pattern: {exc}") from exc

    @property
    def name(self) -> str:
        return "cascade"

    @property
    def reasons(self) -> frozenset[str]:
        return REASONS

    @property
    def score(self) -> DraftScore:
        """What drafts are scored by, for the student that it is bound to."""
        return self._score

    @property
    def used_threshold(self) -> float | None:
        """The one of the options, else the one that came with the model."""
        return self.threshold if self.threshold is not None else self._score.threshold

    def threshold_for(self, features: RequestFeatures) -> float | None:
        """`used_threshold`, or that of the request's tag."""
        by_tag = self.threshold_by_tag
        return self.used_threshold if by_tag is None else by_tag.of(features.tags, self.used_threshold)

    @property
    def score_sha256(self) -> str | None:
        """Of the artefact that the score comes from: what a certificate of the threshold is about."""
        return self._score.sha256

    @property
    def artefact_sha256(self) -> str | None:
        """What has to have voted in shadow before it decides, where the document asks for that."""
        return self.score_sha256

    def for_student(self, student: StudentDefaults) -> Cascade:
        """This policy with what the bundle brings where the options say nothing.

        A threshold was tuned on the scores of one calibrator and means nothing on another's: beside a configured
        calibrator the bundle's threshold counts only when both map alike.

        Raises: PolicyConfigError: the bundle's calibrator cannot be used.
        """
        if self.model is not None:
            bound = self.model_copy()
            bound._score = self._score.for_student(student)
            return bound
        threshold, configured, bundled = self.threshold, self._score.calibrator, None
        if student.calibrator is not None and (configured is None or threshold is None):
            bundled = DraftScore.by_calibrator(student.calibrator)
        if threshold is None and _same_scores(configured, bundled):
            threshold = student.cascade_threshold
        bound = self.model_copy(update={"threshold": threshold})
        # What lies in the bundle is this student's.
        bound._score = self._score.for_student(student) if configured is not None else bundled or NO_SCORE
        return bound

    @property
    def measures(self) -> DraftMeasures:
        top_logprobs = self.top_logprobs
        if top_logprobs is None:
            top_logprobs = TOP_LOGPROBS if self._score.needs_top_logprobs else 0
        sample = None
        if self.second_sample_band is not None:
            sample = SecondSample(
                temperature=self.second_sample_temperature,
                timeout_s=self.second_sample_timeout_s,
                max_inflight=self.second_sample_max_inflight,
            )
        return DraftMeasures(top_logprobs=top_logprobs, second_sample=sample)

    @property
    def warning(self) -> str | None:
        """What `locum check` says of options that are valid and may keep the policy from deciding."""
        if self._score.stale:
            return f"cascade: abstains with `stale_model`: {self._score.stale}"
        if self.model is not None and self.used_threshold is None:
            return "cascade: abstains with `no_threshold`: the artefact of `model` has no threshold, so set one"
        if self.calibrator is None or self.threshold is not None:
            return None
        return (
            "cascade: `calibrator` is set without `threshold`. A bundle's threshold belongs to the bundle's own "
            "calibrator: with another one the cascade abstains with `no_threshold`. Set both (`locum tune --out` "
            "writes them together) or neither"
        )

    def read(self, features: RequestFeatures, draft: Draft) -> Draft:
        signals = signals_of(draft)
        if self._confidence is not None and not draft.prefix:
            signals = msgspec.structs.replace(signals, stated_confidence=self._confidence.read(draft.text))
        draft = msgspec.structs.replace(draft, signals=signals)
        if self._score.model is None or self._score.silent is not None:
            return draft
        score = self._score.fresh(features, draft, self.second_sample_band)
        if isinstance(score, str):
            return draft
        signals = msgspec.structs.replace(signals, score=score, scored_by=self._score.model.sha256)
        return msgspec.structs.replace(draft, signals=signals)

    def needs_draft(self, features: RequestFeatures, draft: Draft) -> DraftSignal | None:
        if self.second_sample_band is None or draft.prefix or signals_of(draft).agreement is not None:
            return None
        if self.failed_check(draft) is not None or self.threshold_for(features) is None:
            return None
        score = self._score.of(features, draft, self.second_sample_band)
        within = not isinstance(score, str) and is_within(score, self.second_sample_band)
        return DraftSignal.AGREEMENT if within else None

    def review(self, features: RequestFeatures, draft: Draft) -> RouteDecision | Abstain | Extend | None:
        threshold = self.threshold_for(features)
        failed = self.failed_check(draft)
        if failed is not None:
            return escalate(failed, score=1.0, threshold=threshold)
        score = self._score.of(features, draft, self.second_sample_band)
        if isinstance(score, str):
            return Abstain(reason=score, threshold=threshold)
        if threshold is None:
            return Abstain(reason="no_threshold", score=score)
        if draft.extendable and self.extend_band and abs(score - threshold) <= self.extend_band:
            return Extend(reason="uncertain", score=score, threshold=threshold)
        if score > threshold:
            return escalate("low_confidence", score=score, threshold=threshold)
        return Abstain(reason="confident", score=score, threshold=threshold)

    def alarm(self, features: RequestFeatures, progress: Progress) -> RouteDecision | Abstain | None:
        """Behind the window: whether the last tokens are too uncertain."""
        score = self._score.of_last_tokens(progress.recent_mean_logprob)
        if score is None or score <= self.late_alarm_threshold:
            return None
        return escalate("late_alarm", score=score, threshold=self.late_alarm_threshold)

    @property
    def checks(self) -> frozenset[str]:
        """Which failed checks escalate; of `truncated` where the client set no limit."""
        switches = {
            EMPTY: self.escalate_empty,
            TRUNCATED: bool(self.escalate_truncated),
            REFUSED: self.escalate_refused,
            BROKEN_CALL: self.escalate_broken_call,
            BROKEN_JSON: self.escalate_broken_json,
            OTHER_FORM: self.escalate_other_form,
        }
        return frozenset(name for name, on in switches.items() if on)

    def failed_check(self, draft: Draft) -> str | None:
        """The gravest check that this draft does not pass and that counts."""
        failed = draft.signals.failed if draft.signals is not None else None
        if failed is None:  # an older record, which has no more than its text
            empty = not draft.prefix and is_empty(draft.text, draft.finish_reason)
            failed = (EMPTY,) if empty else ()
        if self.escalate_truncated is True and draft.finish_reason == "length":
            failed = (*failed, TRUNCATED)
        if not failed:
            return None
        counting = self.checks.intersection(failed)
        return next((name for name in CHECKS if name in counting), None)


def _same_scores(configured: CalibratorArtefact | None, bundled: DraftScore | None) -> bool:
    """Whether a threshold that was tuned for the bundle's calibrator may be used."""
    if configured is None:
        return True
    own = bundled.calibrator if bundled is not None else None
    return own is not None and configured.calibrator == own.calibrator
