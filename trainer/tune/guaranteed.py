"""One run of `locum tune --confidence`: thresholds that are proven on labelled requests, and their certificate."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from policies.calibration import Calibrator
from policies.certificate import Certificate, Group, Stated
from policies.intervals import Estimate, proportion, weighted_mean
from trainer.tune.guarantee import (
    FINE_GRID,
    METHOD,
    Certified,
    NotCertified,
    Promise,
    certified,
    groups_of,
    labels_needed,
    loss_bound,
    too_much,
)
from trainer.tune.pairs import Floats, Pairs
from trainer.tune.traffic import Traffic

ESCALATE_ALL = 0.0
MIN_SHARE_ROWS = 100
"""Requests of a group from which its share is estimated by all traffic; below, by the labelled ones."""


@dataclass(frozen=True)
class Limits:
    """What is asked for."""

    promise: Promise | None
    """None: only a budget is given; then the loss that it leaves is bounded."""
    confidence: float
    max_teacher_share: float | None = None


@dataclass(frozen=True)
class Part:
    """A group of requests and its threshold."""

    values: tuple[str, ...]
    """Of the tag; empty: all that no other part names."""
    found: Certified
    quality_loss: Stated
    teacher_share: Stated


@dataclass(frozen=True)
class Guaranteed:
    """The result."""

    max_quality_loss: float
    """That is proven."""
    confidence: float
    parts: tuple[Part, ...]
    """The last one stands for all that the others do not name."""
    pairs: Pairs
    n_traffic: int
    teacher_share: Stated
    """Of all traffic."""

    @property
    def threshold(self) -> float:
        return self.parts[-1].found.threshold


def guaranteed(pairs: Pairs, traffic: Traffic, limits: Limits, seed: int = 0) -> Guaranteed:
    """Thresholds for all traffic, or for each value of the tag.

    Raises: NotCertified.
    """
    promise = limits.promise
    if promise is None:
        return _within_share(pairs, traffic, limits, seed)
    groups = groups_of(pairs, promise) if pairs.tag else [frozenset({""})]
    shared = promise.shared_by(sum(map(bool, groups)))  # where no rows are left over nothing is tested on them
    parts = []
    for position, group in enumerate(groups):
        rest = position == len(groups) - 1
        rows = pairs.of_tags(group) if pairs.tag else pairs
        found = certified(rows, shared, seed) if len(rows) else None
        if found is None or found.threshold <= ESCALATE_ALL:
            if len(groups) == 1 or (rows.score <= ESCALATE_ALL).any():  # what no threshold sends to the teacher
                raise _not_certified(rows, traffic, promise, limits.max_teacher_share, seed)
            found = Certified(ESCALATE_ALL, len(rows), rows.effective_n, 1.0, 0.0)
        named = frozenset().union(*groups[:-1]) if rest else group
        scores = _scores(traffic, named, other=rest)
        parts.append(_part(() if rest else tuple(group), rows, found, scores))
    share = _total_share(parts, traffic, pairs)
    if limits.max_teacher_share is not None and share.estimate > limits.max_teacher_share:
        raise _not_certified(pairs, traffic, promise, limits.max_teacher_share, seed, reached=share.estimate)
    return Guaranteed(promise.max_quality_loss, promise.confidence, tuple(parts), pairs, len(traffic.scores), share)


def _within_share(pairs: Pairs, traffic: Traffic, limits: Limits, seed: int) -> Guaranteed:
    """The threshold of the wished share, and the smallest loss that can be promised for it."""
    assert limits.max_teacher_share is not None  # noqa: S101 - the command asks for one of the limits
    threshold = threshold_of(limits.max_teacher_share, _scores(traffic, frozenset(), other=True), pairs)
    if threshold >= pairs.unseen_from:
        raise _not_seen(pairs, f"{limits.max_teacher_share:.1%} to the teacher")
    bound = loss_bound(pairs, threshold, limits.confidence, seed)
    if bound >= 1.0:
        raise NotCertified(f"{len(pairs)} labelled pairs prove nothing about the loss at this share", None)
    found = Certified(
        threshold, len(pairs), pairs.effective_n, pairs.teacher_share(threshold), pairs.mean_loss(threshold)
    )
    part = _part((), pairs, found, _scores(traffic, frozenset(), other=True))
    return Guaranteed(max(bound, 0.0), limits.confidence, (part,), pairs, len(traffic.scores), part.teacher_share)


def threshold_of(share: float, scores: Floats, pairs: Pairs) -> float:
    """The smallest threshold of a fine grid that sends at most this share to the teacher.

    By the scores of all traffic, of which few are labelled: so it is as good as chosen without the labelled rows.
    """
    ordered = np.sort(scores if len(scores) >= MIN_SHARE_ROWS else pairs.score)
    above = 1.0 - np.searchsorted(ordered, FINE_GRID, side="right") / len(ordered)
    within = np.flatnonzero(above <= share + 1e-12)
    return float(FINE_GRID[within[0]]) if within.size else float(FINE_GRID[-1])


def _scores(traffic: Traffic, values: frozenset[str], *, other: bool) -> Floats:
    """Of the traffic with these values of the tag, or with others."""
    chosen = [score for score, tag in zip(traffic.scores, traffic.tags, strict=True) if (tag in values) != other]
    return np.array(chosen)


def _part(values: tuple[str, ...], rows: Pairs, found: Certified, scores: Floats) -> Part:
    if len(scores) >= max(MIN_SHARE_ROWS, len(rows)):
        share = proportion(int((scores > found.threshold).sum()), len(scores))
    else:
        sent = (rows.score > found.threshold).tolist()
        estimate = weighted_mean(sent, rows.weight.tolist(), kind="score")
        share = estimate or Estimate(1.0, 0.0, 1.0, 0, 0.0)
    loss = weighted_mean(rows.kept_loss(found.threshold).tolist(), rows.weight.tolist(), kind="difference")
    return Part(values, found, _stated(loss or Estimate(0.0, -1.0, 1.0, 0, 0.0)), _stated(share))


def _total_share(parts: Sequence[Part], traffic: Traffic, pairs: Pairs) -> Stated:
    if len(parts) == 1:
        return parts[0].teacher_share
    of_value = {value: part.found.threshold for part in parts for value in part.values}
    rest = parts[-1].found.threshold
    enough = len(traffic.scores) >= max(MIN_SHARE_ROWS, len(pairs))
    scores, tags = (traffic.scores, traffic.tags) if enough else (pairs.score.tolist(), pairs.tag)
    weights = None if enough else pairs.weight.tolist()
    above = [float(score > of_value.get(tag, rest)) for score, tag in zip(scores, tags, strict=True)]
    share = weighted_mean(above, weights, kind="score")
    return _stated(share or Estimate(1.0, 0.0, 1.0, 0, 0.0))


def _not_certified(
    pairs: Pairs, traffic: Traffic, promise: Promise, share: float | None, seed: int, reached: float = 1.0
) -> NotCertified:
    """Why it did not work out: for want of labels, or because it cannot."""
    n = len(pairs)
    if not n:
        missing = 2 * promise.least_labels
        return NotCertified(f"no labelled pair; the promise takes at least {missing}", missing)
    allowed = 100 * promise.max_quality_loss
    loss = f"{allowed:g} point{'' if allowed == 1 else 's'}"
    if share is None:  # anything below all-teacher would do
        threshold = threshold_of(0.9, np.array([]), pairs)
        limit = "less than everything to the teacher"
    else:
        threshold = threshold_of(share, _scores(traffic, frozenset(), other=True), pairs)
        limit = f"{share:.1%} to the teacher"
    if threshold >= pairs.unseen_from:
        return _not_seen(pairs, limit)
    stated = _stated(weighted_mean(pairs.kept_loss(threshold).tolist(), pairs.weight.tolist(), kind="difference"))
    found = (
        f"{100 * stated.estimate:.1f} points [{100 * stated.low:.1f}, {100 * stated.high:.1f}] on {n} labelled pairs"
    )
    needed = labels_needed(pairs, threshold, promise, seed)
    if too_much(pairs, threshold, promise, seed):
        return NotCertified(
            f"INFEASIBLE: with {limit} the loss is {found}, surely more than {loss}. Allow more of one", None
        )
    if needed is None or needed <= n:
        reason = "" if needed is None else f"; {n} labels were just not enough by chance"
        if needed is None:
            return NotCertified(
                f"INFEASIBLE: with {limit} the loss is {found}; to promise {loss} it has to be less. More labels are "
                f"not expected to help: allow more of one. Proven now: {reached:.1%} to the teacher",
                None,
            )
        return NotCertified(f"a loss of at most {loss} takes {reached:.1%} to the teacher{reason}", max(1, n // 4))
    return NotCertified(
        f"with {limit} the loss is {found}: too few to promise {loss} with {promise.confidence:.0%} confidence. It "
        f"needs about {needed - n} more labels; proven now: {reached:.1%} to the teacher",
        needed - n,
    )


def _not_seen(pairs: Pairs, limit: str) -> NotCertified:
    """More labels of the same kind would not help."""
    unseen = np.flatnonzero(pairs.score >= pairs.unseen_from).size
    return NotCertified(
        f"{limit} means to keep requests that the policy escalated when they came, and of those only the teacher's "
        f"answer could be judged (of {len(pairs)} labelled pairs {unseen} score as high). No number of such labels "
        "says what keeping them loses: take shadow answers to the teacher's requests as well ([quality.shadow] "
        "teacher_share), or label requests instead of scoring answers",
        None,
    )


def _stated(estimate: Estimate | None) -> Stated:
    if estimate is None:
        return Stated(0.0, -1.0, 1.0)
    return Stated(estimate.value, estimate.low, estimate.high)


def calibrated(threshold: float, calibrator: Calibrator) -> float:
    """A threshold on 1 - exp(mean logprob) as P(wrong): a strictly rising curve renames it and moves no request."""
    if threshold <= ESCALATE_ALL:
        return 0.0  # an answer without any doubt as well
    if threshold >= 1.0:
        return 1.0
    logprob = math.log1p(-threshold)
    confidence = calibrator.confidence(logprob)
    assert confidence is not None  # noqa: S101 - it is finite
    # Where the curve is so flat that neighbours round to one number, those above the cut must not be kept with it.
    return math.nextafter(1.0 - confidence, 0.0)


@dataclass(frozen=True)
class Identity:
    """What a certificate is about, beside the numbers."""

    policy: str
    score: str
    score_sha256: str
    student: str
    student_model_sha256: str
    teacher: str
    teacher_fingerprints: tuple[str, ...]
    labels: str
    teacher_assumed_right: bool
    tag: str | None
    where: str


def certificate_of(
    result: Guaranteed, identity: Identity, traffic: Traffic, *, thresholds: Sequence[float], now_s: float, seed: int
) -> Certificate:
    """
    Args:
        thresholds: of the parts, as the policy compares them.
    """
    pairs = result.pairs
    groups = tuple(
        Group(
            values=part.values,
            threshold=threshold,
            n=part.found.n,
            effective_n=round(part.found.effective_n, 1),
            quality_loss=part.quality_loss,
            teacher_share=part.teacher_share,
        )
        for part, threshold in zip(result.parts, thresholds, strict=True)
    )
    return Certificate(
        policy=identity.policy,
        score=identity.score,
        method=METHOD,
        max_quality_loss=result.max_quality_loss,
        confidence=result.confidence,
        threshold=thresholds[-1],
        tag=identity.tag,
        groups=groups,
        n=len(pairs),
        n_differing=pairs.differing,
        effective_n=round(pairs.effective_n, 1),
        labels="shadow" if identity.labels == "shadow" else "feedback",
        teacher_assumed_right=identity.teacher_assumed_right,
        data_sha256=pairs.sha256(),
        seed=seed,
        score_sha256=identity.score_sha256,
        student=identity.student,
        student_model_sha256=identity.student_model_sha256,
        teacher=identity.teacher,
        teacher_fingerprints=identity.teacher_fingerprints,
        created_s=now_s,
        first_s=min(traffic.labelled_s, default=0.0),
        last_s=max(traffic.labelled_s, default=0.0),
        where=identity.where,
    )
