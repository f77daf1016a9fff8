"""Counts agree with Hugging Face's library for every supported family, and hostile texts stay cheap."""

from __future__ import annotations

import importlib.util
import json
import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from router.tokenizer import MAX_RUN_CHARS, PromptTokenizer, TokenizerUnsupported, bounded_parts, load_tokenizer

FOLDER = Path(__file__).parent / "tokenizers"
COUNTS: dict[str, dict[str, int]] = json.loads((FOLDER / "counts.json").read_text())
TEXTS: dict[str, str] = json.loads((FOLDER / "texts.json").read_text())
FAMILIES = sorted(COUNTS)


@pytest.mark.parametrize("family", FAMILIES)
def test_counts_equal_those_of_the_reference_library(family: str) -> None:
    """counts.json was written by Hugging Face's `tokenizers` (tokenizers/make.py)."""
    tokenizer = load_tokenizer(FOLDER / f"{family}.json")
    assert {name: tokenizer.count(text) for name, text in TEXTS.items()} == COUNTS[family]


@pytest.mark.semantic
@pytest.mark.parametrize("family", FAMILIES)
def test_counts_of_mixed_text_stay_within_two_percent_of_the_live_library(family: str) -> None:
    if importlib.util.find_spec("tokenizers") is None:
        pytest.skip("needs the library tokenizers, which comes with sentence-transformers")
    from tokenizers import Tokenizer

    reference = Tokenizer.from_file(str(FOLDER / f"{family}.json"))
    tokenizer = load_tokenizer(FOLDER / f"{family}.json")
    rng = random.Random(5)
    exact = 0
    for _ in range(300):
        text = rng.choice(["", " ", "\n", "  "]).join(rng.choices(list(TEXTS.values()), k=rng.randint(1, 6)))
        wanted = len(reference.encode(text).ids)
        counted = tokenizer.count(text)
        exact += counted == wanted
        assert abs(counted - wanted) <= 0.02 * wanted
    assert exact >= 270


def test_folder_and_file_load_the_same(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_bytes((FOLDER / "qwen2.json").read_bytes())
    assert load_tokenizer(tmp_path).count("a b 12") == load_tokenizer(FOLDER / "qwen2.json").count("a b 12")


def test_special_token_spelled_out_by_a_user_is_ordinary_text() -> None:
    assert load_tokenizer(FOLDER / "gpt2.json").count("<|endoftext|><|im_start|>") > 2


def test_lone_surrogate_is_counted_and_does_not_raise() -> None:
    assert load_tokenizer(FOLDER / "qwen2.json").count("a\ud800b") > 0


class TestRefusals:
    def changed(self, tmp_path: Path, **changes: Any) -> Path:
        spec = json.loads((FOLDER / "gpt2.json").read_text())
        model = changes.pop("model", {})
        spec.update(changes)
        spec["model"].update(model)
        path = tmp_path / "tokenizer.json"
        path.write_text(json.dumps(spec))
        return path

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"model": {"type": "Unigram"}}, "the model is 'Unigram', not BPE"),
            ({"model": {"byte_fallback": True}}, "'byte_fallback'"),
            ({"model": {"end_of_word_suffix": "</w>"}}, "'end_of_word_suffix'"),
            ({"model": {"dropout": 0.1}}, "'dropout'"),
            ({"model": {"merges": ["▁ a"]}}, "not byte-level"),
            ({"pre_tokenizer": {"type": "Metaspace"}}, r"\['Metaspace'\] do not end in ByteLevel"),
            ({"pre_tokenizer": None}, "do not end in ByteLevel"),
            ({"pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": True}}, "add_prefix_space"),
            ({"normalizer": {"type": "Lowercase"}}, "the normalizer 'Lowercase'"),
        ],
    )
    def test_what_cannot_be_counted_exactly_is_refused_by_name(
        self, tmp_path: Path, changes: dict[str, Any], message: str
    ) -> None:
        with pytest.raises(TokenizerUnsupported, match=message + ".*prompt lengths stay estimates"):
            load_tokenizer(self.changed(tmp_path, **changes))

    def test_several_splits_are_refused(self, tmp_path: Path) -> None:
        split = {"type": "Split", "pattern": {"Regex": r"\d"}, "behavior": "Isolated", "invert": False}
        byte_level = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False}
        steps = {"type": "Sequence", "pretokenizers": [split, split, byte_level]}
        with pytest.raises(TokenizerUnsupported, match="combination of pre-tokenizers"):
            load_tokenizer(self.changed(tmp_path, pre_tokenizer=steps))

    @pytest.mark.parametrize("content", [b"", b"{", b"[]", b"{}", b'{"model": 3}', b'{"model": {"type": "BPE"}}'])
    def test_damaged_file_is_refused(self, tmp_path: Path, content: bytes) -> None:
        path = tmp_path / "tokenizer.json"
        path.write_bytes(content)
        with pytest.raises(TokenizerUnsupported, match=r"not a tokenizer\.json|do not end in ByteLevel"):
            load_tokenizer(path)

    def test_missing_file_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(TokenizerUnsupported, match="cannot be read: No such file"):
            load_tokenizer(tmp_path)


def longest_run(text: str) -> int:
    """Characters between two changes from blank to non-blank."""
    longest = current = 0
    blank = None
    for character in text:
        current = current + 1 if character.isspace() == blank else 1
        blank = character.isspace()
        longest = max(longest, current)
    return longest


runs = st.builds(lambda unit, times: unit * times, st.text(min_size=1, max_size=4), st.integers(1, 700))


@settings(deadline=None)
@given(st.lists(runs, max_size=6).map("".join))
def test_parts_hold_the_whole_text_and_no_long_run(text: str) -> None:
    parts = list(bounded_parts(text))
    assert "".join(parts) == text
    assert all(longest_run(part) <= MAX_RUN_CHARS for part in parts)


class CountingEncoding:
    """Stands in for tiktoken's encoder: records the quadratic work that each part may cause."""

    n_vocab = 256

    def __init__(self) -> None:
        self.work = 0

    def encode_ordinary(self, text: str) -> list[int]:
        self.work += sum(len(run) ** 2 for run in text.split()) + len(text)
        return [0] * len(text)


@pytest.mark.parametrize("unit", ["a", " ", "\n", "1", "!", "今", "é", "ab!", "a" * 255 + " "])
def test_work_grows_linearly_when_a_text_has_no_separators(unit: str) -> None:
    work = []
    for size in (2**16, 2**20):
        encoding = CountingEncoding()
        PromptTokenizer(encoding).count(unit * (size // len(unit)))  # type: ignore[arg-type]
        work.append(encoding.work)
    assert work[1] <= 17 * work[0]
    assert work[1] <= 2**20 * (MAX_RUN_CHARS + 1)


@pytest.mark.parametrize("character", ["a", " ", "1", "今"])
def test_long_run_costs_at_most_one_token_a_cut(character: str) -> None:
    tokenizer = load_tokenizer(FOLDER / "qwen2.json")
    short, long = tokenizer.count(character * MAX_RUN_CHARS), tokenizer.count(character * MAX_RUN_CHARS * 40)
    assert short * 40 - 40 <= long <= short * 40 + 40
