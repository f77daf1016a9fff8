"""Retrieval with the real encoder on a few chunks, and what is kept of it."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from serving.demo.corpus import CorpusChunk, build_corpus
from serving.demo.questions import question_bank
from serving.demo.retrieval import MiniLm, open_index

pytestmark = [
    pytest.mark.semantic,
    pytest.mark.skipif(importlib.util.find_spec("sentence_transformers") is None, reason="needs the [semantic] extra"),
]


class Counting:
    """The real encoder, and how many texts it was given."""

    def __init__(self, encoder: MiniLm) -> None:
        self._encoder = encoder
        self.identity = encoder.identity
        self.texts = 0

    def encode(self, texts: Sequence[str]) -> Any:
        self.texts += len(texts)
        return self._encoder.encode(texts)


@pytest.fixture(scope="module")
def minilm() -> MiniLm:
    return MiniLm()


@pytest.fixture(scope="module")
def chunks() -> list[CorpusChunk]:
    return build_corpus(("shutil", "heapq", "calendar"), ())


def silent(count: int, total: int) -> None:
    assert 0 <= count <= total


def test_index_finds_the_documented_function_and_scores_other_topics_low(
    minilm: MiniLm, chunks: list[CorpusChunk], tmp_path: Path
) -> None:
    index = open_index(chunks, minilm, tmp_path, silent)
    best = index.search("Which function in shutil recursively deletes a directory tree?", 3)
    assert best[0].chunk.name == "shutil.rmtree"
    assert best[0].score > 0.55
    off_topic = [q for q in question_bank() if q.kind == "off_topic"]
    assert all(index.search(question.text, 1)[0].score < 0.55 for question in off_topic)


def test_index_is_read_from_disk_when_corpus_and_encoder_are_the_same(
    minilm: MiniLm, chunks: list[CorpusChunk], tmp_path: Path
) -> None:
    open_index(chunks, minilm, tmp_path, silent)
    again = Counting(minilm)
    open_index(chunks, again, tmp_path, silent)
    assert again.texts == 0
    open_index(chunks[:-1], again, tmp_path, silent)
    assert again.texts == len(chunks) - 1


def test_index_is_computed_again_when_the_kept_file_is_truncated(
    minilm: MiniLm, chunks: list[CorpusChunk], tmp_path: Path
) -> None:
    open_index(chunks, minilm, tmp_path, silent)
    kept = next(tmp_path.glob("*.npy"))
    kept.write_bytes(kept.read_bytes()[:1000])
    again = Counting(minilm)
    index = open_index(chunks, again, tmp_path, silent)
    assert again.texts == len(chunks)
    assert index.search("merge sorted inputs", 1)[0].chunk.name == "heapq.merge"
