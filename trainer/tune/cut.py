"""Where to cut: from risks to the threshold that respects a wish.

A risk is P(the student's answer is wrong), infinite for an empty answer: the cascade escalates that one whatever the
threshold is. Rows of equal risk go together.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from policies.calibration import Calibrator

if TYPE_CHECKING:
    from trainer.tune.threshold import Answers, Wish

Floats = NDArray[np.float64]
ROUNDING = 1e-12


class WishNotMet(ValueError):
    """No threshold satisfies the limits on these rows."""


def risks_of(calibrator: Calibrator, logprob: Floats) -> Floats:
    """P(wrong), [n], exactly as the policy `cascade` computes it."""
    confidences = (calibrator.confidence(value) for value in logprob.tolist())
    return np.array([math.inf if each is None else 1.0 - each for each in confidences])


def raw_risks(logprob: Floats) -> Floats:
    """The order of the risks without a calibrator, [n]."""
    return np.where(np.isfinite(logprob), -logprob, math.inf)


def choose(risks: Floats, answers: Answers, wish: Wish) -> float:
    """The threshold for risks [n]: the largest share within `max_teacher_share`, the smallest within
    `max_quality_loss`. Where ties straddle the wish, the share is below it.

    Raises: WishNotMet.
    """
    thresholds, shares = candidates(risks)
    allowed = 1.0 if wish.max_teacher_share is None else wish.max_teacher_share
    within_share = int((shares <= allowed + ROUNDING).sum()) - 1
    within_share = max(within_share, 0)  # more empty answers than the wish allows: nothing else escalates
    if wish.max_quality_loss is None:
        return float(thresholds[within_share])
    losses = losses_of(risks, answers)[: len(thresholds)]
    good = np.flatnonzero(losses <= wish.max_quality_loss + ROUNDING)
    if not good.size:  # only where answers of risk 0 are wrong: those always stay with the student
        raise WishNotMet(f"no threshold keeps the loss within {wish.max_quality_loss:.3f}")
    if good[0] > within_share:
        raise WishNotMet(
            f"a loss of at most {wish.max_quality_loss:.3f} takes {shares[good[0]]:.1%} of the requests to the "
            f"teacher; at {shares[within_share]:.1%} the loss is {losses[within_share]:.3f}. Allow more of one, or "
            "drop one limit"
        )
    return float(thresholds[good[0]])


def candidates(risks: Floats) -> tuple[Floats, Floats]:
    """Every threshold that makes a difference with the share that it escalates, rising from what always escalates.

    Between two risks it lies in the middle, so that logprobs that differ in the last bits decide alike.
    """
    finite = risks[np.isfinite(risks)]
    distinct, counts = np.unique(finite, return_counts=True)
    distinct, counts = distinct[::-1], counts[::-1]
    middles = (distinct[:-1] + distinct[1:]) / 2
    middles = np.where(middles < distinct[:-1], middles, distinct[1:])
    lowest = [distinct[-1] / 2] if distinct[-1] > 0 else []  # a risk of 0 is never above a threshold
    thresholds = np.concatenate([distinct[:1], middles, lowest])
    escalated = len(risks) - len(finite) + np.concatenate([[0], np.cumsum(counts)])
    return thresholds, (escalated / len(risks))[: len(thresholds)]


def losses_of(risks: Floats, answers: Answers) -> Floats:
    """Accuracy lost against all-teacher when the k highest distinct risks escalate, for k = 0, 1, ... all."""
    known, finite = ~np.isnan(answers.teacher), np.isfinite(risks)
    lost = np.where(known, answers.teacher - answers.right, 0.0)[finite]
    _, risk_of = np.unique(risks[finite], return_inverse=True)
    kept = np.append(np.cumsum(np.bincount(risk_of, weights=lost))[::-1], 0.0)
    return np.asarray(kept / known.sum(), dtype=np.float64)


def reachable(risks: Floats, share: float) -> float:
    """The largest escalated share up to `share` at which no tie is cut."""
    _, shares = candidates(risks)
    return float(np.max(shares, where=shares <= share + ROUNDING, initial=0.0))
