"""Outcomes made up for tests: small, seeded, with a pattern that can be learned."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np

from trainer.routing.outcomes import Floats, Ints, Outcomes

TOPICS = (
    "proof integral theorem lemma",
    "city capital river country",
    "verb noun grammar spelling",
    "atom charge orbit energy",
)


def outcomes(n: int = 300, seed: int = 0, *, text: bool = True) -> Outcomes:
    """Hard topics and low confidence go with a weak model that is wrong where the strong one is right."""
    generator = np.random.default_rng(seed)
    topic = generator.integers(0, len(TOPICS), n)
    hard = np.isin(topic, (0, 3))
    weak = (generator.random(n) < np.where(hard, 0.35, 0.9)).astype(float)
    strong = (generator.random(n) < 0.92).astype(float)
    confidence = np.clip(0.55 + 0.3 * weak + generator.normal(0, 0.12, n), 0, 1)
    confidence[generator.random(n) < 0.1] = np.nan
    return Outcomes(
        ids=tuple(f"q{i}" for i in range(n)),
        text=tuple(_text(generator, TOPICS[each]) for each in topic) if text else None,
        weak=weak,
        strong=strong,
        signals=np.column_stack([confidence, generator.integers(20, 900, n).astype(float)]),
        signal_names=("confidence", "tokens"),
        categorical={"topic": tuple(f"t{each}" for each in topic)},
    )


def _text(generator: np.random.Generator, topic: str) -> str:
    words = [*generator.choice(topic.split(), 6), *(f"w{each}" for each in generator.integers(0, 4000, 10))]
    return " ".join(generator.permutation(words).tolist())


def write_csv(path: Path, rows: Outcomes, *, ids: bool = True) -> Path:
    header = [*(["id"] if ids else []), "prompt", "weak|ok", "strong.ok", *rows.signal_names, *rows.categorical]
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        for i in range(len(rows)):
            signals = ["" if np.isnan(value) else value for value in rows.signals[i]]
            words = [values[i] for values in rows.categorical.values()]
            prompt = "" if rows.text is None else rows.text[i]
            writer.writerow([*([rows.ids[i]] if ids else []), prompt, rows.weak[i], rows.strong[i], *signals, *words])
    return path


class ByConfidence:
    """A learner without anything to learn: 1 - the first signal, 0.9 where it is missing."""

    name = "by_confidence"

    def fit(self, rows: Outcomes, *, groups: Ints, seed: int) -> ByConfidence:
        return self

    def score(self, rows: Outcomes) -> Floats:
        return np.clip(1 - np.nan_to_num(rows.signals[:, 0], nan=0.1), 0, 1)
