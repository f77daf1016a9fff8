"""One evaluation: near-duplicates, folds, cross-fitted scores, and what they are worth beside the baselines."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from trainer.routing import baselines, folds
from trainer.routing.crossfit import cross_fit
from trainer.routing.figures import (
    RESAMPLES,
    Band,
    Estimate,
    Figures,
    Resamples,
    band,
    differences,
    mean_interval,
    samples,
    summary,
)
from trainer.routing.groups import near_duplicates
from trainer.routing.learner import Learner
from trainer.routing.learners import draft_learners, frozen_reference, prompt_learners
from trainer.routing.outcomes import Floats, Ints, Outcomes

SCORE = "score"
"""The column of the recommended learner."""
DEFAULT_FOLDS = 5
DEFAULT_SHARE = 0.2

Progress = Callable[[str, str], None]
"""(step, how far it is)."""


@dataclass(frozen=True)
class Plan:
    """How to evaluate."""

    share: float = DEFAULT_SHARE
    folds: int = DEFAULT_FOLDS
    seed: int = 0
    resamples: int = RESAMPLES
    processes: int | None = None


@dataclass(frozen=True, eq=False)
class Scored:
    """The rows with their cross-fitted scores."""

    rows: Outcomes
    groups: Ints
    fold_of: Ints
    recommended: Learner
    scores: Mapping[str, Floats]
    """`score` first, then each learner by its name (the recommended one once more): [n] each, in [0, 1]."""
    baselines: Mapping[str, Floats]

    @property
    def others(self) -> list[str]:
        """Learners whose scores are not those of `score`."""
        return [name for name in self.scores if name not in (SCORE, self.recommended.name)]


@dataclass(frozen=True, eq=False)
class Evaluation:
    """All that the report says and draws."""

    scored: Scored
    plan: Plan
    accuracy: Mapping[str, Estimate]
    """`weak`, `strong`, `oracle`, and `gap` = strong - weak."""
    figures: Mapping[str, Figures]
    """`score`, the other learners, the baselines."""
    differences: Mapping[str, Mapping[str, Estimate]]
    """`score` minus each of the others, paired."""
    band: Band
    notes: Sequence[str] = field(default_factory=tuple)

    @property
    def threshold(self) -> float:
        """Of `score`: above it is the share of the rows that was asked for."""
        return float(np.quantile(self.scored.scores[SCORE], 1 - self.plan.share))

    @property
    def has_gap(self) -> bool:
        """Without one there is nothing to recover."""
        return bool(self.scored.rows.advantage.mean() > 0)


def learners_for(rows: Outcomes) -> list[Learner]:
    """The recommended one first."""
    if not rows.signal_names and not rows.categorical:
        return list(prompt_learners())
    return [*draft_learners(), frozen_reference()]


def score(
    rows: Outcomes, learners: Sequence[Learner], plan: Plan, progress: Progress = lambda step, how: None
) -> Scored:
    """Cross-fitted scores of all rows.

    Raises:
        folds.TooFewGroups, crossfit.BadScores
    """
    groups = near_duplicates(rows, lambda done, total: progress("near-duplicates", f"{done:,} of {total:,} rows"))
    progress("near-duplicates", f"{int(groups.max()) + 1:,} different questions in {len(rows):,} rows")
    fold_of = folds.assign(rows, groups, plan.folds, plan.seed)
    fitted = cross_fit(
        rows, learners, groups, fold_of, seed=plan.seed, processes=plan.processes,
        progress=lambda done, total: progress("cross-fitting", f"{done} of {total} fits"),
    )  # fmt: skip
    return Scored(
        rows, groups, fold_of, learners[0], {SCORE: fitted[learners[0].name], **fitted}, baselines.scores(rows)
    )


def measure(scored: Scored, plan: Plan, progress: Progress = lambda step, how: None) -> Evaluation:
    """The figures of everything that was scored."""
    rows = scored.rows
    resamples = Resamples(scored.groups, plan.seed, plan.resamples)
    names = [SCORE, *scored.others]
    found = {}
    for name in [*names, *scored.baselines]:
        progress("bootstrap", f"{name}: {resamples.count:,} resamples")
        learned = name in scored.scores
        values = scored.scores[name] if learned else scored.baselines[name]
        found[name] = samples(rows, values, resamples, plan.share, probability=learned)
    accuracy = {
        "weak": mean_interval(rows.weak, resamples),
        "strong": mean_interval(rows.strong, resamples),
        "oracle": mean_interval(np.maximum(rows.weak, rows.strong), resamples),
        "gap": mean_interval(rows.advantage, resamples),
    }
    return Evaluation(
        scored=scored,
        plan=plan,
        accuracy=accuracy,
        figures={name: summary(each) for name, each in found.items()},
        differences={
            name: differences(found[SCORE], each)
            for name, each in found.items()
            if name not in (SCORE, baselines.ORACLE)
        },
        band=band(rows, scored.scores[SCORE], resamples),
        notes=notes(scored, accuracy),
    )


def notes(scored: Scored, accuracy: Mapping[str, Estimate]) -> list[str]:
    """What a reader must know before believing the figures."""
    rows, found = scored.rows, []
    gap = accuracy["gap"]
    if gap.estimate is not None and gap.estimate <= 0:
        found.append(
            f"strong is no better than weak on these rows ({rows.strong.mean():.3f} against {rows.weak.mean():.3f}): "
            "there is no gap to recover, so APGR, CPT and the recovered part are not defined"
        )
    elif gap.low is not None and gap.low <= 0:
        found.append(
            "the interval of the gap includes 0: figures that are relative to it say little; more rows are needed"
        )
    if len(rows) < FEW_ROWS:
        found.append(f"only {len(rows)} rows: expect the figures to change with more")
    sizes = np.bincount(scored.groups)
    if (repeated := int(sizes[sizes > 1].sum())) > 0:
        found.append(
            f"{repeated:,} rows are near-duplicates of others (largest group: {int(sizes.max())}); each group "
            "stays in one fold"
        )
    if rows.text is not None and (empty := sum(not text.strip() for text in rows.text)):
        found.append(f"{empty:,} rows have an empty text")
    return found + _notes_on_signals(rows)


FEW_ROWS = 200
TELLTALE = 0.995
"""AUROC from which a signal is more likely to be the judgement itself."""


def _notes_on_signals(rows: Outcomes) -> list[str]:
    from trainer.evaluation.statistics import auroc  # noqa: PLC0415

    found = []
    for name, values in zip(rows.signal_names, rows.signals.T, strict=True):
        given = ~np.isnan(values)
        if not given.any():
            found.append(f"signal {name!r} is empty in all rows")
        elif given.all() and np.ptp(values) == 0:
            found.append(f"signal {name!r} is the same in all rows")
        else:
            wrong = auroc(values[given], rows.weak[given] < 0.5)
            if wrong is not None and max(wrong, 1 - wrong) >= TELLTALE and given.sum() >= FEW_ROWS:
                found.append(
                    f"signal {name!r} alone tells right from wrong answers (AUROC {max(wrong, 1 - wrong):.3f}): is it "
                    "known when the policy decides, or is it the judgement itself?"
                )
    return found
