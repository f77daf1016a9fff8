"""Whether an answer is right, by rules that a reader can apply by eye. No model judges."""

from __future__ import annotations

import re
from collections.abc import Sequence

from serving.demo.questions import Check, Question

RULES: dict[Check, str] = {
    "identifier": "the expected name occurs as a whole word, and no other retrieved name stands before it",
    "word": "the expected word or number occurs as a whole word (upper and lower case are the same)",
    "number": "the last number of the answer is the expected one",
}
_NUMBER = re.compile(r"-?\d+(?:,\d{3})*(?:\.\d+)?")


def check_answer(question: Question, answer: str, shown_names: Sequence[str] = ()) -> bool | None:
    """Right, wrong, or None when the question has no answer to check against.

    Args:
        shown_names: dotted names of the chunks in the prompt; naming another one first is wrong.
    """
    if question.check is None:
        return None
    if question.check == "number":
        return _last_number(answer) == float(question.expected[0])
    flags = re.NOFLAG if question.check == "identifier" else re.IGNORECASE
    found = [position for word in question.expected if (position := _position(word, answer, flags)) is not None]
    if not found:
        return False
    if question.check == "word":
        return True
    others = {name for name in shown_names if name.rpartition(".")[2] not in question.expected}
    return all((position := _named(name, answer)) is None or position > min(found) for name in others)


def _position(word: str, answer: str, flags: re.RegexFlag) -> int | None:
    found = re.search(rf"(?<!\w){re.escape(word)}(?!\w)", answer, flags)
    return found.start() if found else None


def _named(name: str, answer: str) -> int | None:
    """Where another name stands as code: dotted, called, or in backticks. A bare `copy` may be an English word."""
    last = re.escape(name.rpartition(".")[2])
    as_code = rf"(?<![\w.]){re.escape(name)}(?![\w])" if "." in name else r"(?!)"
    found = re.search(rf"{as_code}|(?<!\w){last}(?=\()|`{last}`", answer)
    return found.start() if found else None


def _last_number(answer: str) -> float | None:
    numbers = _NUMBER.findall(answer)
    return float(numbers[-1].replace(",", "")) if numbers else None
