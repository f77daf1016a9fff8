"""Quality estimates of a traffic log, and how they are shown."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from policies.quality.estimates import MIN_LABELS, PRECISION, Estimates
from policies.quality.judgements import Judgements
from policies.record import FeedbackRecord, ShadowRecord
from policies.traffic.reader import decisions, read

LOW_COVERAGE = 0.9
"""Below, what is missing of the sample may differ from what is there."""
_EXPLAINED = {
    "student": "the student, where it answered",
    "teacher": "the teacher, where it answered",
    "mix": "what clients got",
    "all_teacher": "had the teacher answered all",
    "all_student": "had the student answered all",
}


def collect(folder: Path, *, by: str | None = None, since_s: float = 0.0) -> Estimates:
    """Estimates over the requests that arrived since then.

    Memory grows with what was graded, not with the log. Raises: TrafficError; ValueError: `by` is unknown.
    """
    estimates, judged = Estimates(by), Judgements()
    drawn: dict[str, list[ShadowRecord]] = defaultdict(list)
    for annotation in read(folder, kind="annotations"):
        if isinstance(annotation, ShadowRecord):
            drawn[annotation.decision_id].append(annotation)
        elif isinstance(annotation, FeedbackRecord):
            judged.add(annotation)
    for record in decisions(folder):
        if record.created_s >= since_s:
            of_record = [each for each in drawn.get(record.decision_id, ()) if each.tenant == record.tenant]
            estimates.add(record, of_record, judged.of(record))
    return estimates


def show(figures: dict[str, Any], console: Console) -> None:
    """Print what `Estimates.as_json` gives."""
    total = figures["total"]
    requests = total["requests"]
    if not sum(requests.values()):
        console.print("The log holds no answered request of this time.")
        return
    console.print(
        f"{sum(requests.values()):,} answered requests, {total['student_share']:.1%} of them by the student; "
        f"{sum(total['drawn'].values()):,} were drawn for the other model, {total['labels']['shadow']:,} are graded "
        f"(as good as {total['labels']['shadow_effective']:,.0f} of equal weight), {total['labels']['feedback']:,} are "
        "judged by people."
    )
    table = _table("quality", "by grades (95 %)", "n", "by people (95 %)", "n")
    for key, text in _EXPLAINED.items():
        people = total["feedback"].get(key)
        table.add_row(text, *_cells(total["quality"][key]), *_cells(people))
    console.print(table)
    _show_loss(total, console)
    _show_sample(total, console)
    if figures["parts"]:
        _show_parts(figures, console)


def _show_loss(total: dict[str, Any], console: Console) -> None:
    loss, wanted = total["quality_loss"], total["labels"]["missing_for_1_point"]
    if loss is None:
        console.print(
            f"Quality loss against all-teacher: too few labels to say ({total['labels']['on_student_answers']} of "
            f"{MIN_LABELS} at least); about {wanted:,} more for ±1 point."
        )
        return
    console.print(
        f"Quality loss against all-teacher: [bold]{_points(loss['value'])}[/bold] "
        f"({100 * loss['low']:+.1f} to {100 * loss['high']:+.1f}), paired on {loss['n']:,} answers of the student."
    )
    if wanted:
        console.print(f"For ±{PRECISION * 100:.0f} point about {wanted:,} more labels are needed.")
    for route in ("student", "teacher"):
        parity = total["parity"][f"{route}_answered"]
        if parity is not None:
            console.print(
                f"Student minus teacher, where the {route} answered: {_points(parity['value'])} "
                f"({100 * parity['low']:+.1f} to {100 * parity['high']:+.1f}), n = {parity['n']:,}."
            )


def _show_sample(total: dict[str, Any], console: Console) -> None:
    coverage, judge = total["coverage"], total["judge"]
    if total["labels"]["by_grader"]:
        graders = ", ".join(f"{escape(name)} {count:,}" for name, count in total["labels"]["by_grader"].items())
        console.print(f"Graded by: {graders}.")
    if coverage is not None:
        others = ", ".join(f"{name} {count:,}" for name, count in total["drawn"].items() if name != "ok")
        console.print(f"Of the sample {coverage['value']:.1%} were asked" + (f" (not: {others})." if others else "."))
        if coverage["value"] < LOW_COVERAGE:
            console.print("What is missing may differ in quality: take the estimates with care, or raise the limits.")
    if judge["consistent"] is not None:
        bias = judge["position_bias"]
        console.print(
            f"The judge prefers the same answer in both orders in {judge['consistent']['value']:.1%} of "
            f"{judge['pairwise']:,} comparisons"
            + ("." if bias is None else f"; being shown first is worth {_points(bias['value'])} to an answer "
               f"({100 * bias['low']:+.1f} to {100 * bias['high']:+.1f}).")
        )  # fmt: skip


def _show_parts(figures: dict[str, Any], console: Console) -> None:
    table = _table(
        figures["by"], "requests", "student", "its quality", "the teacher's", "loss in points", "labels", "people"
    )
    for part in figures["parts"]:
        people = part["feedback"]["student"] or part["feedback"]["teacher"]
        table.add_row(
            escape(part["name"]),
            f"{sum(part['requests'].values()):,}",
            f"{part['student_share']:.1%}",
            _cells(part["quality"]["student"])[0],
            _cells(part["quality"]["teacher"])[0],
            _loss_cell(part),
            f"{part['labels']['shadow']:,}",
            _cells(people)[0],
        )
    console.print(table)


def _table(*columns: str) -> Table:
    """Its rows are not broken: who reads them in a narrow window scrolls."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in columns:
        table.add_column(name, no_wrap=True)
    return table


def _loss_cell(part: dict[str, Any]) -> str:
    loss = part["quality_loss"]
    if loss is not None:
        return f"{100 * loss['value']:+.1f} ({100 * loss['low']:+.1f} to {100 * loss['high']:+.1f})"
    return "-" if not part["requests"]["student"] else f"too few; {part['labels']['missing_for_1_point']:,} more"


def _cells(estimate: dict[str, Any] | None) -> tuple[str, str]:
    if estimate is None:
        return "-", ""
    return f"{estimate['value']:.3f} ({estimate['low']:.3f}-{estimate['high']:.3f})", f"{estimate['n']:,}"


def _points(share: float) -> str:
    return f"{share * 100:+.1f} points"
