"""The form in which a prompt asks for its answer, where it says so, and the answer in that form.

An answer that does not have the form is nearly always a wrong one, and two answers are compared by what they say in it.
Only what a prompt asks for in plain words counts: a form that is read into a prompt would reject good answers. The
words are English; other prompts have no form here. Everything is bounded: patterns run on the head and the tail of a
prompt, and none of them can take more than linear time.
"""

from __future__ import annotations

import re
import string
from typing import Literal, NamedTuple

from policies.grading import last_number, normal

MAX_CHARS = 4_000
"""Of each end of a prompt; of an answer, twice as much."""
MAX_LABELS = 200
MAX_LABEL_CHARS = 60

Kind = Literal["choice", "number", "label", "json"]


class TextForm(NamedTuple):
    """What a prompt asks for. `kind` None: nothing that could be checked."""

    kind: Kind | None = None
    options: tuple[tuple[str, str], ...] = ()
    """`choice`: each letter with the normalised text behind it."""
    labels: tuple[str, ...] = ()
    """`label`: normalised."""


NO_FORM = TextForm()

_OPTION = re.compile(r"[ \t]{0,8}\(?([A-Z])[).:][ \t]+(\S.{0,400})")
# What follows is searched for in lower case, and only where one of its words stands in the prompt at all.
_LETTER = re.compile(
    r"\banswer is:? ?[\"'*<(\[{]{0,3}(?:x|letter|option)\b"
    r"|\b(?:answer|respond|reply|output|return|give|choose|select|pick|write|state)\b[^.\n]{0,60}\bletter\b"
    r"|\b(?:only|just) the letter\b|\bletter (?:of the|choice|corresponding)"
)
_ANSWER_LINE = re.compile(r"\banswer:?\s*\(?\Z")
_NUMBER = re.compile(
    r"\b(?:answer|respond|reply)\b[^.\n]{0,50}\b(?:only|just|single|final|as)\b[^.\n]{0,20}"
    r"\b(?:number|integer|numerical (?:answer|value)|numeric (?:answer|value))\b"
    r"|\b(?:output|return|give|write|provide)\b[^.\n]{0,30}\b(?:only|just) (?:a|the|one) (?:single |final )?"
    r"(?:number|integer)\b"
)
_YES_NO = re.compile(r"\b(?:answer|respond|reply)\b[^.\n]{0,40}[\"'(]?\byes\b[\"']? ?(?:or|/) ?[\"']?\bno\b")
_LABELS = re.compile(
    r"(?:\b(?:answer|respond|reply|classif\w+|label|categor\w+|output|return|intent)\b[^.\n]{0,80}"
    r"\b(?:one of|(?:choose|select|pick|one) from)(?: the| these)?(?: following)?(?: [a-z]+){0,3}"
    r"|\b(?:possible|allowed|valid|candidate) (?:labels|categories|classes|answers|values|intents)(?: are)?)"
    r" ?: ?\n?([^\n].{0,8000}?)(?=\n[ \t]*\n|\Z|\.(?:\s|\Z))",
    re.DOTALL,
)
_LABEL_CUES = ("one of", " from", "possible ", "allowed ", "valid ", "candidate ")
_JSON = re.compile(
    r"\b(?:respond|answer|reply)\b[^.\n]{0,40}\bjson\b"
    r"|\b(?:output|return|produce)\b (?:only|just|strictly)[^.\n]{0,20}\bjson\b"
    r"|\bonly (?:an? |the |one )?(?:valid |single )?json\b"
)
_SEPARATOR = re.compile(r"[,;|\n]|\bor\b")
_BULLET = re.compile(r"^(?:[-*\u2022]|\d{1,3}[.)])")
_AROUND = string.whitespace + "\"'`[]{}()."
_NUMBER_WORDS = re.compile(
    r"\b(?:zero|one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|twenty|thirty|forty|fifty|hundred|none)\b",
    re.IGNORECASE,
)
# Possessive: students that degenerate write thousands of spaces, which would be tried in quadratic time.
_STATED = re.compile(
    r"(?:\b(?:answer|option|choice)\b(?:\s++(?:is|would\s++be))?\s*+:?|\\boxed)\s*+[*\"'`({\[\\$]{0,4}"
    r"(?:text\{|option\s+)?\(?([A-Z])\b(?!['\u2019]?[a-z])"
)
_ALONE = re.compile(r"(?<![A-Za-z0-9'\u2019])([A-Z])(?![A-Za-z0-9'\u2019])(?! [a-z])")
_ARTICLES = frozenset("AI")


def form_of(prompt: str) -> TextForm:
    """What a prompt asks for. Of a long one its head and its tail count."""
    if len(prompt) > 2 * MAX_CHARS:
        prompt = f"{prompt[:MAX_CHARS]}\n\n{prompt[-MAX_CHARS:]}"
    lower = prompt.lower()
    options = _options_of(prompt)
    if options and (_found(_LETTER, lower, ("letter", "answer is")) or _ANSWER_LINE.search(lower[-40:].rstrip())):
        return TextForm("choice", options=options)
    if _found(_JSON, lower, ("json",)):
        return TextForm("json")
    labels = _labels_of(lower)
    if labels:
        return TextForm("label", labels=labels)
    return TextForm("number") if not options and _found(_NUMBER, lower, ("number", "integer", "numeric")) else NO_FORM


def asked_answer(form: TextForm, text: str) -> str | None:
    """The answer in the form that was asked for, comparable; None: there is none, or no form was asked for.

    For `json` the text itself: whether it is JSON is judged elsewhere (policies/drafts/validity.py).
    """
    if len(text) > 2 * MAX_CHARS:
        text = f"{text[:MAX_CHARS]}\n{text[-MAX_CHARS:]}"
    match form.kind:
        case "choice":
            return _choice(form, text)
        case "number":
            return _number(text)
        case "label":
            return _label(form, text)
        case "json":
            return text.strip() or None
        case _:
            return None


def _options_of(prompt: str) -> tuple[tuple[str, str], ...]:
    """The last list of options that begins with A: before it may stand worked examples."""
    found: list[tuple[str, str]] = []
    for match in map(_OPTION.match, prompt.split("\n")):
        if match is None:
            continue
        letter = match[1]
        if letter == "A":
            found = []
        elif not found or ord(letter) != ord(found[-1][0]) + 1:
            continue
        found.append((letter, normal(match[2])[:MAX_CHARS]))
    return tuple(found) if len(found) > 1 else ()


def _labels_of(lower: str) -> tuple[str, ...]:
    match = _found(_LABELS, lower, _LABEL_CUES) if ":" in lower else None
    if match is not None:
        parts = [_BULLET.sub("", each.strip()).strip(_AROUND) for each in _SEPARATOR.split(match[1])]
        labels = tuple(dict.fromkeys(_same_signs(each) for each in parts if each))
        if 2 <= len(labels) <= MAX_LABELS and all(0 < len(each) <= MAX_LABEL_CHARS for each in labels):
            return labels
    return ("yes", "no") if _found(_YES_NO, lower, ("yes",)) else ()


def _found(pattern: re.Pattern[str], lower: str, cues: tuple[str, ...]) -> re.Match[str] | None:
    """The first match in a text that has one of the cues; most prompts have none, and a pattern costs much more."""
    return pattern.search(lower) if any(cue in lower for cue in cues) else None


def _choice(form: TextForm, text: str) -> str | None:
    letters = {letter for letter, _ in form.options}
    stated: list[str] = [letter for letter in _STATED.findall(text) if letter in letters]
    if stated:
        return stated[-1]
    bare = text.strip(" \t\r\n.()[]*\"'`:")
    if bare.upper() in letters:
        return bare.upper()
    alone: list[str] = [letter for letter in _ALONE.findall(text) if letter in letters]
    certain = [letter for letter in alone if letter not in _ARTICLES]
    if certain or alone:
        return (certain or alone)[-1]
    exact = [letter for letter, wording in form.options if wording and wording == normal(text)]
    if len(exact) == 1:
        return exact[0]
    plain = f" {_same_signs(text)} "
    meant = [letter for letter, wording in form.options if (words := _same_signs(wording)) and f" {words} " in plain]
    return meant[0] if len(meant) == 1 else None


def _number(text: str) -> str | None:
    number = last_number(text)
    if number is not None:
        return repr(number)
    words = _NUMBER_WORDS.findall(text)
    return str(words[-1]).casefold() if words else None


def _label(form: TextForm, text: str) -> str | None:
    """The label that the answer is, else the longest one in it."""
    plain = f" {_same_signs(text)} "
    if plain.strip() in form.labels:
        return plain.strip()
    found = [label for label in form.labels if f" {label} " in plain]
    return max(found, key=len) if found else None


def _same_signs(text: str) -> str:
    """Words alone: `Card_Lost.` and `card lost` are one label."""
    return " ".join(re.findall(r"[^\W_]+", normal(text)))
