"""The cascade's score over all pairs of a file: which pairs, kept one by one, and summed up with their questions paired."""

from __future__ import annotations

import csv
import gzip
from pathlib import Path

import msgspec
import numpy as np
import pytest

from trainer.routing.figures import Estimate
from trainer.routing.outcomes import Floats, Ints, Outcomes
from trainer.routing.pairs import FIGURES, Pair, Questions, measured, median
from trainer.routing.results.cascade import CascadeResults

MODELS = {"small": 0.5, "middle": 0.6, "large": 0.9}


class Signal:
    """Scores by one signal, by its value or against it."""

    def __init__(self, name: str, sign: float) -> None:
        self.name, self.sign, self.fits = name, sign, 0

    def fit(self, rows: Outcomes, *, groups: Ints, seed: int) -> Signal:
        self.fits += 1
        return self

    def score(self, rows: Outcomes) -> Floats:
        return np.asarray(0.5 + self.sign * (0.5 - np.nan_to_num(rows.signals[:, 0])) / 2)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    generator = np.random.default_rng(0)
    found = tmp_path / "questions.csv.gz"
    words = [" ".join(f"w{each}" for each in generator.integers(0, 5000, 12)) for _ in range(200)]
    with gzip.open(found, "wt", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        columns = [f"{model}|{name}" for model in MODELS for name in ("correct", "logit", "verbal", "tokens")]
        writer.writerow(["id", "prompt", "category", *columns])
        for row in range(200):
            cells: list[object] = [row, words[row], "law" if row % 2 else "physics"]
            for accuracy in MODELS.values():
                right = int(generator.random() < accuracy)
                cells += [
                    right,
                    round(0.4 * right + 0.5 * generator.random(), 3),
                    "" if row % 9 == 0 else 0.8,
                    100 + row,
                ]
            writer.writerow(cells)
    return found


def test_pairs_are_all_whose_strong_model_is_better_typical_gaps_first(path: Path) -> None:
    pairs = Questions.of(path, 0).pairs()
    assert set(pairs) == {("small", "middle"), ("small", "large"), ("middle", "large")}
    assert pairs[0] == ("small", "middle")


def test_measurement_goes_on_where_it_was_interrupted(path: Path, tmp_path: Path) -> None:
    questions, folder = Questions.of(path, 0), tmp_path / "kept"
    good, bad = Signal("good", 1.0), Signal("bad", -1.0)
    first = next(measured(questions, (good, bad), 0, folder))
    assert good.fits == 5
    pairs = [pair for _, _, pair in measured(questions, (good, bad), 0, folder)]
    assert good.fits == 15
    assert pairs[0] == first[2]
    assert [pair for _, _, pair in measured(questions, (good, bad), 0, folder)] == pairs
    assert good.fits == 15


def test_better_score_is_significantly_better_when_the_signal_tells(path: Path, tmp_path: Path) -> None:
    learners = (Signal("good", 1.0), Signal("bad", -1.0))
    pairs = [pair for _, _, pair in measured(Questions.of(path, 0), learners, 0, tmp_path / "kept")]
    found = median(pairs, "good", "bad")
    assert (found.pairs, found.better) == (3, 3)
    assert found.significant[0] >= 2 and found.significant[1] == 0
    assert found.difference.low is not None and found.difference.low > 0


def test_page_names_the_sets_of_pairs_and_every_pair(tmp_path: Path) -> None:
    pairs = [pair("gpt-4.1-mini", "gpt-4.1", 0.05), pair("a", "b", 0.2), pair("a", "c", 0.01)]
    better = {"draft": dict.fromkeys(FIGURES, Estimate(0.7, 0.6, 0.8)), "reference": pairs[0].figures["reference"]}
    found = {
        "learners": ["draft", "reference"],
        "pairs": msgspec.to_builtins(pairs),
        "other_seeds": msgspec.to_builtins([msgspec.structs.replace(pairs[0], figures=better)]),
    }
    lines = CascadeResults().write(found, tmp_path)
    text = "\n".join(lines)
    assert "| gap of 4 to 6 points | 1 | 50 %" in text
    assert "| all | 3 |" in text
    assert "| gpt-4.1-mini → gpt-4.1 | 60 (50-70) / 30 (30-30) | 0.60 (0.50-0.70)" in text
    assert text.index("gpt-4.1-mini → gpt-4.1") < text.index("a → b")
    assert (tmp_path / "routing-pairs.png").read_bytes().startswith(b"\x89PNG")


def pair(weak: str, strong: str, gap: float) -> Pair:
    half, third = Estimate(0.5, 0.4, 0.6), Estimate(0.3, 0.2, 0.4)
    return Pair(
        weak=weak,
        strong=strong,
        n=100,
        accuracy=(0.6, 0.6 + gap),
        figures={"draft": dict.fromkeys(FIGURES, half), "reference": dict.fromkeys(FIGURES, third)},
        differences=dict.fromkeys(FIGURES, Estimate(0.2, 0.1, 0.3)),
        drawn={"draft": [0.5, 0.4, 0.6], "reference": [0.3, None if strong == "c" else 0.2, 0.4]},
        seconds=1.0,
    )
