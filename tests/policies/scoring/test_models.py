"""Sums of weights, and trees: what they give, and what is refused."""

from __future__ import annotations

import math
from typing import Any

import msgspec
import pytest

from policies.calibration import sigmoid
from policies.scoring.models import Lexical, Linear, LinearScorer, Numbers, Trees, TreesScorer, scorer
from policies.scoring.text import extract, parts
from tests.policies.scoring.building import BUCKETS, dense, lexical, stump

NAN = math.nan


def test_dense_weights_are_clipped_to_what_training_has_seen() -> None:
    model = LinearScorer(Linear(intercept=1.0, dense={"length": dense(2.0, low=0.0, high=5.0, missing=-3.0)}))
    assert model.score({"length": 2.0}, None, None) == 5.0
    assert model.score({"length": 1e9}, None, None) == 11.0
    assert model.score({"length": -1e9}, None, None) == 1.0
    assert model.score({"length": NAN}, None, None) == -2.0


def test_block_of_terms_has_unit_length() -> None:
    model = LinearScorer(Linear(intercept=0.0, lexical=lexical({"words": {"hard": 3.0}})))
    assert model.score({}, extract("hard"), None) == 3.0
    assert model.score({}, extract("hard or not hard"), None) == pytest.approx(3.0 / math.sqrt(3))
    assert model.score({}, extract("easy"), None) == 0.0
    assert model.score({}, extract(""), None) == 0.0
    assert model.score({}, None, None) == 0.0


def test_blocks_add_up() -> None:
    only_pairs = LinearScorer(Linear(intercept=0.0, lexical=lexical({"pairs": {"very hard": 2.0}})))
    assert only_pairs.score({}, extract("very hard"), None) == 2.0
    part = parts("hard")[0]
    both = LinearScorer(Linear(intercept=0.0, lexical=lexical({"words": {"hard": 3.0}, "parts": {part: 1.0}})))
    assert both.score({}, extract("hard"), None) == pytest.approx(3.0 + 1.0 / math.sqrt(len(parts("hard"))))
    assert both.score({}, extract("hard"), None) == both.score({}, extract("hard"), None)  # the memo says the same


def test_embedding_is_a_dot_product_and_squash_makes_a_probability() -> None:
    model = LinearScorer(Linear(intercept=1.0, embedding=Numbers.of([0.5, -1.0], "f"), squash=True))
    assert model.embedding_size == 2
    assert model.score({}, None, (2.0, 1.0)) == sigmoid(1.0)
    assert model.score({}, None, None) == sigmoid(1.0)


def test_tree_sends_inputs_left_up_to_the_threshold_as_32_bit_floats() -> None:
    model = TreesScorer(stump("length", 0.1, below=-1.0, above=1.0))
    assert model.score({"length": 0.1}, None, None) == 1.0  # as a 32-bit float 0.1 is above 0.1
    assert model.score({"length": 0.0999}, None, None) == -1.0


@pytest.mark.parametrize(("missing_left", "expected"), [(True, -1.0), (False, 1.0)])
def test_missing_input_goes_where_the_node_says(missing_left: bool, expected: float) -> None:
    model = TreesScorer(stump("length", 0.1, below=-1.0, above=1.0, missing_left=missing_left))
    assert model.score({"length": NAN}, None, None) == expected


@pytest.mark.parametrize(
    "change",
    [
        {"left": Numbers.of([0, -1, -1], "i")},  # a circle
        {"right": Numbers.of([3, -1, -1], "i")},
        {"roots": Numbers.of([3], "i")},
        {"feature": Numbers.of([1, 0, 0], "i")},
        {"feature": Numbers.of([0.0, 0.0, 0.0], "f")},
        {"value": Numbers.of([0.0, 1.0], "d")},
        {"base": NAN},
    ],
)
def test_trees_that_do_not_fit_together_are_refused(change: dict[str, Any]) -> None:
    good = stump("length", 0.1, below=-1.0, above=1.0)
    with pytest.raises(ValueError, match=r"node|root|integers"):
        TreesScorer(Trees(**{**msgspec.structs.asdict(good), **change}))


def test_lexical_weights_of_another_size_are_refused() -> None:
    good = lexical({"words": {}})
    with pytest.raises(ValueError, match="numbers for 512 buckets"):
        scorer(Linear(intercept=0.0, lexical=msgspec.structs.replace(good, buckets=512)))
    with pytest.raises(ValueError, match="buckets: between"):
        scorer(Linear(intercept=0.0, lexical=msgspec.structs.replace(good, buckets=0)))
    with pytest.raises(ValueError, match="the block words has no numbers"):
        scorer(Linear(intercept=0.0, lexical=Lexical(buckets=BUCKETS, blocks=("words",), weights={}, squares={})))


@pytest.mark.parametrize("data", ["no base64!", "AAA=", ""])
def test_damaged_arrays_are_refused_or_empty(data: str) -> None:
    numbers = Numbers("d", data)
    if data:
        with pytest.raises(ValueError, match=r"base64|multiple"):
            numbers.values()
    else:
        assert len(numbers.values()) == 0


def test_numbers_that_are_not_finite_are_refused() -> None:
    with pytest.raises(ValueError, match="not finite"):
        Numbers.of([1.0, NAN], "f").values()
    with pytest.raises(ValueError, match="finite"):
        dense(NAN)
