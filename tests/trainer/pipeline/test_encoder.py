"""The embedding job on the real encoder: leaks that share no run of words with the evaluation set."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.trainer.pipeline.conftest import Result, quiet
from trainer.jobs.embed import EmbedSpec, run
from trainer.recipe import Recipe
from trainer.stage import Progress, StageError
from trainer.stages.decontaminate import Decontaminate
from trainer.stages.dedupe import Dedupe
from trainer.tables import Example

pytestmark = [
    pytest.mark.semantic,
    pytest.mark.train,
    pytest.mark.skipif(importlib.util.find_spec("sentence_transformers") is None, reason="needs sentence-transformers"),
]
JUDGED = [
    "My new card still has not arrived after two weeks, what should I do?",
    "Why was I charged a fee when I withdrew cash abroad?",
    "How do I change the PIN of my card?",
]
LEAKS = {
    1: JUDGED[0],
    2: "what should I do? after two weeks still has not arrived my new card",
    3: "My new card hasn't arrived yet after two weeks. What should I do?",
    4: "I want to change my card PIN, how?",
    5: "How can I change my card's PIN?",
}
CLEAN = {
    11: "What exchange rate do you use for euros?",
    12: "Please close my account and send me the balance.",
    13: "My transfer to a friend is still pending.",
}


def embed(texts: Path, out: Path, progress: Progress) -> int:
    return int(run(EmbedSpec(texts=str(texts), out=str(out)), progress)["dim"])


def test_decontaminate_finds_verbatim_reordered_and_paraphrased_leaks(
    recipe: Callable[..., Recipe],
    example: Callable[..., Example],
    run_stage: Callable[..., Result],
    evaluation_set: Callable[..., Path],
) -> None:
    evaluation_set(JUDGED)
    rows = [example(number, text) for number, text in {**LEAKS, **CLEAN}.items()]
    result = run_stage(Decontaminate(embed), recipe(decontaminate={"cosine": 0.92}), rows, {"embedding_dim": 0})
    assert result.ids() == list(CLEAN)
    assert result.dropped()[1] == "same_text"
    assert [result.dropped()[number] for number in (3, 4, 5)] == ["cosine"] * 3


def test_dedupe_drops_a_paraphrase_and_keeps_other_numbers(
    recipe: Callable[..., Recipe], example: Callable[..., Example], run_stage: Callable[..., Result]
) -> None:
    rows = [
        example(0, "How can I change my card's PIN?"), example(1, "How do I change the PIN of my card?"),
        example(2, "Transfer 500 euros to my savings account"), example(3, "Transfer 600 euros to my savings account"),
    ]  # fmt: skip
    result = run_stage(Dedupe(embed), recipe(dedupe={"cosine": 0.9, "minhash_threshold": 1}), rows)
    assert result.ids() == [1, 2, 3]


def test_embedding_goes_on_where_it_was_killed(tmp_path: Path) -> None:
    texts, whole, part = (tmp_path / name for name in ("texts.parquet", "whole", "part"))
    pq.write_table(pa.table({"text": [f"text number {i}" for i in range(300)]}), texts)
    run(EmbedSpec(texts=str(texts), out=str(whole)), quiet)
    data = whole.read_bytes()
    part.write_bytes(data[: 257 * 384 * 4 + 10])
    seen: list[int] = []
    spec = msgspec.structs.replace(EmbedSpec(texts=str(texts), out=""), out=str(part))
    result = run(spec, lambda done, total, unit: seen.append(done))
    assert (result["rows"], seen[0]) == (300, 257)
    one, other = (np.frombuffer(each, np.float32) for each in (data, part.read_bytes()))
    assert np.abs(one - other).max() < 1e-4


def test_folder_without_a_model_is_named(tmp_path: Path) -> None:
    texts = tmp_path / "texts.parquet"
    pq.write_table(pa.table({"text": ["x"]}), texts)
    with pytest.raises(StageError, match=r"dedupe\.encoder: .* is no folder"):
        run(EmbedSpec(texts=str(texts), out=str(tmp_path / "o"), encoder=str(tmp_path)), quiet)
