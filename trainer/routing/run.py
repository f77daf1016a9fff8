"""`locum evaluate` from a file to a report and the files that were asked for."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from policies import artefact
from policies.calibration import expected_calibration_error, reliability
from policies.draft_signals import NAMES, unmeasured
from policies.scoring.model import ScoreArtefact, TrainingData
from trainer.routing import crossfit, evaluation, folds, report
from trainer.routing.evaluation import SCORE, Evaluation, Plan, Progress, Scored
from trainer.routing.learner import Exportable, Learner
from trainer.routing.reading import Columns, DataError, read

MEASURES = (
    "apgr",
    "cpt50",
    "cpt80",
    "apgr_exact",
    "cpt80_exact",
    "recovered",
    "auroc_weak_wrong",
    "auroc_strong_better",
)
"""Of the report, kept in an artefact."""


class NothingToLearn(ValueError):
    """The rows hold nothing that routing could use; the message says why."""


class NotExportable(ValueError):
    """The learner leaves no artefact behind."""


WRONG_INPUT = (DataError, folds.TooFewGroups)
NEGATIVE = (NothingToLearn, NotExportable, crossfit.BadScores, crossfit.WorkerDied)


@dataclass(frozen=True)
class Outputs:
    """Files to write; None: not asked for."""

    scores: Path | None = None
    artefact: Path | None = None
    plot: Path | None = None


def run(
    path: Path,
    columns: Columns,
    plan: Plan,
    outputs: Outputs,
    progress: Progress = lambda step, how: None,
    learners: Sequence[Learner] | None = None,
) -> tuple[report.Report, Evaluation]:
    """Evaluate a file.

    Args:
        learners: the recommended one first; default: Locum's own for these columns.
    Raises:
        DataError, TooFewGroups: wrong input.
        NothingToLearn, NotExportable, BadScores: the data or a learner gives no result.
        OSError: a file could not be written.
    """
    rows = read(path, columns)
    progress("reading", f"{len(rows):,} rows")
    if not rows.advantage.any():
        raise NothingToLearn(
            f"{path}: {columns.weak!r} and {columns.strong!r} are equal in every row: no query is answered better "
            "by either, so there is nothing to route by. Check the columns"
        )
    scored = evaluation.score(rows, learners or evaluation.learners_for(rows), plan, progress)
    if outputs.scores is not None:
        report.write_scores(outputs.scores, scored)
    measured = evaluation.measure(scored, plan, progress)
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    found = report.report_of(measured, path, sha256, columns)
    if outputs.plot is not None:
        from trainer.routing import plot  # noqa: PLC0415 - matplotlib

        artefact.replace_file(outputs.plot, plot.png(found, path.name))
    if outputs.artefact is not None:
        progress("artefact", f"{scored.recommended.name} on all rows")
        made = artefact_of(measured, found)
        artefact.write(outputs.artefact, made)
        if foreign := unmeasured(name for name in made.inputs if not name.startswith("text_")):
            found = msgspec.structs.replace(found, notes=(*found.notes, _foreign(foreign)))
    return found, measured


def _foreign(names: list[str]) -> str:
    listed = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
    return (
        f"the artefact needs {listed}, which a gateway does not measure, so the policy cascade will refuse it: leave "
        f"them out, or map them (--signals mean_logprob=COLUMN) to one of {', '.join(NAMES)}, or to "
        "tag.NAME, if it is a tag of the requests"
    )


def artefact_of(measured: Evaluation, found: report.Report) -> ScoreArtefact:
    """The recommended learner on all rows, with the figures of its cross-fitted scores.

    Raises:
        NotExportable
    """
    scored = measured.scored
    order = folds.canonical(scored.rows.ids, measured.plan.seed)
    groups = crossfit.in_order(scored.groups[order])
    fitted = scored.recommended.fit(scored.rows.part(order), groups=groups, seed=measured.plan.seed)
    if not isinstance(fitted, Exportable):
        raise NotExportable(f"the learner {scored.recommended.name!r} cannot be written as an artefact")
    made = fitted.artefact(_training_data(scored, found))
    score, better = scored.scores[SCORE], scored.rows.advantage > 0
    bins = reliability(score.tolist(), better.tolist())
    figures = found.figures[SCORE]
    estimates = {name: getattr(figures, name).estimate for name in MEASURES}
    return msgspec.structs.replace(
        made,
        reliability=bins,
        ece=round(expected_calibration_error(bins), 4),
        measures={name: round(value, 4) for name, value in estimates.items() if value is not None},
        default_threshold=round(found.threshold, 6),
        threshold_rule=f"escalates {found.share:.0%} of the rows it was fitted on, by cross-fitted scores",
    )


def _training_data(scored: Scored, found: report.Report) -> TrainingData:
    return TrainingData(
        sha256=found.data.sha256,
        n=len(scored.rows),
        columns=tuple(name for _, name in found.data.columns.by_option()),
        date=time.strftime("%Y-%m-%d", time.gmtime()),
        source=found.data.file,
    )
