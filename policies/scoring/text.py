"""What a prompt's text says about its difficulty: hashed words, pairs of words, parts of words, and its structure.

The work per prompt is bounded: of a long text only the head and the tail are looked at. Nothing here was fitted:
weights live in artefacts, and an artefact of another SCHEMA is refused. The words in the tables are English; prompts in
other languages are told apart by the hashed terms, which know no language.
"""

from __future__ import annotations

import re
from itertools import pairwise
from math import log1p
from typing import NamedTuple
from zlib import crc32

SCHEMA = 1
"""Version of everything in this file that changes the value of a feature."""

HEAD_CHARS = 1_200
TAIL_CHARS = 800
"""A task is stated at the start or at the end of a long text."""
MAX_WORD_CHARS = 48
"""Longer ones (encoded data, text without blanks) are cut, so that their parts stay few."""
PART_SIZES = (3, 4, 5)
MAX_OPTIONS = 26

_TOKEN = re.compile(r"\d+(?:[.,]\d+)*|[^\W\d_]+|[^\w\s]|_+")
_CAPITAL = re.compile("[A-Z]")
_NON_ASCII = re.compile(r"[^\x00-\x7f]")
_DIGIT = re.compile(r"\d")
_OPTION = re.compile(r"^[ \t]{0,4}\(?([A-Za-z])[).:][ \t]*(.*)$", re.MULTILINE)
_SENTENCE_END = re.compile(r"[.!?](?=\s)")
_LATEX = re.compile(r"\\[a-z]+|\$[^$\n]{1,80}\$|\^\{?\w|_\{")

MATH_SIGNS = "=+*/^<>%|\\√π∑∫≤≥≠÷±∞\u00d7\u2212"
CODE_SIGNS = "{}[]();_`#&"

_WORDS = {
    "negations": "not no never none neither nor except false incorrect without unless cannot isn aren doesn don didn "
    "wasn won wouldn shouldn couldn wrong unlikely",
    "superlatives": "best most least first primary primarily main mainly likely greatest largest smallest highest "
    "lowest only always correct true accurate appropriate",
    "hypotheses": "if suppose assume given let assuming would were consider imagine hypothetical when whether",
    "comparisons": "than more less fewer greater larger smaller compared relative difference between versus twice "
    "double half triple times older younger faster slower longer shorter",
    "arithmetic": "sum total altogether average mean remaining left each every per product divided multiplied increase "
    "decrease increased decreased rate ratio percent percentage fraction combined equally spend spent earn earned cost "
    "costs profit discount interest",
    "fractions": "half third quarter fourth fifth sixth tenth thirds quarters fifths halves dozen twice triple double",
    "times": "second seconds minute minutes hour hours day days week weeks month months year years monday tuesday "
    "wednesday thursday friday saturday sunday morning evening night today tomorrow yesterday am pm age old ago",
    "derivations": "prove derive deduce calculate compute determine solve evaluate find estimate approximately show "
    "simplify explain why justify how",
    "lookups": "who when where define name capital term called known refers defined meaning",
    "pronouns": "i you he she his her him they their we my your who whom himself herself",
    "law": "court plaintiff defendant statute contract liability law legal jury trial constitutional property crime "
    "murder negligence action state",
    "science": "energy force mass velocity cell cells protein acid gas electron atom temperature current voltage field "
    "pressure reaction solution molecule gene dna function theorem group ring matrix vector",
}
_WORD_SETS = {name: frozenset(words.split()) for name, words in _WORDS.items()}
_QUESTION_WORDS = ("which", "what", "how", "why", "who", "when", "where")
_ALL_OF_THEM = ("all of the above", "none of the above", "both", "neither")

STRUCTURE_NAMES = (
    "text_chars",
    "text_tokens",
    "text_distinct_share",
    "text_word_chars",
    "text_long_word_share",
    "text_upper_share",
    "text_non_ascii_share",
    "text_digit_share",
    "text_numbers",
    "text_distinct_numbers",
    "text_largest_number",
    "text_decimals",
    "text_years",
    "text_percents",
    "text_money",
    "text_math_signs",
    "text_code_signs",
    "text_latex",
    "text_questions",
    "text_sentences",
    "text_sentence_tokens",
    "text_lines",
    "text_commas",
    "text_quotes",
    "text_blanks",
    "text_code_block",
    "text_roman_items",
    "text_statements",
    "text_options",
    "text_option_chars",
    "text_option_spread",
    "text_option_numeric_share",
    "text_option_overlap",
    "text_all_of_them",
    "text_stem_chars",
    "text_stem_ends_open",
    *(f"text_{name}" for name in _WORD_SETS),
    *(f"text_asks_{word}" for word in _QUESTION_WORDS),
)
"""Counts and lengths are log(1 + n), shares are in [0, 1], the rest is 0 or 1."""


class TextFeatures(NamedTuple):
    """What models see of one text. Terms are distinct and in the order of their first use, so that sums over them are
    the same in every process."""

    structure: tuple[float, ...]
    """In the order of STRUCTURE_NAMES."""
    words: tuple[str, ...]
    """Words, numbers with every digit as 0, and single signs, in lower case."""
    sequence: list[str]
    """The same as they come, repetitions included."""

    @property
    def pairs(self) -> tuple[str, ...]:
        """Two words in succession, with a blank between."""
        return tuple(dict.fromkeys(map(" ".join, pairwise(self.sequence))))


def extract(text: str) -> TextFeatures:
    """Features of the bounded head and tail of `text`; never raises, whatever the text."""
    chars = len(text)
    if chars > HEAD_CHARS + TAIL_CHARS:
        text = f"{text[:HEAD_CHARS]}\n{text[-TAIL_CHARS:]}"
    lowered = text.lower()
    tokens = _TOKEN.findall(lowered)
    shapes = [_shape(token) if token[0].isdigit() else token[:MAX_WORD_CHARS] for token in tokens]
    words = tuple(dict.fromkeys(shapes))
    return TextFeatures((log1p(chars), *_structure(text, lowered, tokens, words)), words, shapes)


def parts(word: str) -> list[str]:
    """Every run of 3 to 5 characters of a word, its ends marked; none of a sign or a number."""
    if not word[0].isalpha():
        return []
    marked = f"<{word}>"
    return [marked[i : i + size] for size in PART_SIZES for i in range(len(marked) - size + 1)]


def bucket(term: str, block: int, buckets: int) -> int:
    """Slot of a term in the hashed vocabulary of its block; the same in every process (Python's own hash is not)."""
    return crc32(term.encode("utf-8", "replace"), block) % buckets


def _shape(number: str) -> str:
    return _DIGIT.sub("0", number[:12])


def _structure(text: str, lowered: str, tokens: list[str], words: tuple[str, ...]) -> list[float]:
    """All but the first of STRUCTURE_NAMES."""
    lengths = [len(token) for token in tokens if token[0].isalpha()]
    n_tokens, n_chars, n_plain = max(1, len(tokens)), max(1, len(text)), max(1, len(lengths))
    sentences = len(_SENTENCE_END.findall(text)) + 1
    seen = set(words)
    return [
        log1p(len(tokens)),
        len(words) / n_tokens,
        sum(lengths) / n_plain,
        sum([length > 8 for length in lengths]) / n_plain,
        len(_CAPITAL.findall(text)) / n_chars,
        0.0 if text.isascii() else len(_NON_ASCII.findall(text)) / n_chars,
        *_numbers(text, tokens, n_chars),
        log1p(sum(map(text.count, MATH_SIGNS))),
        log1p(sum(map(text.count, CODE_SIGNS))),
        log1p(len(_LATEX.findall(text))),
        log1p(text.count("?")),
        log1p(sentences),
        log1p(len(tokens) / sentences),
        log1p(text.count("\n")),
        log1p(text.count(",")),
        log1p(text.count('"') + text.count("\u201c")),
        log1p(text.count("__")),
        1.0 if "```" in text else 0.0,
        1.0 if " ii" in lowered and " i" in lowered else 0.0,
        log1p(lowered.count("statement")),
        *_options(text, lowered),
        *[log1p(len(table & seen)) for table in _WORD_SETS.values()],
        *[1.0 if word in seen else 0.0 for word in _QUESTION_WORDS],
    ]


def _numbers(text: str, tokens: list[str], n_chars: int) -> tuple[float, ...]:
    """From `text_digit_share` to `text_money`."""
    numbers = [token for token in tokens if token[0].isdigit()]
    values = [_value(number) for number in numbers]
    return (
        sum(map(len, numbers)) / n_chars,
        log1p(len(numbers)),
        log1p(len(set(numbers))),
        log1p(max(values, default=0.0)),
        log1p(sum("." in number for number in numbers)),
        log1p(sum(len(number) == 4 and number[0] in "12" for number in numbers)),
        log1p(text.count("%") + tokens.count("percent")),
        log1p(text.count("$") + text.count("€") + text.count("£")),
    )


def _value(number: str) -> float:
    """A spelled number, 0 where it is none (dates, versions, digits of other scripts)."""
    try:
        return float(number[:15].replace(",", "")) if number.isascii() else 0.0
    except ValueError:
        return 0.0


def _options(text: str, lowered: str) -> tuple[float, ...]:
    """From `text_options` to `text_stem_ends_open`: the choices of a question and what precedes them."""
    found = _OPTION.findall(text)[:MAX_OPTIONS]
    first = _OPTION.search(text) if len(found) > 1 else None
    stem = (text[: first.start()] if first else text).rstrip()
    answers = [answer.strip() for _, answer in found] if first else []
    lengths = [log1p(len(answer)) for answer in answers] or [0.0]
    answer_words = [set(answer.lower().split()) for answer in answers]
    union = set().union(*answer_words)
    spelled = sum(map(len, answer_words))
    return (
        log1p(len(answers)),
        sum(lengths) / len(lengths),
        max(lengths) - min(lengths),
        sum(any(map(str.isdigit, answer)) for answer in answers) / max(1, len(answers)),
        1.0 - len(union) / spelled if spelled else 0.0,
        1.0 if any(phrase in lowered for phrase in _ALL_OF_THEM) else 0.0,
        log1p(len(stem)),
        0.0 if not stem or stem[-1] in "?.!:" else 1.0,
    )
