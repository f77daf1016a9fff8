"""The simulated days as a table, and one of them as a plot."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from policies.forecast import WINDOWS
from trainer.budget.controllers import CutOff, Oracle, Pid
from trainer.budget.simulation import Outcome, Paced, limit_of, requests_of, run
from trainer.budget.traffic import Population, Scenario

COLUMNS = (
    "day",
    "controller",
    "spent",
    "nothing left at",
    "recovered gap",
    "teacher's share",
    "largest jump",
    "swings",
)
NAMES = {"budget": "`budget`", "cut-off": "cut-off", "PID": "PID", "oracle": "oracle"}


def simulated(
    population: Population, scenarios: Sequence[Scenario], *, per_day: int, part: float, seed: int
) -> list[list[Outcome]]:
    """The measured day of each scenario under each controller.

    Args:
        part: of what an ordinary day wants: the budget.
    """
    limit = limit_of(population, per_day=per_day, seed=seed, part=part)
    found = []
    for scenario in scenarios:
        requests = requests_of(population, scenario, per_day=per_day, seed=seed)
        controllers = (
            Paced(requests, scenario, limit * 1_000),
            CutOff(requests, limit),
            Pid(requests, limit),
            Oracle(requests, limit),
        )
        found.append([run(requests, scenario, each, limit) for each in controllers])
    return found


def table(found: Sequence[Sequence[Outcome]]) -> str:
    """In Markdown."""
    return table_of(as_json(found))


def table_of(rows: Sequence[Mapping[str, Any]]) -> str:
    """The same of what `as_json` has made."""
    lines = ["| " + " | ".join(COLUMNS) + " |", "|---|---|" + "---:|" * (len(COLUMNS) - 2)]
    last = ""
    for row in rows:
        cells = (
            row["scenario"] if row["scenario"] != last else "", NAMES[row["controller"]],
            f"{row['spend_ratio']:.1%}", clock(row["exhausted_s"]), f"{row['recovered']:.1%}",
            f"{row['share']:.1%}", f"{100 * row['largest_jump']:.1f}", str(row["swings"]),
        )  # fmt: skip
        last = row["scenario"]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def table_over_seeds(found: Sequence[Sequence[Sequence[Outcome]]]) -> str:
    """The same days drawn several times: means, and what of the difference to the PID could be chance.

    Args:
        found: by seed; at least two.
    """
    columns = ("day", "controller", "spent", "lowest", "highest", "too early", "recovered gap", "more than the PID")
    lines = ["| " + " | ".join(columns) + " |", "|---|---|" + "---:|" * (len(columns) - 2)]
    for drawn in zip(*found, strict=True):  # one scenario, by seed
        recovered = np.array([[outcome.recovered for outcome in outcomes] for outcomes in drawn])
        pid = [outcome.controller for outcome in drawn[0]].index(Pid.name)
        for place, first in enumerate(drawn[0]):
            spent = np.array([outcomes[place].spend_ratio for outcomes in drawn])
            early = sum(outcomes[place].exhausted_s is not None for outcomes in drawn)
            more = 100 * (recovered[:, place] - recovered[:, pid])
            error = more.std(ddof=1) / math.sqrt(len(drawn))
            cells = (
                first.scenario if place == 0 else "", NAMES[first.controller],
                f"{spent.mean():.1%}", f"{spent.min():.1%}", f"{spent.max():.1%}", f"{early} of {len(drawn)}",
                f"{recovered[:, place].mean():.1%}", "" if place == pid else f"{more.mean():+.1f} ± {error:.1f}",
            )  # fmt: skip
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def as_json(found: Sequence[Sequence[Outcome]]) -> list[dict[str, Any]]:
    names = (
        "scenario", "controller", "spend_ratio", "exhausted_s", "recovered", "share", "largest_jump", "swings",
    )  # fmt: skip
    return [{name: getattr(outcome, name) for name in names} for outcomes in found for outcome in outcomes]


def clock(second: float | None) -> str:
    """Time of the day."""
    if second is None or math.isnan(second):
        return "-"
    return f"{int(second // 3_600):02}:{int(second % 3_600 // 60):02}"


def plot(outcomes: Sequence[Outcome], path: Path) -> None:
    """Spend over one day, and the share of what is wanted that passes, for each controller. Raises: OSError."""
    from matplotlib.figure import Figure  # noqa: PLC0415 - of an extra, and slow to import

    figure = Figure(figsize=(9.0, 6.0), layout="constrained")
    spend, share = figure.subplots(2, 1, sharex=True)
    hours = (np.arange(WINDOWS) + 1) / 12
    styles = {
        "budget": ("#1F60C4", 2.2),
        "cut-off": ("#C4162A", 1.4),
        "PID": ("#FA6400", 1.4),
        "oracle": ("#9FA7B3", 1.4),
    }
    for outcome in outcomes:
        colour, width = styles[outcome.controller]
        spend.plot(hours, 100 * outcome.spent, label=outcome.controller, color=colour, linewidth=width)
        share.plot(hours - 1 / 12, 100 * outcome.let_through, color=colour, linewidth=width)
    spend.axhline(100, color="black", linewidth=0.8, linestyle=":")
    spend.set_ylabel("spent, % of the day's budget")
    spend.set_title(f"A simulated day: {outcomes[0].scenario}")
    spend.legend(frameon=False)
    share.set_ylabel("passes, % of wanted tokens")
    share.set_xlabel("hour of the day (UTC)")
    share.set_xlim(0, 24)
    share.set_xticks(range(0, 25, 3))
    for axes in (spend, share):
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


BEGIN, END = "<!-- simulation -->", "<!-- end -->"


def write_into(page: Path, text: str) -> None:
    """Put the table between the marks of a page. Raises: OSError, ValueError: it has no marks."""
    before, begin, rest = page.read_text().partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"{page}: has no lines {BEGIN} and {END}")
    page.write_text(f"{before}{BEGIN}\n{text}\n{END}{after}")
