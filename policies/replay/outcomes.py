"""What came of the logged requests: quality, cost and latency of either model's answer, where they were observed."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from policies.replay.annotations import Annotations
from policies.replay.columns import STUDENT, TEACHER, Columns, Flags, Floats
from policies.replay.estimators import Arm, Doubt, Estimator, Strata, Weighed, doubt_of, weighed
from policies.replay.models import Matrix, cross_fitted, folds_of, standardised

MIN_LABELS = 30
"""Observations of an arm in a stratum, below which it counts as not observed."""
BY_STUDENT, BY_TEACHER, AFTER_DRAFT, BY_LOT = 0, 1, 2, 3
"""Strata: who answered. BY_LOT: exploration drew the route, and either could have."""
WITHOUT_TEXT = 4
"""Added for requests that were not captured in full: they are never shadowed."""
BY_BOTH = 7
"""For their quality: answers that the student began and a teacher ended. A judgement on them is one on neither model,
and rows that went on without an alarm do not stand for them."""
STRATA = 8


@dataclass(frozen=True)
class Outcome:
    """One kind of outcome, for both models' answers."""

    student: Arm
    teacher: Arm
    strata: Strata
    supported: Flags
    """[n, 2]: that model's outcome was observed for rows like this one."""
    labels: int
    """Rows with an observation."""

    def weighed(self, estimator: Estimator) -> tuple[Weighed, Weighed]:
        """Both arms, ready for any number of policies."""
        student, teacher = (weighed(arm, self.strata, STRATA, estimator) for arm in (self.student, self.teacher))
        return student, teacher

    def filled(self) -> Outcome:
        """With a model where an arm was not observed: the mean of what is known of it elsewhere."""
        arms = []
        for arm in (self.student, self.teacher):
            known = ~np.isnan(arm.model)
            mean = float(arm.model[known].mean()) if known.any() else 0.5
            arms.append(replace(arm, model=np.where(known, arm.model, mean)))
        return replace(self, student=arms[0], teacher=arms[1])

    def doubt(self, student: Floats, teacher: Floats) -> Doubt:
        """Of a mean that gets so much of either arm, [n] each in [0, 1]."""
        parts = zip((self.student, self.teacher), (student, teacher), self.supported.T, strict=True)
        arms = [doubt_of(arm, "score", np.where(known, k, 0.0), self.strata, STRATA) for arm, k, known in parts]
        return arms[0] + arms[1]

    def doubt_of_difference(self, coefficient: Floats) -> Doubt:
        """Of the mean of teacher minus student: by the differences where requests have both labels."""
        known = np.where(self.supported.all(axis=1), coefficient, 0.0)
        both = (self.student.weight > 0) & (self.teacher.weight > 0)
        if not both.any():
            student, teacher = (
                doubt_of(arm, "score", known, self.strata, STRATA) for arm in (self.student, self.teacher)
            )
            return teacher + -student
        paired = Arm(
            self.teacher.y - self.student.y,
            np.where(both, self.student.weight, 0.0),
            self.teacher.model - self.student.model,
        )
        return doubt_of(paired, "difference", known, self.strata, STRATA)


@dataclass(frozen=True)
class Designs:
    """What the outcome models look at, [n, d] each."""

    before: Matrix
    """Known before anybody answered: sizes, flags, the policies' scores."""
    after: Matrix
    """Beside that the length of the answer that was delivered, and the mean logprob of the student's: only for models
    within one stratum, where it means the same on every row."""


def designs_of(columns: Columns) -> Designs:
    first = np.cumsum(columns.scored_count) - columns.scored_count
    best = np.full(len(columns), np.nan)
    scored = columns.scored_count > 0
    best[scored] = columns.scores[first[scored]]
    before = [
        np.log1p(columns.approx_prompt_tokens.astype(np.float64)),
        np.log1p(columns.message_count.astype(np.float64)),
        np.log1p(columns.requested_output_tokens.astype(np.float64)),
        *(each.astype(np.float64) for each in (columns.has_tools, columns.has_response_format, columns.has_images)),
        columns.stream.astype(np.float64),
        (columns.effort == 1).astype(np.float64),
        columns.reasoning_score,
        columns.retrieval_confidence,
        best,
    ]
    has_tokens = columns.used_completion_tokens >= 0
    logprob = np.where(columns.has_draft, columns.draft_logprob, columns.answer_logprob)
    logprob = np.where((columns.route == STUDENT) | columns.has_draft, logprob, np.nan)
    after = [
        np.where(has_tokens, np.log1p(np.maximum(columns.used_completion_tokens, 0)), np.nan),
        logprob,
        np.exp(logprob),
    ]
    known_before = standardised(before)
    return Designs(known_before, np.hstack([known_before, standardised(after)]))


def has_exploration(columns: Columns) -> bool:
    """Whether drawn routes can stand for each other. They cannot where a route was drawn and a draft judged behind it:
    who answered a request that was drawn for the student depends on a draft then, which those drawn for the teacher do
    not have. `explore` draws once a request, be it about the route or about the draft (policies/explore.py)."""
    drawn = columns.propensity < 1.0
    return bool(drawn_rows(columns).any()) and not bool((drawn & columns.has_draft).any())


def drawn_rows(columns: Columns) -> Flags:
    """By a lot before generation, or by one about the draft."""
    drawn: Flags = (columns.propensity < 1.0) | (columns.review_propensity < 1.0)
    return drawn


def lot_weight(columns: Columns) -> Floats:
    """[n], 1/P(who was chosen), of rows that were drawn; 0 where another model answered than was chosen."""
    weight = 1.0 / (columns.propensity * columns.review_propensity)
    other = columns.fell_back | (~columns.has_draft & (columns.route != columns.decided))
    return np.where(other, 0.0, weight)


def strata_of(columns: Columns, *, explored: bool) -> Strata:
    """Rows of one stratum stand for each other."""
    strata = np.where(columns.route == STUDENT, BY_STUDENT, np.where(columns.has_draft, AFTER_DRAFT, BY_TEACHER))
    strata = np.where(columns.full, strata, strata + WITHOUT_TEXT)
    return np.where(explored & drawn_rows(columns), BY_LOT, strata).astype(np.int64)


def drawn_strata(columns: Columns) -> Strata:
    """As `strata_of`, with one for all that the teacher answered: whether it was drawn does not depend on a draft."""
    strata = strata_of(columns, explored=False)
    drafted = (strata == AFTER_DRAFT) | (strata == AFTER_DRAFT + WITHOUT_TEXT)
    return np.where(drafted, strata - AFTER_DRAFT + BY_TEACHER, strata)


def quality_by_shadows(columns: Columns, notes: Annotations, designs: Designs) -> Outcome:
    """Grades of requests that were put to both models: each row of a stratum was drawn with a known probability."""
    y, weight = np.zeros((len(columns), 2)), np.zeros((len(columns), 2))
    for arm in (0, 1):
        graded = ~np.isnan(notes.quality[:, arm]) & ~columns.continued[notes.rows]
        rows = notes.rows[graded]
        y[rows, arm] = notes.quality[graded, arm]
        weight[rows, arm] = 1.0 / notes.propensity[graded]
    strata = np.where(columns.continued, BY_BOTH, drawn_strata(columns))
    return modelled(columns, y, weight, strata, designs.after, bounded=True)


def quality_by_feedback(columns: Columns, notes: Annotations, designs: Designs) -> Outcome:
    """Scores of what was delivered. The route's propensity is known where exploration drew it; that somebody judges an
    answer at all is taken to be equally likely within a stratum, which nobody guarantees."""
    explored = has_exploration(columns)
    strata = np.where(columns.continued, BY_BOTH, strata_of(columns, explored=explored))
    y, weight = np.zeros((len(columns), 2)), np.zeros((len(columns), 2))
    sound = ~(columns.fell_back | columns.continued)[notes.feedback_rows]
    rows = notes.feedback_rows[sound]
    arm = np.where(columns.route[rows] == TEACHER, 1, 0)
    y[rows, arm] = notes.feedback_score[sound]
    weight[rows, arm] = np.where(strata[rows] == BY_LOT, lot_weight(columns)[rows], 1.0)
    design = designs.before if explored else designs.after
    return modelled(columns, y, weight, strata, design, bounded=True)


def cost_of(columns: Columns, notes: Annotations, designs: Designs) -> Outcome:
    """USD of either model's answer; the student's is also that of a draft."""
    y = np.full((len(columns), 2), np.nan)
    by_student = columns.route == STUDENT
    y[by_student, 0] = columns.cost_usd[by_student]
    drafted = columns.has_draft & ~by_student
    y[drafted, 0] = columns.draft_cost_usd[drafted]
    y[~by_student, 1] = (columns.cost_usd - np.where(drafted, columns.draft_cost_usd, 0.0))[~by_student]
    weight = np.where(np.isnan(y), 0.0, 1.0)
    priced = notes.ok & ~np.isnan(notes.cost_usd)
    explored = not priced.any() and has_exploration(columns)
    strata = strata_of(columns, explored=explored)
    if explored:
        lot = strata == BY_LOT
        drafts = weight[:, 0] * columns.has_draft  # a draft's cost is known whatever the lot said of it
        weight = np.where(lot[:, None], weight * lot_weight(columns)[:, None], weight)
        weight[:, 0] = np.where(lot & columns.has_draft, drafts, weight[:, 0])
    rows, other = notes.rows[priced], np.where(columns.route[notes.rows[priced]] == STUDENT, 1, 0)
    fresh = weight[rows, other] == 0
    y[rows[fresh], other[fresh]] = notes.cost_usd[priced][fresh]
    weight[rows[fresh], other[fresh]] = 1.0 / notes.propensity[priced][fresh]
    design = designs.before if explored else designs.after
    outcome = modelled(columns, y, weight, strata, design, bounded=False)
    return _with_stated_prices(columns, outcome, y)


def _with_stated_prices(columns: Columns, outcome: Outcome, y: Floats) -> Outcome:
    """Fill in what nobody observed: the teacher's answer with the student's tokens at the teacher's price, the
    student's by its usual share of that."""
    stated = columns.counterfactual_cost_usd
    if np.isnan(stated).all():
        return outcome
    stated = np.where(np.isnan(stated), np.nanmean(stated), stated)
    both = (columns.route == STUDENT) & ~np.isnan(y[:, 0])
    ratio = float(y[both, 0].sum() / stated[both].sum()) if both.any() and stated[both].sum() > 0 else np.nan
    student = np.where(outcome.supported[:, 0], outcome.student.model, stated * ratio)
    teacher = np.where(outcome.supported[:, 1], outcome.teacher.model, stated)
    return replace(
        outcome, student=replace(outcome.student, model=student), teacher=replace(outcome.teacher, model=teacher)
    )


def latency_of(columns: Columns, designs: Designs, draft_part: Floats) -> Outcome:
    """Seconds to the end of either model's answer, from records that it answered; a model tells the rest.

    Args:
        draft_part: [n], how much of the student's time passes before a draft is judged.
    """
    explored = has_exploration(columns)
    strata = strata_of(columns, explored=explored)
    sound, folds = ~columns.fell_back, folds_of(columns.ids)
    lot = strata == BY_LOT
    factor = np.where(lot, lot_weight(columns), 1.0)
    y, weight, model = (np.zeros((len(columns), 2)) for _ in range(3))
    drafted = columns.has_draft & (columns.route == TEACHER)
    observed = (sound & (columns.route == STUDENT), sound & (columns.route == TEACHER) & ~drafted)
    for arm in (0, 1):
        y[observed[arm], arm] = columns.latency_s[observed[arm]]
        weight[:, arm] = np.where(observed[arm], factor, 0.0)
        model[:, arm] = cross_fitted(designs.before, y[:, arm], weight[:, arm], folds, bounded=False)
    waited = np.nan_to_num(draft_part * model[:, 0])
    y[drafted, 1] = np.maximum(columns.latency_s - waited, 0.0)[drafted]
    weight[drafted & sound, 1] = factor[drafted & sound]
    if np.isnan(model[:, 1]).all():  # the teacher was only ever asked after a draft
        model[:, 1] = cross_fitted(designs.before, y[:, 1], weight[:, 1], folds, bounded=False)
    return _outcome(y, np.where(np.isnan(model), 0.0, weight), model, strata)


def modelled(columns: Columns, y: Floats, weight: Floats, strata: Strata, design: Matrix, *, bounded: bool) -> Outcome:
    """Fit a model for every arm in every stratum that has enough observations of it.

    Args:
        y, weight: [n, 2], student and teacher; weight 0 = not observed.
    """
    folds = folds_of(columns.ids)
    model = np.full(y.shape, np.nan)
    for arm in (0, 1):
        enough = _enough(weight[:, arm], strata)
        weight[~enough, arm] = 0.0
        for stratum in np.unique(strata[enough]):
            rows = np.flatnonzero(strata == stratum)
            known = weight[rows, arm]
            if (known == 1.0).all():
                model[rows, arm] = y[rows, arm]
            else:
                seen = np.nan_to_num(y[rows, arm])
                model[rows, arm] = cross_fitted(design[rows], seen, known, folds[rows], bounded=bounded)
    return _outcome(np.nan_to_num(y), weight, model, strata)


def _outcome(y: Floats, weight: Floats, model: Floats, strata: Strata) -> Outcome:
    supported = np.stack([_enough(weight[:, arm], strata) for arm in (0, 1)], axis=1)
    arms = [Arm(y[:, arm], weight[:, arm], model[:, arm]) for arm in (0, 1)]
    return Outcome(arms[0], arms[1], strata, supported, int((weight > 0).any(axis=1).sum()))


def _enough(weight: Floats, strata: Strata) -> Flags:
    """[n]: whether the arm was observed often enough in the stratum of each row."""
    seen = np.bincount(strata, weight > 0, minlength=STRATA)
    rows: NDArray[np.intp] = np.bincount(strata, minlength=STRATA)
    enough: Flags = ((seen >= np.minimum(MIN_LABELS, rows)) & (seen > 0))[strata]
    return enough
