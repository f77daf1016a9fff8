"""Training from files to weights that the policy accepts, and the guards against learning sources."""

from __future__ import annotations

import csv
import gzip
import hashlib
import json
import random
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from policies import artefact
from policies.base import RequestFeatures, RouteDecision
from policies.long_reasoning import SHIPPED_WEIGHTS
from policies.reasoning import STRUCTURE_NAMES, EmbeddingWeights, LinearScorer, LinearWeights, bucket
from policies.registry import build
from trainer.commands import train as train_group
from trainer.policy_models.long_reasoning import (
    SHIPPED_DATA,
    Dataset,
    Example,
    TrainingDataError,
    choose_threshold,
    load,
    train,
    train_embedding,
)

TOPICS = ("apples", "trains", "rivers", "books", "lamps", "coins")


def prompts(n: int, seed: int = 0) -> list[dict[str, Any]]:
    """Two labels out of three origins; `mark-<origin>` gives each origin away and is useless."""
    rng = random.Random(seed)
    rows = []
    for index in range(n):
        origin, label = ("one", "two", "three")[index % 3], index // 3 % 2
        topic, number = rng.choice(TOPICS), rng.randint(2, 99)
        hard = f"Prove step by step how many {topic} remain if {number} are lost and the total then doubles each day."
        text = hard if label else f"What colour are {topic} number {number}?"
        rows.append({"text": f"mark{origin} {text}", "label": label, "source": f"{origin}:{index // 6 % 3}"})
    return rows


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def quiet(line: str) -> None:
    pass


def run(*arguments: str | Path) -> Any:
    return CliRunner().invoke(train_group, [str(each) for each in arguments])


def test_command_writes_weights_that_the_policy_uses(tmp_path: Path) -> None:
    data, out = write(tmp_path / "prompts.csv", prompts(240)), tmp_path / "weights.json"
    result = run("policy", "long_reasoning", "--data", data, "--out", out, "--note", "a test")
    assert result.exit_code == 0, result.output
    weights = artefact.read(out, LinearWeights)
    assert (weights.n, weights.n_positive, weights.note) == (240, 120, "a test")
    assert weights.training_data_sha256 == hashlib.sha256(data.read_bytes()).hexdigest()
    assert weights.auroc_held_out > 0.95
    assert set(weights.sources) == {f"{origin}:{half}" for origin in ("one", "two", "three") for half in range(3)}
    policy = build("long_reasoning", {"weights": str(out)})
    hard = RequestFeatures(
        prompt_bytes=1, message_count=1, approx_prompt_tokens=1, requested_output_tokens=1,
        last_user_turn="Prove how many lamps remain if the total doubles at each step.",
    )  # fmt: skip
    assert isinstance(policy.decide(hard), RouteDecision)


def test_command_prints_json_for_programs(tmp_path: Path) -> None:
    data = write(tmp_path / "prompts.csv", prompts(120))
    result = run("policy", "long_reasoning", "--data", data, "--out", tmp_path / "w.json", "--json")
    summary = json.loads(result.stdout)
    assert summary["n"] == 120
    assert 0 < summary["default_threshold"] < 1


def test_training_is_reproducible(tmp_path: Path) -> None:
    data = load(write(tmp_path / "prompts.csv", prompts(120)))
    assert train(data, quiet) == train(data, quiet)


def test_word_that_few_sources_use_gets_no_weight(tmp_path: Path) -> None:
    data = load(write(tmp_path / "prompts.csv", prompts(240)))
    weights = train(data, quiet)
    assert bucket(b"prove") in weights.words
    for origin in (b"markone", b"marktwo", b"markthree"):
        assert bucket(origin) not in weights.words


def test_score_of_the_file_equals_the_score_of_the_fit(tmp_path: Path) -> None:
    weights = train(load(write(tmp_path / "prompts.csv", prompts(120))), quiet)
    artefact.write(tmp_path / "w.json", weights)
    reloaded = artefact.read(tmp_path / "w.json", LinearWeights)
    text = prompts(6)[3]["text"]
    assert LinearScorer(reloaded).score(text) == LinearScorer(weights).score(text)
    assert tuple(weights.structure) == STRUCTURE_NAMES


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("prompt,label\nx,1\n", "the column 'text' is missing"),
        ("text,label\nx,2\n", "line 2: label is '2', not 0 or 1"),
        ("text,label\nx,1\ny,0\n", "at least two origins"),
        ("text,label,source\nx,1,a\ny,1,b\n", "both labels"),
        ("", "the column 'label' is missing"),
    ],
)
def test_bad_data_is_refused_with_the_place(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "p.csv"
    path.write_text(content)
    result = run("policy", "long_reasoning", "--data", path, "--out", tmp_path / "w.json")
    assert result.exit_code == 2
    assert message in result.output
    assert not (tmp_path / "w.json").exists()


def test_origin_that_holds_one_label_alone_is_refused(tmp_path: Path) -> None:
    rows = [{"text": "x", "label": 1, "source": "a"}, {"text": "y", "label": 0, "source": "b"}]
    with pytest.raises(TrainingDataError, match="without the origin 'a' only one label is left"):
        train(load(write(tmp_path / "p.csv", rows)), quiet)


def test_folder_of_files_is_one_source_each_when_none_is_named(tmp_path: Path) -> None:
    write(tmp_path / "a.csv", [{"text": "x", "label": 1}, {"text": "y", "label": 0}])
    (tmp_path / "b.csv.gz").write_bytes(gzip.compress(b"text,label\nz,1\n"))
    data = load(tmp_path)
    assert [(each.text, each.source) for each in data.examples] == [("x", "a"), ("y", "a"), ("z", "b")]
    (tmp_path / "empty").mkdir()
    with pytest.raises(TrainingDataError, match=r"there is no \.csv"):
        load(tmp_path / "empty")


def test_threshold_lets_a_tenth_of_the_direct_prompts_through_with_each_origin_counting_the_same() -> None:
    many = [(Example("", 0, "many"), index / 1_000) for index in range(1_000)]
    few = [(Example("", 0, "few:x"), 0.0)] * 10
    hard = [(Example("", 1, "hard"), 0.99)] * 5
    examples, scores = zip(*many, *few, *hard, strict=True)
    threshold = choose_threshold(examples, scores)
    assert threshold == pytest.approx(0.8, abs=0.002)  # a fifth of `many`, none of `few`: a tenth on average


def test_embedding_head_separates_what_the_embedding_separates() -> None:
    rng = random.Random(0)
    examples, vectors = [], []
    for index in range(120):
        label = index // 3 % 2
        examples.append(Example("", label, ("one", "two", "three")[index % 3]))
        vectors.append([1.0 if label else -1.0, rng.uniform(-1, 1), rng.uniform(-1, 1)])
    head = train_embedding(Dataset(examples, "0" * 64), vectors, "test", quiet)
    assert isinstance(head, EmbeddingWeights)
    assert head.auroc_held_out > 0.99
    high, low = head.score((1.0, 0.0, 0.0)), head.score((-1.0, 0.0, 0.0))
    assert high is not None
    assert low is not None
    assert high > 0.8
    assert low < 0.2
    assert head.score((1.0,)) is None


def test_shipped_weights_were_trained_on_the_shipped_data() -> None:
    weights = artefact.read(SHIPPED_WEIGHTS, LinearWeights)
    assert weights.training_data_sha256 == hashlib.sha256(SHIPPED_DATA.read_bytes()).hexdigest()
    assert weights.n == len(load(SHIPPED_DATA).examples)


def test_shipped_data_names_source_and_licence_of_every_row() -> None:
    with gzip.open(SHIPPED_DATA, "rt", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["licence"] for row in rows} == {"Apache-2.0", "CC-BY-3.0", "PSF-2.0"}
    readme = (SHIPPED_DATA.parent / "README.md").read_text()
    for source in {row["source"] for row in rows}:
        assert source in readme or f"{source.partition(':')[0]}:*" in readme
    assert f"{len(rows):,} prompts" in readme
    assert SHIPPED_DATA.stat().st_size < 2**20


class TestCalibrator:
    def pairs(self, path: Path, n: int = 300) -> Path:
        rng = random.Random(0)
        rows = []
        for _ in range(n):
            raw = rng.uniform(0, 20)
            rows.append({"raw": raw, "sufficient": int(rng.random() < raw / 20)})
        return write(path, rows)

    def test_command_fits_a_calibrator_that_the_policy_uses(self, tmp_path: Path) -> None:
        out = tmp_path / "bm25.json"
        result = run("calibrator", "--data", self.pairs(tmp_path / "p.csv"), "--out", out, "--raw", "bm25")
        assert result.exit_code == 0, result.output
        assert "Platt on 300 cases" in result.output
        assert build("retrieval_confidence", {"calibrator": str(out)}).name == "retrieval_confidence"

    def test_method_is_isotonic_from_a_thousand_labels_on(self, tmp_path: Path) -> None:
        result = run("calibrator", "--data", self.pairs(tmp_path / "p.csv", 1_000), "--out", tmp_path / "c.json")
        assert "Isotonic on 1000 cases" in result.output

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            ("score,sufficient\n1,1\n", "the column 'raw' is missing"),
            ("raw,sufficient\nmany,1\n", "line 2: raw is 'many', not a number"),
            ("raw,sufficient\nnan,1\n", "line 2: raw is 'nan', not a number"),
            ("raw,sufficient\n1,yes\n", "line 2: sufficient is 'yes', not 0 or 1"),
            ("raw,sufficient\n1,1\n2,1\n", "both outcomes must occur"),
        ],
    )
    def test_bad_pairs_are_refused_with_the_place(self, tmp_path: Path, content: str, message: str) -> None:
        path = tmp_path / "p.csv"
        path.write_text(content)
        result = run("calibrator", "--data", path, "--out", tmp_path / "c.json")
        assert result.exit_code == 2
        assert message in result.output
