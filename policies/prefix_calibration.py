"""Scores of a stream's beginning: one curve for each number of tokens that a commit window may hold.

The mean logprob of four tokens spreads more widely than that of a whole answer, and an answer that has not ended is
another population than one that has: the curve of whole answers, put on a prefix, gives numbers that are no
probabilities. So each prefix length has its own, fitted on the answers that went on behind it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import msgspec

from policies.calibration import (
    Calibrator,
    CalibratorArtefact,
    PrefixCurve,
    cross_fitted,
    expected_calibration_error,
    fit,
    reliability,
)
from policies.draft_signals import PREFIX_TOKENS

MIN_OF_EACH = 20
"""Right and wrong answers that a prefix needs for a curve of its own; with fewer the next shorter one's is used."""
FOLDS = 5


class Answer(NamedTuple):
    """One labelled answer."""

    prefix_means: Sequence[float]
    """At `PREFIX_TOKENS`, as far as it reached."""
    tokens: int
    """Of the whole answer, the stop token included."""
    right: bool


def fit_prefixes(answers: Iterable[Answer]) -> tuple[PrefixCurve, ...]:
    """A curve for each prefix that enough answers reach and go on behind, the shortest first."""
    answers = list(answers)
    curves = []
    for place, tokens in enumerate(PREFIX_TOKENS):
        reached = [each for each in answers if len(each.prefix_means) > place and each.tokens > tokens]
        right = [each.right for each in reached]
        if min(sum(right), len(right) - sum(right)) < MIN_OF_EACH:
            continue
        means = [each.prefix_means[place] for each in reached]
        confidences = cross_fitted(means, right, folds=FOLDS)
        curves.append(
            PrefixCurve(
                tokens=tokens,
                calibrator=fit(means, right),
                n=len(right),
                n_sufficient=sum(right),
                ece=round(expected_calibration_error(reliability(confidences, right)), 6),
            )
        )
    return tuple(curves)


def with_prefixes(fitted: CalibratorArtefact, answers: Iterable[Answer]) -> CalibratorArtefact:
    """The same with curves for prefixes, where there are enough answers for any."""
    curves = fit_prefixes(answers)
    return msgspec.structs.replace(fitted, prefixes=curves) if curves else fitted


def prefix_curve(fitted: CalibratorArtefact, tokens: int) -> Calibrator:
    """What a prefix of so many tokens is scored by: the longest curve that it reaches, else the shortest one there is.

    Without any it is the curve of whole answers, whose numbers are no tuned probabilities there.
    """
    curves = () if fitted.prefixes is msgspec.UNSET else fitted.prefixes
    if not curves:
        return fitted.calibrator
    reached = [curve for curve in curves if curve.tokens <= tokens]
    return (reached[-1] if reached else curves[0]).calibrator
