"""Routing by the text alone, on the two public sets that routers are compared on, against what others published."""

from __future__ import annotations

import resource
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import msgspec

from policies.artefact import replace_file
from trainer.routing import plot
from trainer.routing.evaluation import SCORE, Plan
from trainer.routing.reading import Columns
from trainer.routing.report import Report, written
from trainer.routing.results.section import Found, Note
from trainer.routing.run import Outputs, run

COLUMNS = Columns(weak="weak", strong="strong", text="prompt")
PUBLISHED = {"mmlu": (35.4, 70.3, 0.603), "gsm8k": (33.6, 63.3, 0.622)}
"""CPT50, CPT80 and APGR: the best of each column among published routers on the same outcomes."""
TITLES = {"mmlu": "MMLU", "gsm8k": "GSM8K"}
OTHER_SEEDS = {"gsm8k": (1, 2, 3)}
"""Of the small set: how much the division into folds matters."""


class PromptResults:
    """MMLU and GSM8K: Mixtral-8x7B against GPT-4-1106."""

    name = "prompts"
    files = tuple(f"routellm/{name}.csv.gz" for name in TITLES)
    code = (
        "trainer.routing.results.prompts", "trainer.routing.learners.prompt",
        "trainer.routing.learners.prompt_features",
        "trainer.routing.learners.tfidf", "policies.scoring.text", "trainer.routing.evaluation",
        "trainer.routing.crossfit", "trainer.routing.folds", "trainer.routing.groups", "trainer.routing.measures",
        "trainer.routing.figures",
    )  # fmt: skip

    def measure(self, data: Path, note: Note) -> Found:
        found: dict[str, object] = {}
        for name in TITLES:
            path = data / "routellm" / f"{name}.csv.gz"
            before = _cpu_s()
            report, _ = run(path, COLUMNS, Plan(), Outputs(), partial(_say, note, name))
            seconds = _cpu_s() - before
            others = [run(path, COLUMNS, Plan(seed=seed), Outputs())[0] for seed in OTHER_SEEDS.get(name, ())]
            found[name] = {
                "report": msgspec.to_builtins(report),
                "cpu_s": round(seconds, 1),
                "other_seeds": [msgspec.to_builtins(each.figures[SCORE]) for each in others],
            }
        return found

    def write(self, found: Found, pictures: Path) -> Sequence[str]:
        lines: list[str] = []
        for name, title in TITLES.items():
            report = msgspec.convert(found[name]["report"], Report)
            replace_file(pictures / f"routing-{name}.png", plot.png(report, f"{title}: Mixtral-8x7B and GPT-4"))
            lines += [f"**{title}**, n = {report.data.n:,}", "", *table(report, PUBLISHED[name]), ""]
            lines += [
                _seeds(found[name]),
                "",
                f"![{title}: quality over the share of strong calls](routing-{name}.png)",
                "",
            ]
        return lines


def table(report: Report, published: tuple[float, float, float]) -> list[str]:
    """The learners, the baselines and what was published, as a Markdown table."""
    lines = [
        "| score | CPT50 | CPT80 | APGR | APGR, exact | gap recovered at 20 % | AUROC, strong better | ECE |",
        "|---|---|---|---|---|---|---|---|",
    ]
    cpt50, cpt80, apgr = published
    lines.append(f"| best published, each column | {cpt50} % | {cpt80} % | {apgr:.3f} | - | - | - | - |")
    for name, figures in report.figures.items():
        shown = f"**{report.recommended}**" if name == SCORE else name.replace("_", " ")
        cells = [
            written(figures.cpt50, "percent", interval=name == SCORE),
            written(figures.cpt80, "percent", interval=name == SCORE),
            written(figures.apgr, "part", interval=name == SCORE),
            written(figures.apgr_exact, "part", interval=name == SCORE),
            written(figures.recovered, "share", interval=name == SCORE),
            written(figures.auroc_strong_better, "part", interval=name == SCORE),
            written(figures.ece, "part", interval=False),
        ]
        lines.append(f"| {shown} | {' | '.join(cells)} |")
    return lines


def _seeds(found: Found) -> str:
    took = f"This evaluation took {found['cpu_s']:.0f} s of one core."
    if not found["other_seeds"]:
        return took
    apgr = ", ".join(f"{each['apgr']['estimate']:.3f}" for each in found["other_seeds"])
    cpt80 = ", ".join(f"{each['cpt80']['estimate']:.1f} %" for each in found["other_seeds"])
    return f"Other divisions into folds: APGR {apgr}; CPT80 {cpt80}. {took}"


def _cpu_s() -> float:
    """Of this process and of the ended ones that it started."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)


def _say(note: Note, name: str, step: str, how: str) -> None:
    note(f"{name}: {step}: {how}")
