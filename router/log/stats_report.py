"""The figures of `locum log stats` as text, with the arithmetic of the break-even."""

from __future__ import annotations

import time
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from router.log.stats import SHORT_SPAN_S

TOKENS = {
    "prompt_tokens": "input",
    "cached_tokens": "cached",
    "cache_write_tokens": "cache writes",
    "completion_tokens": "output",
    "reasoning_tokens": "reasoning",
}
"""Headings of the counts."""
ALWAYS = ("prompt_tokens", "completion_tokens")


def show(figures: dict[str, Any], console: Console) -> None:
    """Print everything."""
    if not figures["records"]:
        console.print("The log holds no decision record.")
        return
    span_s = figures["span_s"]
    console.print(
        f"{figures['records']:,} records from {_moment(figures['first_s'])} to {_moment(figures['last_s'])} "
        f"UTC ({_span(span_s)})"
    )
    _show_counts(figures, console)
    _show_tokens(figures, console)
    _show_spend(figures["spend"], span_s, console)
    _show_machine(figures["machine"], console)
    _show_quality(figures["quality"], console)
    _show_embeddings(figures["embeddings"], console)
    _show_labels(figures, console)
    _show_break_even(figures["break_even"], console)
    if figures["damaged_lines"] or figures["doubled_records"]:
        console.print(
            f"\nLeft out: {figures['damaged_lines']} damaged lines, {figures['doubled_records']} doubled records; "
            "`locum log verify` names them."
        )


def _show_counts(figures: dict[str, Any], console: Console) -> None:
    table = Table("", "", "records", "share", box=box.SIMPLE_HEAD, pad_edge=False)
    for key in ("route", "outcome", "reason", "purpose", "capture"):
        for place, (name, count) in enumerate(figures[f"by_{key}"].items()):
            table.add_row(key if place == 0 else "", name, f"{count:,}", f"{count / figures['records']:.1%}")
    console.print(table)


def _show_tokens(figures: dict[str, Any], console: Console) -> None:
    """What no model had is left out."""
    counts = [name for name in TOKENS if name in ALWAYS or any(row[name] for row in figures["tokens"].values())]
    table = Table("tokens", *(TOKENS[name] for name in counts), "USD", box=box.SIMPLE_HEAD, pad_edge=False)
    for route, row in figures["tokens"].items():
        table.add_row(route, *_amounts(row, counts))
        if route == "student" and (thrown := figures["drafts_thrown_away"])["drafts"]:
            table.add_row(f"  of which {thrown['drafts']:,} drafts thrown away", *_amounts(thrown, counts))
    console.print(table)


def _amounts(row: dict[str, Any], counts: list[str]) -> list[str]:
    return [*(_count(row[count]) for count in counts), usd(row["cost_usd"])]


def _show_spend(spend: dict[str, Any], span_s: float, console: Console) -> None:
    console.print(
        f"Spend: {usd(spend['usd'])} in the log, {usd(spend['usd_per_month'])} a month; all by the teacher it would "
        f"have been {usd(spend['counterfactual_usd'])}, {usd(spend['counterfactual_usd_per_month'])} a month."
    )
    if spend["answers_without_cost"]:
        console.print(f"Without a price or usage, so not in these sums: {spend['answers_without_cost']:,} answers.")
    if span_s < SHORT_SPAN_S:
        console.print(f"The figures for a month are extrapolated from {_span(span_s)} only: take them as a guess.")


def _show_machine(machine: dict[str, Any], console: Console) -> None:
    if machine["usd"] is not None:
        part = "a part of the spend" if machine["part_of_spend"] else "measured, beside the list prices of the spend"
        console.print(f"The student's machine while it worked: {usd(machine['usd'])}, {part}; idle time is not in it.")


def _show_quality(found: dict[str, Any], console: Console) -> None:
    if found["shadows"]:
        asked = f"{found['asked_teacher']:,} of the teacher, {found['asked_student']:,} of the student"
        console.print(
            f"Measuring quality, beside that: {found['shadows']:,} shadows ({asked}) {usd(found['cost_usd'])}, "
            f"judges {usd(found['judge_cost_usd'])}."
        )


def _show_embeddings(found: dict[str, Any], console: Console) -> None:
    if found["requests"]:
        tokens, cost = _count(found["prompt_tokens"]), usd(found["cost_usd"])
        console.print(f"Embeddings, beside that: {found['requests']:,} requests, {tokens} tokens, {cost}.")


def _show_labels(figures: dict[str, Any], console: Console) -> None:
    labels, usable = figures["labels"], figures["distillation"]
    mean = "" if labels["mean_score"] is None else f" (mean {labels['mean_score']:.3f})"
    console.print(
        f"\nLabels: {labels['judged_records']:,} records are judged: {labels['scores']:,} scores{mean}, "
        f"{labels['labels']:,} labels, {labels['corrections']:,} corrections."
    )
    others = ", ".join(f"{name.replace('_', ' ')} {count:,}" for name, count in usable.items() if name != "usable")
    console.print(
        f"Usable for distillation: {usable.get('usable', 0):,} records" + (f" (not: {others})." if others else ".")
    )


def _show_break_even(result: dict[str, Any], console: Console) -> None:
    given = result["assumptions"]
    machine, share, training = given["student_usd_per_month"], given["escalated_share"], given["training_usd"]
    console.print(
        f"\nDoes distilling pay? Assumed: the student's machine {usd(machine)} a month, training {usd(training)} once, "
        f"{share:.0%} of the work stays with the teacher."
    )
    per_request, requests = result["teacher_usd_per_request"], result["requests_per_month"]
    if per_request is None:
        console.print(
            "The teacher's price is unknown: give --teacher-input-usd-per-1m and --teacher-output-usd-per-1m, or set "
            "the prices in [teacher]."
        )
        return
    console.print(
        f"  a request costs at the teacher   t = {usd(per_request)} (prices: {result['teacher_price_source']})"
    )
    if result["break_even_requests_per_month"] is not None:
        console.print(
            f"  it pays from                     {usd(machine)} / ((1 - {share:g}) * t) = "
            f"{result['break_even_requests_per_month']:,.0f} requests a month"
        )
    if requests is None:
        console.print("  the log spans no time: the volume of a month is unknown")
        return
    before, after = result["all_teacher_usd_per_month"], result["with_student_usd_per_month"]
    console.print(f"  this log                         n = {requests:,.0f} requests a month")
    console.print(f"  all by the teacher               n * t = {usd(before)} a month")
    console.print(
        f"  with the student                 {share:g} * {usd(before)} + {usd(machine)} = {usd(after)} a month"
    )
    if result["pays"]:
        console.print(
            f"  [bold]It pays[/bold]: {usd(result['saving_usd_per_month'])} a month; the training is paid back in "
            f"{result['payback_months']:.1f} months."
        )
    else:
        console.print(f"  [bold]It does not pay[/bold]: {usd(-result['saving_usd_per_month'])} a month more.")


def usd(amount: float | None) -> str:
    """Money with as many digits as it takes to see it."""
    if amount is None:
        return "unknown"
    digits = 2 if abs(amount) >= 1 or amount == 0 else 6
    return f"{amount:,.{digits}f} USD"


def _count(number: int | None) -> str:
    return "-" if number is None else f"{number:,}"


def _moment(created_s: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.gmtime(created_s))


def _span(span_s: float) -> str:
    if span_s >= 2 * 86_400:
        return f"{span_s / 86_400:.1f} days"
    return f"{span_s / 3600:.1f} hours" if span_s >= 7200 else f"{span_s / 60:.1f} minutes"
