"""The budget controller on public outcomes, for the results page: what the same tokens buy."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from trainer.budget.population import scored_population
from trainer.budget.report import as_json, simulated, table_of
from trainer.budget.traffic import SCENARIOS
from trainer.routing.results.section import Found, Note

FILE = "mmlu_pro_cascade/questions.csv.gz"
WEAK, STRONG = "gpt-4.1-mini", "gpt-4.1"
SIGNALS = (f"{WEAK}|logit", f"{WEAK}|verbal", f"{WEAK}|tokens", "category")
NAMES = ("usual day", "first day", "bursts", "step at noon", "longer answers", "all at once")
PER_DAY, PART, SEED = 10_000, 0.3, 1


class BudgetResults:
    """Days of gpt-4.1-mini to gpt-4.1."""

    name = "budget"
    files = (FILE,)
    code = (
        "trainer.budget",
        "policies.budget",
        "policies.pacing",
        "policies.pacer",
        "policies.forecast",
        "policies.day_shapes",
        "policies.lengths",
    )

    def measure(self, data: Path, note: Note) -> Found:
        population = scored_population(data / FILE, WEAK, STRONG, SIGNALS)
        scenarios = [each for each in SCENARIOS if each.name in NAMES]
        note(f"{len(scenarios)} days")
        return {"rows": as_json(simulated(population, scenarios, per_day=PER_DAY, part=PART, seed=SEED))}

    def write(self, found: Found, pictures: Path) -> Sequence[str]:
        return [
            f"Simulated days of {PER_DAY:,} requests with the outcomes, scores (the frozen reference, cross-fitted) "
            f"and answer lengths of {WEAK} and {STRONG} on MMLU-Pro; the budget is {PART:.0%} of the tokens that 60 % "
            "of the requests would take. What the columns mean, and more days: [budget](budget.md#on-simulated-days).",
            "",
            *table_of(found["rows"]).splitlines(),
        ]
