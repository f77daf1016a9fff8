"""Requests to simulate with out of labelled outcomes, instead of the synthetic ones."""

from __future__ import annotations

import csv
import gzip
from collections.abc import Sequence
from pathlib import Path
from typing import IO

import numpy as np

from trainer.budget.traffic import REQUESTED_TOKENS, Population

WANTED = 0.6
"""Share of the queries whose score is above the threshold, where none is given."""


class BadData(ValueError):
    """The files cannot be used; the message names the file and the column."""


def population_of(
    data: Path, scores: Path, *, weak: str, strong: str, tokens: str, threshold: float | None = None
) -> Population:
    """Outcomes, and a score for each that was learned without it (`locum evaluate --scores-out`).

    Args:
        data: CSV, perhaps gzipped, with the columns `id` and those named next.
        scores: CSV with the columns `id` and `score`.
        weak, strong: how good either model's answer is, in [0, 1].
        tokens: of the strong model's answer.
        threshold: None: the one that `WANTED` of the queries are above.
    Raises:
        BadData.
    """
    rows = {row["id"]: row for row in _rows(data, ("id", weak, strong, tokens))}
    scored = {row["id"]: row["score"] for row in _rows(scores, ("id", "score"))}
    ids = [each for each in scored if each in rows]
    if not ids:
        raise BadData(f"{scores}: no `id` of it is in {data}")
    score = _numbers([scored[each] for each in ids], scores, "score")
    if score.min() < 0.0 or score.max() > 1.0:
        raise BadData(f"{scores}: `score` must lie in [0, 1]; take the calibrated column")
    gain = _numbers([rows[each][strong] for each in ids], data, strong) - _numbers(
        [rows[each][weak] for each in ids], data, weak
    )
    if gain.sum() <= 0.0:
        raise BadData(f"{data}: `{strong}` is no better than `{weak}` on these rows: there is no gap to recover")
    return Population(
        score=score,
        gain=gain,
        output_tokens=np.minimum(_numbers([rows[each][tokens] for each in ids], data, tokens), REQUESTED_TOKENS),
        threshold=float(np.quantile(score, 1.0 - WANTED)) if threshold is None else threshold,
    )


def _rows(path: Path, columns: tuple[str, ...]) -> list[dict[str, str]]:
    try:
        with _opened(path) as file:
            reader = csv.DictReader(file)
            missing = [column for column in columns if column not in (reader.fieldnames or ())]
            if missing:
                raise BadData(
                    f"{path}: has no column {missing[0]!r}; it has {', '.join(reader.fieldnames or ())[:300]}"
                )
            return list(reader)
    except (OSError, UnicodeDecodeError, csv.Error) as exc:
        raise BadData(f"{path}: cannot be read: {exc}") from exc


def _opened(path: Path) -> IO[str]:
    return gzip.open(path, "rt", newline="") if path.suffix == ".gz" else path.open(newline="")


def _numbers(values: list[str], path: Path, column: str) -> np.typing.NDArray[np.float64]:
    try:
        found = np.array([float(value) for value in values])
    except ValueError as exc:
        raise BadData(f"{path}: column {column!r}: {exc}") from exc
    if not np.isfinite(found).all():
        raise BadData(f"{path}: column {column!r} has values that are not finite")
    return found


def scored_population(data: Path, weak: str, strong: str, signals: Sequence[str]) -> Population:
    """Two models of `mmlu_pro_cascade/questions.csv.gz`, scored by the frozen reference, cross-fitted.

    Raises: DataError.
    """
    from trainer.routing import crossfit  # noqa: PLC0415 - scikit-learn
    from trainer.routing import folds as splits  # noqa: PLC0415
    from trainer.routing.learners.reference import Reference  # noqa: PLC0415
    from trainer.routing.reading import Columns, read  # noqa: PLC0415

    columns = Columns(
        weak=f"{weak}|correct", strong=f"{strong}|correct", signals=tuple(signals), cost_weak=f"{weak}|tokens",
        cost_strong=f"{strong}|tokens",
    )  # fmt: skip
    rows = read(data, columns)
    together = np.arange(len(rows), dtype=np.int64)
    fold_of = splits.assign(rows, together, 5, 0)
    score = crossfit.cross_fit(rows, [Reference()], together, fold_of, seed=0, processes=1)["reference"]
    assert rows.cost_strong is not None  # noqa: S101 - asked for
    tokens = np.minimum(np.nan_to_num(rows.cost_strong, nan=float(np.nanmean(rows.cost_strong))), REQUESTED_TOKENS)
    return Population(score, rows.advantage, tokens, threshold=float(np.quantile(score, 1.0 - WANTED)))
