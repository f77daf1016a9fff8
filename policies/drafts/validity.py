"""Whether a student's answer can be an answer at all: what is checked before any score is looked at.

An answer that fails is nearly always a wrong one, whatever the student's logprobs say: it is sure of its empty text and
of the letter that it forgot. A check that cannot tell passes: a schema with keywords that are not known, a text that is
too long, a request that asks for no form. What fails is named out of a closed set, the gravest first.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import NamedTuple

from policies.drafts.asked_form import NO_FORM, TextForm, asked_answer
from policies.drafts.json_schema import UnsupportedSchema, is_valid
from policies.drafts.refusals import declines

EMPTY, TRUNCATED, REFUSED = "empty_answer", "truncated", "refused"
BROKEN_CALL, BROKEN_JSON, OTHER_FORM = "broken_tool_call", "broken_json", "other_form"
CHECKS = (EMPTY, TRUNCATED, REFUSED, BROKEN_CALL, BROKEN_JSON, OTHER_FORM)
"""From the gravest on."""

CALLS = frozenset({"tool_calls", "function_call"})
"""Finish reasons of an answer that is a call: it has no text and is not empty."""
MAX_JSON_CHARS = 200_000
"""A longer answer, or longer arguments, are not parsed."""
MAX_SCHEMA_STEPS = 5_000
"""Some milliseconds: an answer is checked while others wait."""
_SPELLED_CALLS = (
    "<tool_call>",
    "[TOOL_CALLS]",
    "<|python_tag|>",
    "<function=",
    "<\uff5ctool\u2581calls\u2581begin\uff5c>",
)
"""How models write a call. In a text they are one that the server could not read."""
_JSON_STARTS = frozenset('{["-0123456789tfn')


class Call(NamedTuple):
    """A tool call of the answer."""

    name: str
    arguments: str
    """JSON, as the model wrote it."""


class Asked(NamedTuple):
    """What the request demands of its answer's form."""

    form: TextForm = NO_FORM
    """By its text."""
    schema: object | None = None
    """By `response_format`: of the whole text as JSON; `{"type": "object"}` for `json_object`."""
    tools: Mapping[str, object] | None = None
    """The schema of the arguments of each tool; None: it has no tools."""
    call_required: bool = False
    limited: bool = False
    """The client set a limit of its own to the length of the answer."""


class Answer(NamedTuple):
    """What the student answered."""

    text: str | None
    """None: not known, or none beside something else."""
    finish_reason: str | None
    calls: tuple[Call, ...] = ()
    declined: bool = False
    """The backend says so: `message.refusal`."""
    whole: bool = True
    """False: the beginning of a stream, of which only little can be said."""


def failed_checks(asked: Asked, answer: Answer) -> tuple[str, ...]:
    """Names of the checks that the answer does not pass."""
    if not answer.whole:
        return _of_beginning(asked, answer)
    if is_empty(answer.text, answer.finish_reason) and not answer.declined and not answer.calls:
        return (EMPTY, BROKEN_CALL) if asked.call_required else (EMPTY,)
    refused = answer.declined or answer.finish_reason == "content_filter" or declines(answer.text or "")
    found = {
        TRUNCATED: answer.finish_reason == "length" and not asked.limited,
        REFUSED: refused,
        BROKEN_CALL: _has_broken_call(asked, answer),
        BROKEN_JSON: _has_broken_json(asked, answer),
        # A refusal has no form either; one reason is enough.
        OTHER_FORM: not refused and _has_other_form(asked, answer),
    }
    return tuple(name for name in CHECKS if found.get(name))


def is_empty(text: str | None, finish_reason: str | None) -> bool:
    """Whether an answer has no content. Without its text (None) that is not known, and taken for no."""
    return text is not None and not text.strip() and finish_reason not in CALLS


def _of_beginning(asked: Asked, answer: Answer) -> tuple[str, ...]:
    text = (answer.text or "").lstrip()
    failed = (REFUSED,) if answer.declined or declines(text) else ()
    if asked.schema is not None and text and text[0] not in _JSON_STARTS:
        return (*failed, BROKEN_JSON)
    return failed


def _has_broken_call(asked: Asked, answer: Answer) -> bool:
    if asked.tools is None:
        return False
    if not answer.calls:
        spelled = answer.text is not None and any(each in answer.text for each in _SPELLED_CALLS)
        return spelled or (asked.call_required and answer.finish_reason not in CALLS)
    return any(not _is_good(call, asked.tools) for call in answer.calls)


def _is_good(call: Call, tools: Mapping[str, object]) -> bool:
    if call.name not in tools:
        return False
    if len(call.arguments) > MAX_JSON_CHARS:
        return True
    try:
        arguments = json.loads(call.arguments.strip() or "{}")  # a tool without parameters is called with nothing
    except (ValueError, RecursionError):
        return False
    return isinstance(arguments, dict) and _follows(arguments, tools[call.name])


def _has_broken_json(asked: Asked, answer: Answer) -> bool:
    text = answer.text
    if text is None or answer.calls or len(text) > MAX_JSON_CHARS:
        return False
    if asked.schema is not None:
        try:
            value = json.loads(text)
        except (ValueError, RecursionError):
            return True
        return not _follows(value, asked.schema)
    return asked.form.kind == "json" and not _holds_json(text)


def _holds_json(text: str) -> bool:
    """Whether an answer that was asked for JSON in words has an object or a list, be it within a fence or prose."""
    for opening, closing in ("{}", "[]"):
        start, end = text.find(opening), text.rfind(closing)
        if 0 <= start < end:
            try:
                json.loads(text[start : end + 1])
            except (ValueError, RecursionError):
                continue
            return True
    return False


def _has_other_form(asked: Asked, answer: Answer) -> bool:
    """Of a text that is no JSON: there the form is the schema's affair."""
    form = asked.form
    if form.kind in (None, "json") or asked.schema is not None or answer.text is None or answer.calls:
        return False
    return asked_answer(form, answer.text) is None


def _follows(value: object, schema: object) -> bool:
    try:
        return is_valid(value, schema, max_steps=MAX_SCHEMA_STEPS)
    except (UnsupportedSchema, RecursionError):
        return True
