"""The table that a run prints, and the docs page *The claim, measured* written from it."""

from __future__ import annotations

from pathlib import Path

from trainer.claim.baselines import TEACHER_QUANTIZED
from trainer.claim.steps import Result

TITLES = {
    TEACHER_QUANTIZED: "teacher, quantized, not distilled",
    "student-labels": "pruned student on the human labels only, quantized",
    "student-random": "student distilled from random weights, quantized",
}


def points(interval: Result) -> str:
    """`85.9 [84.7, 87.1]`, in points."""
    return f"{100 * interval['estimate']:.1f} [{100 * interval['low']:.1f}, {100 * interval['high']:.1f}]"


def table(figures: Result) -> list[str]:
    """The result as a Markdown table, one system a row."""
    main = figures["routing"]
    accuracy, sent = main["accuracy"], main["escalated"]
    share = f"{100 * sent['calls']:.1f} %"
    rows = [
        ("teacher", accuracy["teacher"], "100 %"),
        ("student, quantized", accuracy["student"], "0 %"),
        ("**routed by the cascade**", accuracy["routed"], share),
        ("random routing, same share (expected)", main["random_routing"], share),
        ("longest requests to the teacher, same share", main["length_routing"], share),
    ]
    for name, variant in figures["variants"].items():
        rows.append((TITLES.get(name, name), variant["accuracy"], "-"))
    lines = ["| system | test accuracy, % [95 % interval] | answered by the teacher |", "|---|---|---|"]
    return lines + [f"| {name} | {points(value)} | {escalated} |" for name, value, escalated in rows]


def summary(figures: Result) -> list[str]:
    """What the table means, in sentences."""
    main, cost, speed = figures["routing"], figures["costs"], figures["speed"]
    sent, measured, listed = main["escalated"], cost["measured"], cost["list_price"]
    return [
        f"- Gap between teacher and student: {points(main['gap'])} points; left after routing: {points(main['left'])} "
        f"points (paired bootstrap over {main['n']:,} test cases).",
        f"- Escalated: {100 * sent['calls']:.1f} % of the calls, {100 * sent['tokens']:.1f} % of the tokens, "
        f"{100 * sent['price']:.1f} % of what all-teacher would cost at list price (q').",
        f"- Speed on {speed['cores']} core(s), quantized student with the logprobs that the cascade "
        "needs against the teacher in bfloat16: "
        f"{speed['student_requests_per_s']:.1f} against {speed['teacher_requests_per_s']:.1f} requests/s, "
        f"{speed['student_times_faster']['teacher']:.1f} times{_quantized_teacher(speed)}.",
        *_depth(figures),
        f"- Cost, measured (both by machine time): r = {measured['r']:.3f}, q' + r = {measured['relative_cost']:.3f}: "
        f"{measured['cheaper']:.1f}x cheaper than all-teacher; {_five(measured)}",
        f"- Cost, list price (teacher at its API price, student by machine time): r = {listed['r']:.4f}, q' + r = "
        f"{listed['relative_cost']:.3f}: {listed['cheaper']:.1f}x cheaper; {_five(listed)}",
    ]


def _quantized_teacher(speed: Result) -> str:
    """What quantizing alone would have brought."""
    if TEACHER_QUANTIZED not in speed["student_times_faster"]:
        return ""
    return (
        f"; the teacher quantized in the same way: {speed['teacher_quantized_requests_per_s']:.1f} requests/s, "
        f"the student {speed['student_times_faster'][TEACHER_QUANTIZED]:.1f} times"
    )


def _depth(figures: Result) -> list[str]:
    """Why depth alone makes a student only so much faster."""
    depth = figures.get("depth")
    if depth is None or depth["ratio_without_layers"] is None:
        return []
    return [
        f"- Where a student's time goes: {depth['ms_per_layer']:.1f} ms a request and layer, and "
        f"{depth['fixed_ms']:.1f} ms that do not depend on the depth (output head, sampling, scheduler and HTTP of "
        f"vLLM): without any layer it would be {depth['ratio_without_layers']:.1f} times as fast as the teacher."
    ]


def _five(cost: Result) -> str:
    if cost["q_for_5x"] <= 0:
        return "with this r no q' gives 5x."
    return f"5x needs q' <= {cost['q_for_5x']:.3f}."


def verdicts(figures: Result) -> list[str]:
    """Each part of the target, met or not."""
    lines = ["| target, by point estimate | measured | met |", "|---|---|---|"]
    for name, judged in figures["targets"].items():
        value = judged["value"]
        shown = f"{value:.1f}x" if "cheaper" in name else f"{100 * value:.1f}"
        lines.append(f"| {name} | {shown} | {'yes' if judged['met'] else 'no'} |")
    return lines


def losses(figures: Result) -> list[str]:
    """The comparison of losses; empty without one."""
    compared = figures.get("losses") or {}
    if not compared:
        return []
    lines = ["| loss, seed | KL to the teacher | agreement | accuracy | error AUROC |", "|---|---|---|---|---|"]
    for name, row in compared.items():
        kl = "-" if row["kl"] is None else f"{row['kl']:.3f}"
        auroc = "-" if row["error_auroc"] is None else f"{row['error_auroc']:.3f}"
        lines.append(f"| {name} | {kl} | {row['agreement']:.3f} | {points(row['accuracy'])} | {auroc} |")
    return lines


def write_page(path: Path, figures: Result) -> None:
    """The docs page. Everything in it comes from the run."""
    machine, data = figures["machine"], figures["data"]
    compared = losses(figures)
    lines = [
        "# The claim, measured",
        "",
        "<!-- written by `make claim`; do not edit -->",
        "",
        "The gateway logs a teacher's traffic; a student a fifth as deep is distilled from it, quantized, gated,",
        "promoted, and put in front of the teacher with a cascade on its mean logprob. Then the whole test set goes",
        "through the gateway as plain OpenAI requests.",
        "",
        "```bash",
        "make claim DATA=path/to/banking77            # COMPARE=1 for the losses, SEEDS=3 for repetitions",
        "```",
        "",
        *table(figures),
        "",
        *summary(figures),
        "",
        *verdicts(figures),
        "",
        *(["## Losses", "", *compared, ""] if compared else []),
        "## What was run",
        "",
        *[f"- {line}" for line in figures["notes"]],
        "",
        f"Machine: {machine['cpu']}, {machine['cores']} cores, no GPU; commit {machine['commit']}; "
        f"{machine['date']}; {machine['minutes']:.0f} minutes in all.",
        f"Data: BANKING77 (Casanueva et al. 2020, CC BY 4.0); sha256 of train.csv `{data['train.csv'][:16]}…`, "
        f"test.csv `{data['test.csv'][:16]}…`.",
        "",
    ]
    path.write_text("\n".join(lines), encoding="utf-8")
