"""Thresholds with a guarantee on public data, for the results page: kept promises, and the share that they take."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from trainer.routing.results.section import Found, Note
from trainer.tune.guarantee import Promise
from trainer.tune.simulation import compare, population_of, table, title

FILE = "mmlu_pro_cascade/questions.csv.gz"
WEAK, STRONG = "gpt-4.1-mini", "gpt-4.1"
SCORES = {
    "the mean logprob alone": f"{WEAK}|logit",
    "all signals": f"{WEAK}|logit,{WEAK}|verbal,{WEAK}|tokens,category",
}
PROMISE = Promise(max_quality_loss=0.02, confidence=0.95)
SIZES = (500, 1000, 2000, 5000)
DRAWS, SEED = 1000, 0


class GuaranteeResults:
    """gpt-4.1-mini to gpt-4.1, at most 2 points lost."""

    name = "guarantee"
    files = (FILE,)
    code = (
        "trainer.tune.results", "trainer.tune.simulation", "trainer.tune.bounds", "trainer.tune.betting",
        "trainer.tune.guarantee", "trainer.routing.learners.reference", "trainer.routing.crossfit",
    )  # fmt: skip

    def measure(self, data: Path, note: Note) -> Found:
        found: dict[str, object] = {}
        for name, signals in SCORES.items():
            note(name)
            population = population_of(data / FILE, f"{WEAK}|correct", f"{STRONG}|correct", signals)
            rows = compare(population, PROMISE, SIZES, DRAWS, SEED)
            found[name] = {"title": title(population, PROMISE), "rows": rows}
        return found

    def write(self, found: Found, pictures: Path) -> Sequence[str]:
        return list(_lines(found))


def _lines(found: Found) -> Iterator[str]:
    yield (
        f"{WEAK} to {STRONG} on MMLU-Pro, at most {100 * PROMISE.max_quality_loss:g} points lost with "
        f"{PROMISE.confidence:.0%} confidence, a score by the frozen reference. {DRAWS:,} draws of n labels with "
        "replacement; the file is the population, so the truth is known. Mean share to the teacher (10th to 90th "
        f"percentile), and the share of draws whose threshold loses more than promised, which may be "
        f"{1 - PROMISE.confidence:.0%}. Why it works: [locum tune](tune.md)."
    )
    for name, each in found.items():
        yield from ("", f"**Score by {name}**: {each['title']}", "", *table(each["rows"], SIZES))
