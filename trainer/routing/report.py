"""What `locum evaluate` found, as JSON (a stable form, see docs/evaluate.md), as tables, and as a file of scores."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from pathlib import Path

import msgspec
from rich import box
from rich.console import Console
from rich.table import Table

from policies.artefact import replace_file
from trainer.routing.baselines import PROMPT_LENGTH
from trainer.routing.evaluation import SCORE, Evaluation, Scored
from trainer.routing.figures import CONFIDENCE, GRID, Estimate, Figures, accuracy_curve
from trainer.routing.reading import Columns

SCHEMA = 1
DIFFERENCES = ("apgr", "cpt50", "cpt80", "apgr_exact", "cpt80_exact", "recovered", "auroc_strong_better")
WIDTH = 140
SCORE_DIGITS = 9


class Data(msgspec.Struct, frozen=True, kw_only=True):
    """The rows that were evaluated."""

    file: str
    """Its name, without the folder."""
    sha256: str
    n: int
    n_different: int
    """Groups of near-duplicates."""
    columns: Columns
    categorical: tuple[str, ...]
    """Signals that are words."""


class Point(msgspec.Struct, frozen=True):
    """Quality at a share of strong calls, exact mode, with its interval."""

    share: float
    accuracy: float
    low: float
    high: float


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """The result of `locum evaluate --json`."""

    schema: int = SCHEMA
    kind: str
    """`router`: decides before generation. `cascade`: by the signals of the weak model's answer."""
    data: Data
    share: float
    folds: int
    seed: int
    resamples: int
    confidence: float
    accuracy: Mapping[str, Estimate]
    recommended: str
    """The learner whose figures are those of `score`."""
    threshold: float
    """Above it `score` escalates `share` of these rows."""
    figures: Mapping[str, Figures]
    differences: Mapping[str, Mapping[str, Estimate]]
    curve: tuple[Point, ...]
    """Of `score`, at 0, 1, ... 100 % strong calls."""
    curves: Mapping[str, tuple[float, ...]]
    """Quality of the others at the same shares."""
    notes: tuple[str, ...]


def report_of(evaluation: Evaluation, path: Path, sha256: str, columns: Columns) -> Report:
    scored, band = evaluation.scored, evaluation.band
    return Report(
        kind="cascade" if columns.signals else "router",
        data=Data(
            file=path.name, sha256=sha256, n=len(scored.rows), n_different=int(scored.groups.max()) + 1,
            columns=columns, categorical=tuple(scored.rows.categorical),
        ),
        share=evaluation.plan.share,
        folds=evaluation.plan.folds,
        seed=evaluation.plan.seed,
        resamples=evaluation.plan.resamples,
        confidence=CONFIDENCE,
        accuracy=evaluation.accuracy,
        recommended=scored.recommended.name,
        threshold=evaluation.threshold,
        figures=evaluation.figures,
        differences={
            name: {figure: each[figure] for figure in DIFFERENCES if figure in each}
            for name, each in evaluation.differences.items()
        },
        curve=tuple(
            Point(*(round(float(value), 6) for value in row))
            for row in zip(GRID, band.accuracy, band.low, band.high, strict=True)
        ),
        curves={
            name: tuple(round(float(value), 6) for value in accuracy_curve(scored.rows, values))
            for name, values in {**scored.scores, **scored.baselines}.items()
            if name in evaluation.figures and name != SCORE
        },
        notes=tuple(evaluation.notes),
    )  # fmt: skip


def as_json(report: Report) -> str:
    return msgspec.json.encode(report).decode()


def write_scores(path: Path, scored: Scored) -> None:
    """One row a query, in the order of the data: its id, `score`, each learner's score, and the baselines that need no
    outcome. Raises: OSError."""
    columns = {**scored.scores, **{name: values for name, values in scored.baselines.items() if name == PROMPT_LENGTH}}
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["id", *columns])
    for row, each in enumerate(scored.rows.ids):
        writer.writerow([each, *(round(float(values[row]), SCORE_DIGITS) for values in columns.values())])
    replace_file(path, out.getvalue().encode("utf-8", "surrogatepass"))


ROWS: tuple[tuple[str, str, str], ...] = (
    ("apgr", "APGR, RouteLLM", "part"),
    ("cpt50", "CPT50, RouteLLM", "percent"),
    ("cpt80", "CPT80, RouteLLM", "percent"),
    ("apgr_exact", "APGR, exact", "part"),
    ("cpt50_exact", "CPT50, exact", "percent"),
    ("cpt80_exact", "CPT80, exact", "percent"),
    ("accuracy", "accuracy at {share}", "share"),
    ("recovered", "gap recovered at {share}", "share"),
    ("points_left", "points left at {share}", "points"),
    ("auroc_weak_wrong", "AUROC, weak wrong", "part"),
    ("auroc_strong_better", "AUROC, strong better", "part"),
    ("ece", "ECE, strong better", "part"),
    ("cost_router", "cost as router at {share}", "share"),
    ("cost_cascade", "cost as cascade at {share}", "share"),
)
"""(figure, what it is called, how it is written)."""


def show(report: Report, console: Console) -> None:
    """The report for people."""
    data = report.data
    what = "cascade" if report.kind == "cascade" else "routing before generation"
    console.print(
        f"{data.file}: {data.n:,} queries ({data.n_different:,} different), {what}; "
        f"{report.folds} folds, {report.resamples:,} resamples, {report.confidence:.0%} intervals",
        style="bold", markup=False, highlight=False,
    )  # fmt: skip
    for note in report.notes:
        console.print(f"note: {note}", markup=False, highlight=False)
    console.print(_accuracies(report))
    console.print(_figures(report))
    console.print(_differences(report))
    console.print(
        f"score = {report.recommended}: P(strong better), cross-fitted; above {report.threshold:.4f} it escalates "
        f"{report.share:.0%} of these rows.\nRecovered, APGR: of the gap between weak and strong. CPT: percent of "
        "strong calls that recover half or 80 % of it.\nCost: relative to sending every query to the strong model.",
        markup=False, highlight=False,
    )  # fmt: skip


def _accuracies(report: Report) -> Table:
    table = Table(box=box.SIMPLE, show_header=True, pad_edge=False)
    table.add_column("quality")
    for name in ("weak", "strong", "gap", "oracle"):
        table.add_column(name, justify="right")
    table.add_row(
        "all rows", *(written(report.accuracy[name], "share") for name in ("weak", "strong", "gap", "oracle"))
    )
    return table


def _figures(report: Report) -> Table:
    table = Table(box=box.SIMPLE, pad_edge=False)
    table.add_column("")
    for name in report.figures:
        table.add_column(name, justify="right")
    for figure, title, kind in ROWS:
        found = {name: getattr(each, figure) for name, each in report.figures.items()}
        if found[SCORE] is None:
            continue
        table.add_row(
            title.format(share=f"{report.share:.0%}"),
            *(written(each, kind, interval=name == SCORE) for name, each in found.items()),
        )
    return table


def _differences(report: Report) -> Table:
    shown = [
        (figure, title, kind)
        for figure, title, kind in ROWS
        if figure in ("apgr", "cpt80", "recovered", "auroc_strong_better")
    ]
    table = Table(box=box.SIMPLE, pad_edge=False)
    table.add_column("score minus")
    for _, title, _ in shown:
        table.add_column(title.format(share=f"{report.share:.0%}"), justify="right")
    for name, each in report.differences.items():
        table.add_row(name, *(written(each.get(figure), kind, sign="+") for figure, _, kind in shown))
    return table


def written(value: Estimate | None, kind: str, *, interval: bool = True, sign: str = "") -> str:
    """`.641 [.620, .660]`-like text; `-` for what is not defined."""
    if value is None or value.estimate is None:
        return "-"
    scale, digits, unit = {"part": (1, 3, ""), "share": (100, 1, " %"), "percent": (1, 1, " %"), "points": (1, 2, "")}[
        kind
    ]

    def number(x: float) -> str:
        return format(scale * x, f"{sign}.{digits}f")

    text = f"{number(value.estimate)}{unit}"
    if not interval:
        return text
    if value.low is None or value.high is None:
        return f"{text} [-, -]"
    return f"{text} [{number(value.low)}, {number(value.high)}]"
