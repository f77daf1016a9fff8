"""P(the student is inadequate) of a draft: by a calibrator of its mean logprob, or by a model of all its signals.

A second sample, where there is one, says more. A model has learned what its agreement is worth: it is one of its
signals. A calibrator knows nothing of it, so there the score becomes the mean of what the calibrator says and of the
share in which the two answers differ: it leaves the band by the side that the agreement points to, and is no calibrated
probability any more.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import msgspec

from policies import artefact
from policies.base import PolicyConfigError, RequestFeatures, StudentDefaults
from policies.calibration import MEAN_LOGPROB, CalibratorArtefact
from policies.calibration import load as load_calibrator
from policies.difficulty import fits as model_fits
from policies.draft_signals import (
    NAMES,
    NEED_TOP_LOGPROBS,
    NO_DRAFT_SIGNALS,
    DraftSignals,
    tag_values,
    unmeasured,
    values,
)
from policies.prefix_calibration import prefix_curve
from policies.record import Draft
from policies.scoring.model import ScoreModel, StaleModel
from policies.scoring.model import load as load_model

NEED_LOGPROBS = frozenset({"mean_logprob", "min_logprob", "logprob_q10"}) | NEED_TOP_LOGPROBS

Band = tuple[float, float]


class DraftScore(NamedTuple):
    """What a cascade scores by. At most one of `calibrator` and `model` is there."""

    calibrator: CalibratorArtefact | None = None
    model: ScoreModel | None = None
    silent: str | None = "no_calibrator"
    """Why there is no score for any draft, as a reason."""
    stale: str = ""
    """Why the file of a model cannot be used by this version."""

    @classmethod
    def by_calibrator(cls, path: Path) -> DraftScore:
        """Raises: PolicyConfigError: it cannot be read, or was fitted on something else than mean logprobs."""
        try:
            fitted = load_calibrator(path)
        except artefact.ArtefactError as exc:
            raise PolicyConfigError(f"calibrator: {exc}") from exc
        if fitted.raw != MEAN_LOGPROB:
            raise PolicyConfigError(
                f"calibrator: {path.name} was fitted on {fitted.raw!r}, but a cascade needs {MEAN_LOGPROB!r}: "
                "fit one with `locum tune`"
            )
        return cls(calibrator=fitted, silent=None)

    @classmethod
    def by_model(cls, path: Path) -> DraftScore:
        """Raises: PolicyConfigError: it cannot be read, or needs what a cascade does not know of a draft."""
        try:
            model = load_model(path, use="draft")
        except StaleModel as exc:
            return cls(silent="stale_model", stale=str(exc))
        except artefact.ArtefactError as exc:
            raise PolicyConfigError(f"model: {exc}") from exc
        if unknown := unmeasured(model.names):
            raise PolicyConfigError(
                f"model: {path.name} needs {', '.join(unknown)}, which the gateway does not measure; fit it on columns "
                f"that are named, or mapped, as one of {', '.join(NAMES)} or tag.NAME"
            )
        if model.embedding_size is not None:
            raise PolicyConfigError(
                f"model: {path.name} needs an embedding of the prompt, which a cascade does not have"
            )
        return cls(model=model, silent=None)

    def for_student(self, student: StudentDefaults) -> DraftScore:
        """Silent where it was fitted on the answers of another student."""
        fits = True
        if self.model is not None:
            fits = model_fits(self.model.fitted.training, student)
        elif self.calibrator is not None:
            fits = _calibrator_fits(self.calibrator, student)
        return self if fits else self._replace(silent="other_student")

    @property
    def threshold(self) -> float | None:
        """That came with the model."""
        return self.model.fitted.default_threshold if self.model is not None else None

    @property
    def sha256(self) -> str | None:
        """Of the artefact; None without one."""
        if self.model is not None:
            return self.model.sha256
        return None if self.calibrator is None else artefact.encoded(self.calibrator)[1]

    @property
    def needs_top_logprobs(self) -> bool:
        return self.model is not None and not NEED_TOP_LOGPROBS.isdisjoint(self.model.names)

    def of(self, features: RequestFeatures, draft: Draft, band: Band | None) -> float | str:
        """The score, or the reason why there is none.

        Args:
            band: in which a second sample counts; None: nowhere.
        """
        if self.silent is not None:
            return self.silent
        signals = signals_of(draft)
        agreement = signals.agreement if band is not None else None
        if self.model is None:
            return self._calibrated(draft, agreement, band)
        recorded = signals.score if signals.scored_by == self.model.sha256 else None
        if recorded is not None and agreement == signals.agreement:
            return recorded  # whoever has the record need not have the texts
        return self.fresh(features, draft, band)

    def fresh(self, features: RequestFeatures, draft: Draft, band: Band | None) -> float | str:
        """The same by a model, whatever the draft's signals say of its score."""
        model, signals = self.model, signals_of(draft)
        assert model is not None  # noqa: S101 - see above
        if draft.mean_logprob is None and not NEED_LOGPROBS.isdisjoint(model.names):
            return "no_logprobs"  # what a model has learned of missing signals is about answers, not about backends
        seen = values(signals, features) | tag_values(model.names, features.tags)
        if draft.prefix:
            seen["tokens"] = None  # how long it will be is not known
        seen["agreement"] = None
        text = features.last_user_turn or None
        score = model.probability(seen, text)
        if signals.agreement is None or band is None or not is_within(score, band):
            return score
        return model.probability(seen | {"agreement": signals.agreement}, text)

    def of_last_tokens(self, mean_logprob: float) -> float | None:
        """The score of the last tokens of a stream that goes on, by a calibrator; None: there is none.

        By the curve of whole answers, as if all of this one were like that: what a curve of prefixes has learned is how
        much beginnings tell, which for a place further on is another matter.
        """
        if self.calibrator is None or self.silent is not None:
            return None
        confidence = self.calibrator.calibrator.confidence(mean_logprob)
        return None if confidence is None else 1.0 - confidence

    def _calibrated(self, draft: Draft, agreement: float | None, band: Band | None) -> float | str:
        fitted, mean_logprob = self.calibrator, draft.mean_logprob
        if mean_logprob is None or fitted is None:
            return "no_logprobs"
        curve = prefix_curve(fitted, draft.tokens) if draft.prefix else fitted.calibrator
        confidence = curve.confidence(mean_logprob)
        return "no_logprobs" if confidence is None else with_agreement(1.0 - confidence, agreement, band)


def with_agreement(score: float, agreement: float | None, band: Band | None) -> float:
    """A calibrator's score with what a second sample adds to it."""
    if agreement is None or band is None or not is_within(score, band):
        return score
    return (score + 1.0 - agreement) / 2


def is_within(score: float, band: Band) -> bool:
    """Whether a score is so uncertain that a second sample is worth its price."""
    return band[0] <= score <= band[1]


def signals_of(draft: Draft) -> DraftSignals:
    """Those of a draft; of an older record what can be known of them."""
    if draft.signals is not None:
        return draft.signals
    return msgspec.structs.replace(NO_DRAFT_SIGNALS, mean_logprob=draft.mean_logprob, tokens=draft.tokens or None)


def _calibrator_fits(fitted: CalibratorArtefact, student: StudentDefaults) -> bool:
    """Whether it was fitted on this student. The same model in another bundle gives the same logprobs."""
    if fitted.student in ("", student.bundle_id):
        return True
    return bool(fitted.student_model_sha256) and fitted.student_model_sha256 == student.model_sha256


NO_SCORE = DraftScore()
