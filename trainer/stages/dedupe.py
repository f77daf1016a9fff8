"""Dedupe: of requests that are the same, or nearly, one stays: corrected ones first, then the best, then the newest."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Set
from pathlib import Path
from typing import NamedTuple

from trainer.recipe import Recipe
from trainer.similarity.near import (
    MinHashIndex,
    Pieces,
    Signature,
    cosine_duplicates,
    group_of,
    pieces,
    text_of,
    texts_to_embed,
)
from trainer.similarity.texts import NotText, Prompt, Templates, digest, normalise, prompt_of
from trainer.similarity.vectors import Embed, Vectors, embedder, encoder_digest
from trainer.stage import Json, StageContext, StageError, Summary
from trainer.tables import EXAMPLES, Example, Filter, count_rows, read_examples

PROGRESS_ROWS = 500
FIXES = {
    "exact": "more varied traffic",
    "minhash": "dedupe.minhash_threshold",
    "cosine": "dedupe.cosine",
}


class _Row(NamedTuple):
    decision_id: str
    rank: tuple[bool, float, float]
    """Higher stays."""
    exact: bytes
    group: bytes


class Dedupe:
    name = "dedupe"
    needs = ("quality",)
    version = 1

    def __init__(self, embed: Embed | None = None) -> None:
        """`embed` replaces the encoder of the training environment."""
        self._embed = embed

    def key(self, recipe: Recipe) -> Json:
        options = recipe.dedupe
        if options.encoder is not None and not (Path(options.encoder) / "modules.json").is_file():
            raise StageError(f"dedupe.encoder: {options.encoder} is no folder of a sentence-transformers model")
        key: dict[str, Json] = options.model_dump(mode="json", exclude={"encoder"})
        return {**key, "encoder": encoder_digest(options.encoder)}

    def run(self, context: StageContext) -> Summary:
        options = context.recipe.dedupe
        source = context.inputs["quality"] / EXAMPLES
        templates = Templates(prompt.turn for _, prompt in _prompts(source))
        rows = _rows(source)
        twins: dict[int, tuple[str, int]] = {}
        self._drop(twins, "exact", _exact(rows))
        if options.minhash_threshold < 1:
            self._drop(twins, "minhash", self._by_minhash(context, source, templates, rows, twins.keys()))
        vectors = Vectors(context.folder)
        if options.cosine < 1:
            self._drop(twins, "cosine", self._by_cosine(context, source, templates, rows, twins.keys(), vectors))
        with Filter(context.folder) as table:
            for number, example in enumerate(read_examples(source)):
                if number not in rows:
                    table.drop(example.decision_id, "no_user_turn")
                elif number in twins:
                    cause, twin = twins[number]
                    table.drop(example.decision_id, cause, f"as {rows[twin].decision_id}")
                else:
                    table.keep(example)
        return table.summary(FIXES, embedding_dim=vectors.dim)

    @staticmethod
    def _drop(twins: dict[int, tuple[str, int]], cause: str, found: dict[int, int]) -> None:
        twins.update({row: (cause, twin) for row, twin in found.items()})

    def _by_minhash(
        self, context: StageContext, source: Path, templates: Templates, rows: dict[int, _Row], gone: Set[int]
    ) -> dict[int, int]:
        total = count_rows(source)
        index = MinHashIndex(context.recipe.dedupe.minhash_threshold)
        signatures: dict[int, Signature] = {}
        for number, prompt in _prompts(source):
            if number % PROGRESS_ROWS == 0:
                context.progress(number, total, "hashed")
            if number not in gone:
                signatures[number] = index.signature(text_of(prompt, templates))
        found: dict[int, int] = {}
        for group in _groups(rows, signatures):
            found.update(index.duplicates((number, signatures[number]) for number in group))
        return found

    def _by_cosine(
        self, context: StageContext, source: Path, templates: Templates, rows: dict[int, _Row], gone: Set[int],
        vectors: Vectors,
    ) -> dict[int, int]:  # fmt: skip
        compared: dict[int, Pieces] = {}

        def texts() -> Iterator[str]:
            for number, prompt in _prompts(source):
                if number not in gone:
                    text = text_of(prompt, templates)
                    yield from texts_to_embed(text)
                    if (found := pieces(text)) is not None:
                        compared[number] = found

        vectors.add(texts(), self._embed or embedder(context.recipe), context.progress)
        found: dict[int, int] = {}
        for group in _groups(rows, compared):
            threshold = context.recipe.dedupe.cosine
            found.update(cosine_duplicates([(each, compared[each]) for each in group], vectors, threshold))
        return found


def _prompts(source: Path) -> Iterator[tuple[int, Prompt]]:
    for number, example in enumerate(read_examples(source)):
        try:
            yield number, prompt_of(example.messages)
        except NotText:
            continue


def _rows(source: Path) -> dict[int, _Row]:
    rows = {}
    for number, example in enumerate(read_examples(source)):
        try:
            prompt = prompt_of(example.messages)
        except NotText:
            continue
        exact = digest(normalise(prompt.context), normalise(prompt.turn))
        rows[number] = _Row(example.decision_id, _rank(example), exact, group_of(prompt))
    return rows


def _rank(example: Example) -> tuple[bool, float, float]:
    return example.correction is not None, example.score or 0.0, example.created_s


def _exact(rows: dict[int, _Row]) -> dict[int, int]:
    best: dict[bytes, int] = {}
    for number, row in rows.items():
        known = best.get(row.exact)
        if known is None or row.rank > rows[known].rank:
            best[row.exact] = number
    return {number: best[row.exact] for number, row in rows.items() if best[row.exact] != number}


def _groups(rows: dict[int, _Row], chosen: Iterable[int]) -> Iterator[list[int]]:
    """The chosen rows that may repeat each other, best first; groups of one are left out."""
    groups: defaultdict[bytes, list[int]] = defaultdict(list)
    for number in chosen:
        groups[rows[number].group].append(number)
    for group in groups.values():
        if len(group) > 1:
            yield sorted(group, key=lambda number: rows[number].rank, reverse=True)


STAGE = Dedupe()
