"""Features of a text: bounded, the same everywhere, and what their names say."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.scoring.text import HEAD_CHARS, MAX_WORD_CHARS, STRUCTURE_NAMES, TAIL_CHARS, bucket, extract, parts

GOLDEN = Path(__file__).with_name("golden.json")
CHOICE = """Which of the following is NOT a prime number, if 2 < n <= 31?
A. 7
B. 29
C. 27
D. None of the above
Answer:"""


def named(text: str) -> dict[str, float]:
    return dict(zip(STRUCTURE_NAMES, extract(text).structure, strict=True))


def test_features_are_those_of_the_golden_file() -> None:
    """Weights were fitted on these very values: a change needs a new SCHEMA, and a new golden file."""
    golden = json.loads(GOLDEN.read_text())
    assert list(STRUCTURE_NAMES) == golden["names"]
    for each in golden["texts"]:
        found = extract(each["text"])
        assert list(found.structure) == pytest.approx(each["structure"], rel=1e-12)
        assert list(found.words) == each["words"]
        assert list(found.pairs) == each["pairs"]
        assert [bucket(word, 0, 2**18) for word in found.words] == each["buckets"]
        assert [part for word in found.words for part in parts(word)][:40] == each["parts"]


def test_structure_counts_what_its_names_say() -> None:
    seen = named(CHOICE)
    assert seen["text_options"] == pytest.approx(1.6094, abs=1e-4)  # log(1 + 4)
    assert seen["text_negations"] > 0
    assert seen["text_all_of_them"] == 1.0
    assert seen["text_asks_which"] == 1.0
    assert seen["text_asks_how"] == 0.0
    assert seen["text_option_numeric_share"] == 0.75
    assert seen["text_largest_number"] == pytest.approx(3.4657, abs=1e-4)  # log(1 + 31)
    assert seen["text_stem_ends_open"] == 0.0


def test_question_without_choices_has_none() -> None:
    seen = named("Who wrote this?")
    assert seen["text_options"] == seen["text_option_chars"] == seen["text_option_spread"] == 0.0
    assert seen["text_stem_chars"] == pytest.approx(seen["text_chars"])


def test_only_head_and_tail_of_a_long_text_are_looked_at() -> None:
    head, tail = "a " * (HEAD_CHARS // 2), " z" * (TAIL_CHARS // 2)
    found = extract(head + "middle " * 10_000 + tail)
    assert set(found.words) == {"a", "z"}
    assert len(extract("x" * 100_000).words[0]) == MAX_WORD_CHARS


@given(st.text(max_size=400) | st.text(alphabet="0123456789.,²½٣١ ", max_size=60))
def test_every_text_has_finite_features(text: str) -> None:
    found = extract(text)
    assert len(found.structure) == len(STRUCTURE_NAMES)
    assert all(abs(value) < 1e6 for value in found.structure)
    for word in found.words:
        assert 0 <= bucket(word, 0, 1024) < 1024
        assert all(3 <= len(part) <= 5 for part in parts(word))


@pytest.mark.parametrize("text", ["$" * 3_000, "\\a" * 1_500, "(" * 3_000, "A. " * 1_000, "1," * 1_500, "_" * 3_000])
def test_hostile_text_takes_no_longer_than_a_plain_one(text: str) -> None:
    plain = "The quick brown fox jumps over the lazy dog. " * 67

    def cost_s(what: str) -> float:
        start = time.process_time()
        for _ in range(20):
            extract(what)
        return time.process_time() - start

    extract(plain)
    assert min(cost_s(text) for _ in range(3)) < 10 * min(cost_s(plain) for _ in range(3))


def test_hashes_are_the_same_in_every_process() -> None:
    code = "from policies.scoring.text import bucket; print(bucket('teacher', 1, 2**18))"
    found = {
        subprocess.run(
            [sys.executable, "-c", code], env={"PYTHONHASHSEED": seed}, capture_output=True, text=True, check=True,
            cwd=Path(__file__).parents[3],
        ).stdout
        for seed in ("1", "2")
    }  # fmt: skip
    assert found == {f"{bucket('teacher', 1, 2**18)}\n"}
