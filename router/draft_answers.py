"""What a chat request asks for and what the student answered, as policies/drafts/validity.py checks it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from policies.base import RequestFeatures
from policies.drafts.asked_form import MAX_CHARS, form_of
from policies.drafts.validity import Answer, Asked, Call
from policies.record import Draft
from router.answers import Meaning
from router.chat import ChatRequest
from router.sse import frames_of, payload

MAX_TOOLS = 1024
INSTRUCTING = ("system", "developer")
_decode = msgspec.json.Decoder().decode


def asked_of(request: ChatRequest, features: RequestFeatures) -> Asked:
    """What a request demands of the answer's form. The last user turn and the instructions before it count."""
    values = request.body.values
    instructions = "\n".join(_instructions(values["messages"]))[-MAX_CHARS:]
    return Asked(
        form=form_of(f"{instructions}\n\n{features.last_user_turn[-MAX_CHARS:]}"),
        schema=wanted_schema(values),
        tools=_tools(values),
        call_required=_requires_call(values.get("tool_choice")),
        limited=any(values.get(key) is not None for key in ("max_tokens", "max_completion_tokens")),
    )


def wanted_schema(request: Mapping[str, Any]) -> object | None:
    """What a request's `response_format` demands; None: nothing."""
    wanted = request.get("response_format")
    if not isinstance(wanted, dict):
        return None
    if wanted.get("type") == "json_object":
        return {"type": "object"}
    details = wanted.get("json_schema")
    return details.get("schema") if wanted.get("type") == "json_schema" and isinstance(details, dict) else None


def answer_of(meaning: Meaning) -> Answer:
    """A plain answer."""
    message = meaning.message
    return Answer(
        text=meaning.text,
        finish_reason=meaning.finish_reason,
        calls=tuple(_calls(message.tool_calls, message.function_call)) if message is not None else (),
        declined=bool(message is not None and message.refusal),
    )


def answer_of_stream(draft: Draft, frames: bytes, *, other_than_text: bool) -> Answer:
    """What there is of a stream.

    Args:
        frames: all of it, whole ones.
        other_than_text: it holds such: only then is it worth a second look.
    """
    answer = Answer(draft.text, draft.finish_reason, whole=not draft.prefix)
    if not other_than_text:
        return answer
    pieces: dict[int, dict[str, str]] = {}
    declined = False
    for delta in _deltas(frames):
        declined = declined or bool(delta.get("refusal"))
        for piece in _pieces(delta):
            call = pieces.setdefault(piece[0], {"name": "", "arguments": ""})
            call["name"] += piece[1]
            call["arguments"] += piece[2]
    calls = tuple(Call(each["name"], each["arguments"]) for _, each in sorted(pieces.items()))
    return answer._replace(calls=calls, declined=declined)


def _instructions(messages: list[Any]) -> Iterator[str]:
    for message in messages:
        if message["role"] not in INSTRUCTING:
            continue
        content = message.get("content")
        if isinstance(content, str):
            yield content
        else:
            yield from (text for part in content or () if isinstance(text := part.get("text"), str))


def _requires_call(choice: object) -> bool:
    """A tool that is named has to be called; of a list of allowed ones `mode` says whether one of them has."""
    if isinstance(choice, dict) and choice.get("type") == "allowed_tools":
        allowed = choice.get("allowed_tools")
        return isinstance(allowed, dict) and allowed.get("mode") == "required"
    return choice == "required" or isinstance(choice, dict)


def _tools(values: Mapping[str, Any]) -> dict[str, object] | None:
    """The schemas of functions by name; None: there are none, or others whose calls cannot be judged."""
    tools, functions = values.get("tools"), values.get("functions")
    listed = [*(tools if isinstance(tools, list) else ()), *(functions if isinstance(functions, list) else ())]
    found: dict[str, object] = {}
    for tool in listed[:MAX_TOOLS]:
        function = tool.get("function", tool) if isinstance(tool, dict) else None
        name = function.get("name") if isinstance(function, dict) else None
        if not isinstance(function, dict) or not isinstance(name, str) or tool.get("type", "function") != "function":
            return None
        parameters = function.get("parameters")
        found[name] = True if parameters is None else parameters
    return found if found and len(listed) <= MAX_TOOLS else None


def _calls(tool_calls: Any, function_call: Any) -> Iterator[Call]:
    for each in tool_calls if isinstance(tool_calls, list) else ():
        if isinstance(each, dict) and isinstance(each.get("function"), dict):
            yield _call(each["function"])
    if isinstance(function_call, dict):
        yield _call(function_call)


def _call(function: dict[str, Any]) -> Call:
    name, arguments = function.get("name"), function.get("arguments")
    return Call(name if isinstance(name, str) else "", arguments if isinstance(arguments, str) else "")


def _deltas(frames: bytes) -> Iterator[dict[str, Any]]:
    """Of the first choice."""
    for data in map(payload, frames_of(frames)):
        if data is None or b'"choices"' not in data:
            continue
        try:
            choices = _decode(data)["choices"]
            delta = choices[0]["delta"] if choices else None
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, LookupError, TypeError):
            continue
        if isinstance(delta, dict):
            yield delta


def _pieces(delta: dict[str, Any]) -> Iterator[tuple[int, str, str]]:
    """Of calls: which one, and what is added to its name and its arguments."""
    calls = delta.get("tool_calls")
    for each in calls if isinstance(calls, list) else ():
        if isinstance(each, dict) and isinstance(each.get("function"), dict):
            index = each.get("index")
            yield (index if isinstance(index, int) else 0, *_call(each["function"]))
    if isinstance(delta.get("function_call"), dict):
        yield (-1, *_call(delta["function_call"]))
