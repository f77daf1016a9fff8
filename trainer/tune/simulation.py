"""How often `locum tune --confidence` breaks its promise, and what share it sends to the teacher for it.

    python -m trainer.tune.simulation questions.csv.gz --weak 'gpt-4.1-mini|correct' --strong 'gpt-4.1|correct' \
        --signals 'gpt-4.1-mini|logit,gpt-4.1-mini|verbal,gpt-4.1-mini|tokens,category'

The rows of a file of labelled outcomes are the population, so the truth is known. Each draw takes n of them with
replacement for the labels, sets the threshold, and looks up what it does to the population. The score is that of a
logistic regression, cross-fitted once over the file: a score that no label of a draw has made.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray

from trainer.tune.bounds import TESTS, Test
from trainer.tune.guarantee import GRID, Promise

Floats = NDArray[np.float64]
SAFEST_SHARE = 0.8
"""Where the sequences begin, to save time: what is safer passes for sure."""


@dataclass(frozen=True)
class Population:
    """Rows of which everything is known."""

    score: Floats
    """[N], in [0, 1]."""
    loss: Floats
    """[N], teacher minus student."""

    def teacher_share(self, threshold: float) -> float:
        return float((self.score > threshold).mean())

    def mean_loss(self, threshold: float) -> float:
        return float(np.where(self.score <= threshold, self.loss, 0.0).mean())

    def sequence(self) -> Floats:
        """The thresholds of the grid that differ here, from the safest on."""
        shares = np.array([self.teacher_share(threshold) for threshold in GRID.tolist()])
        distinct = np.flatnonzero(np.diff(shares, append=-1.0) < 0)
        return GRID[distinct[shares[distinct] <= SAFEST_SHARE]]

    def needed_share(self, most: float) -> float:
        """That truly suffices: of the last threshold before the first one that loses more."""
        share = 1.0
        for threshold in self.sequence().tolist():
            if self.mean_loss(threshold) > most:
                break
            share = self.teacher_share(threshold)
        return share


@dataclass(frozen=True)
class Outcome:
    """Of many draws by one test."""

    violations: float
    """Share of the draws whose threshold loses more than promised."""
    share: float
    """Mean share sent to the teacher."""
    low: float
    """That of the luckiest tenth of the draws, and of the unluckiest."""
    high: float


def simulate(population: Population, promise: Promise, test: Test, *, n: int, draws: int, seed: int) -> Outcome:
    """Set the threshold on `draws` samples of n rows and look at what each does to the population."""
    most = promise.max_quality_loss
    rows = np.random.default_rng(seed).integers(len(population.loss), size=(draws, n))
    score, loss = population.score[rows], population.loss[rows]
    shares, violated = np.ones(draws), np.zeros(draws, dtype=bool)
    going = np.arange(draws)
    for threshold in population.sequence().tolist():
        kept = np.where(score[going] <= threshold, loss[going], 0.0)
        going = going[test(kept, most, promise.level)]
        if not going.size:
            break
        shares[going] = population.teacher_share(threshold)
        violated[going] = population.mean_loss(threshold) > most
    low, high = np.quantile(shares, [0.1, 0.9])
    return Outcome(float(violated.mean()), float(shares.mean()), float(low), float(high))


def population_of(path: Path, weak: str, strong: str, signals: str, folds: int = 5, seed: int = 0) -> Population:
    """Read a file and score it. Raises: DataError."""
    from trainer.routing import crossfit  # noqa: PLC0415 - scikit-learn
    from trainer.routing import folds as splits  # noqa: PLC0415
    from trainer.routing.learners import frozen_reference  # noqa: PLC0415
    from trainer.routing.reading import Columns, read, split_names  # noqa: PLC0415

    rows = read(path, Columns(weak=weak, strong=strong, signals=split_names(signals)))
    together = np.arange(len(rows), dtype=np.int64)
    fold_of = splits.assign(rows, together, folds, seed)
    scores = crossfit.cross_fit(rows, [frozen_reference()], together, fold_of, seed=seed, processes=1)
    return Population(scores["reference"], rows.advantage)


def compare(population: Population, promise: Promise, sizes: Sequence[int], draws: int, seed: int) -> list[list[str]]:
    """One row a proof: its name, then for each number of labels the share and the violations."""
    rows = []
    for name, test in TESTS.items():
        cells = [name]
        for n in sizes:
            found = simulate(population, promise, test, n=n, draws=draws, seed=seed)
            cells.append(f"{found.share:.1%} ({found.low:.0%}-{found.high:.0%}), {found.violations:.1%}")
        rows.append(cells)
    return rows


def table(rows: Sequence[Sequence[str]], sizes: Sequence[int]) -> Iterator[str]:
    """Markdown."""
    yield "| " + " | ".join(["proof", *(f"n = {n:,}" for n in sizes)]) + " |"
    yield "|---" * (len(sizes) + 1) + "|"
    for cells in rows:
        yield "| " + " | ".join(cells) + " |"


def title(population: Population, promise: Promise) -> str:
    most = promise.max_quality_loss
    return (
        f"{len(population.loss):,} rows; the student alone loses {100 * float(population.loss.mean()):.1f} points, and "
        f"for at most {100 * most:g} it truly takes {population.needed_share(most):.1%} to the teacher."
    )


@click.command()
@click.argument("data", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--weak", required=True, help="Column with the student's outcome.")
@click.option("--strong", required=True, help="Column with the teacher's outcome.")
@click.option("--signals", required=True, help="Columns that the score is learned from, comma-separated.")
@click.option("--max-quality-loss", default=0.02, show_default=True)
@click.option("--confidence", default=0.95, show_default=True)
@click.option("--sizes", default="500,1000,2000,5000", show_default=True, help="Numbers of labels.")
@click.option("--draws", default=1000, show_default=True)
@click.option("--seed", default=0, show_default=True)
def main(data: Path, max_quality_loss: float, confidence: float, **options: Any) -> None:
    """Compare proofs on a file of labelled outcomes."""
    population = population_of(data, options["weak"], options["strong"], options["signals"])
    promise = Promise(max_quality_loss, confidence)
    sizes = [int(size) for size in options["sizes"].split(",")]
    click.echo(f"{title(population, promise)}\n")
    for line in table(compare(population, promise, sizes, options["draws"], options["seed"]), sizes):
        click.echo(line)


if __name__ == "__main__":
    main()
