"""The student's own vocabulary, counted with tiktoken: exact prompt lengths without a model hub or a download.

tiktoken only ships OpenAI's vocabularies, and fetches those at first use. A student brings its own byte-level BPE in
`tokenizer.json`, and tiktoken's encoder is the fastest one there is for those: so the merges of that file become a
`tiktoken.Encoding`. What the encoder cannot represent is refused by name, and the length estimate stands.

The ids differ from the student's, the pieces do not: this counts, it does not encode.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import msgspec
import tiktoken

GPT2_PATTERN = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
"""The regex of a `ByteLevel` pre-tokenizer with `use_regex`."""
SINGLE_DIGITS_PATTERN = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+|\s+(?=\p{N})|\s+(?!\S)|\s+"
"""`Digits(individual_digits)` before it: each digit is cut out first, so blanks before a digit end a segment."""
DIGIT_RUNS_PATTERN = SINGLE_DIGITS_PATTERN.replace(r"|\p{N}|", r"|\p{N}+|")
CATCH_ALL = r"|[\s\S]"
"""tiktoken drops what its pattern does not match; Hugging Face's splitter keeps it."""

MAX_RUN_CHARS = 256
"""Longest run without a boundary that reaches the encoder: its merge loop is quadratic in the length of a run and
its regex engine recurses on it. A longer run is cut, at the cost of at most one token a cut."""
_LONG_RUN = re.compile(rf"(?<!\S)\S{{{MAX_RUN_CHARS + 1},}}|(?<!\s)\s{{{MAX_RUN_CHARS + 1},}}")
_LOOK_BACK_CHARS = 64


class TokenizerUnsupported(ValueError):
    """The tokenizer file cannot be counted with; the message says which part of it and what happens instead."""


class PromptTokenizer:
    """Counts tokens as the student's vocabulary does. Thread-safe; the encoder runs without the interpreter lock."""

    def __init__(self, encoding: tiktoken.Encoding, normal_form: Literal["NFC", "NFKC"] | None = None) -> None:
        self._encoding = encoding
        self._normal_form = normal_form

    @property
    def vocabulary_tokens(self) -> int:
        """Entries of the vocabulary, special tokens left out."""
        return self._encoding.n_vocab

    def count(self, text: str) -> int:
        """Tokens of `text` as ordinary text: the spelling of a special token counts by its characters."""
        if self._normal_form is not None:
            text = unicodedata.normalize(self._normal_form, text)
        return sum(len(self._encoding.encode_ordinary(part)) for part in bounded_parts(text))


def load_tokenizer(path: Path) -> PromptTokenizer:
    """Read the student's `tokenizer.json`, or that file in the folder `path`.

    Raises:
        TokenizerUnsupported: there is no such file, it is damaged, or it is not byte-level BPE of a known form.
    """
    file = path / "tokenizer.json" if path.is_dir() else path
    try:
        spec = msgspec.json.decode(file.read_bytes())
    except OSError as exc:
        raise TokenizerUnsupported(f"{file}: cannot be read: {exc.strerror}") from exc
    except msgspec.DecodeError as exc:
        raise TokenizerUnsupported(f"{file}: not a tokenizer.json: {exc}") from exc
    try:
        return _build(spec, name=str(file))
    except TokenizerUnsupported as exc:
        raise TokenizerUnsupported(f"{file}: {exc}; prompt lengths stay estimates") from exc
    except (KeyError, TypeError, AttributeError, ValueError) as exc:
        raise TokenizerUnsupported(f"{file}: not a tokenizer.json of a known layout ({exc!r})") from exc


def bounded_parts(text: str) -> Iterator[str]:
    """`text` in parts without a run of more than `MAX_RUN_CHARS` characters; linear in the length of the text.

    Ordinary text is one part. Long runs are cut where a letter is followed by punctuation if that is near, since
    no pattern joins the two, else hard.
    """
    start = 0
    for run in _LONG_RUN.finditer(text):
        cut = run.start()
        while run.end() - cut > MAX_RUN_CHARS:
            cut = _cut_before(text, cut + MAX_RUN_CHARS)
            yield text[start:cut]
            start = cut
    if start < len(text):
        yield text[start:]


def _cut_before(text: str, limit: int) -> int:
    for position in range(limit, limit - _LOOK_BACK_CHARS, -1):
        if text[position - 1].isalpha() and unicodedata.category(text[position])[0] in "PS":
            return position
    return limit


def _build(spec: Any, name: str) -> PromptTokenizer:
    model = spec["model"]
    if model.get("type") != "BPE":
        raise TokenizerUnsupported(f"the model is {model.get('type')!r}, not BPE")
    for option in ("byte_fallback", "continuing_subword_prefix", "end_of_word_suffix", "dropout"):
        if model.get(option):
            raise TokenizerUnsupported(f"the option {option!r} of its BPE model is not supported")
    encoding = tiktoken.Encoding(
        name,
        pat_str=_pattern(spec.get("pre_tokenizer")) + CATCH_ALL,
        mergeable_ranks=_ranks(model["merges"]),
        special_tokens={},
    )
    return PromptTokenizer(encoding, _normal_form(spec.get("normalizer")))


def _normal_form(normalizer: Any) -> Literal["NFC", "NFKC"] | None:
    kind = None if normalizer is None else normalizer["type"]
    if kind is None or (kind == "Sequence" and not normalizer["normalizers"]):
        return None
    if kind == "NFC":
        return "NFC"
    if kind == "NFKC":
        return "NFKC"
    raise TokenizerUnsupported(f"the normalizer {kind!r} is not supported")


def _pattern(pre_tokenizer: Any) -> str:
    """The one regex that splits as the pre-tokenizers of the file do."""
    steps = _steps(pre_tokenizer)
    kinds = [step["type"] for step in steps]
    if not kinds or kinds[-1] != "ByteLevel":
        raise TokenizerUnsupported(f"the pre-tokenizers {kinds} do not end in ByteLevel")
    byte_level = steps[-1]
    if byte_level.get("add_prefix_space", True):
        raise TokenizerUnsupported("a ByteLevel pre-tokenizer with add_prefix_space is not supported")
    own_regex = byte_level.get("use_regex", True)
    if kinds == ["ByteLevel"] and own_regex:
        return GPT2_PATTERN
    if kinds == ["Digits", "ByteLevel"] and own_regex:
        return SINGLE_DIGITS_PATTERN if steps[0]["individual_digits"] else DIGIT_RUNS_PATTERN
    if kinds == ["Split", "ByteLevel"] and not own_regex:
        split = steps[0]
        regex = split["pattern"].get("Regex")
        if regex and split["behavior"] == "Isolated" and not split.get("invert"):
            return str(regex)
    raise TokenizerUnsupported(f"this combination of pre-tokenizers {kinds} is not supported")


def _steps(pre_tokenizer: Any) -> list[Any]:
    if pre_tokenizer is None:
        return []
    if pre_tokenizer["type"] == "Sequence":
        return list(pre_tokenizer["pretokenizers"])
    return [pre_tokenizer]


def _ranks(merges: list[Any]) -> dict[bytes, int]:
    """Bytes of each token and its priority: the 256 bytes first, then the merges in their order."""
    byte_of = _byte_alphabet()
    ranks = {bytes([value]): value for value in range(256)}
    for merge in merges:
        left, right = merge.split(" ") if isinstance(merge, str) else merge
        try:
            token = bytes(byte_of[character] for character in left + right)
        except KeyError as exc:
            raise TokenizerUnsupported(f"its merges are not byte-level: {left + right!r}") from exc
        ranks.setdefault(token, len(ranks))
    return ranks


def _byte_alphabet() -> dict[str, int]:
    """The printable character that stands for each byte in a byte-level vocabulary. Source: GPT-2's encoder.py."""
    printable = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAC + 1), *range(0xAE, 0xFF + 1)]
    alphabet = {chr(value): value for value in printable}
    hidden = (value for value in range(256) if value not in set(printable))
    alphabet.update({chr(256 + offset): value for offset, value in enumerate(hidden)})
    return alphabet
