"""A request of OpenAI's Responses API as a chat request.

The gateway keeps no responses: every request brings its whole conversation. What only OpenAI's own servers can do
(stored conversations, hosted tools, background work) is refused with the name of the field. Source: the types of the
`openai` package, version 3.54.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from router.dialects.fields import (
    Json,
    object_of,
    objects_of,
    optional_text,
    refuse_set,
    text_at,
    unknown,
    whole_number,
    wrong,
)
from router.dialects.parts import shared_fields
from router.dialects.responses.items import Conversation

COPIED = (
    "model", "temperature", "top_p", "parallel_tool_calls", "stream", "store", "user", "safety_identifier",
    "prompt_cache_key", "prompt_cache_retention", "prompt_cache_options", "service_tier", "router", "documents",
)  # fmt: skip
"""Fields that mean the same in both."""
TRANSLATED = ("input", "instructions", "max_output_tokens", "reasoning", "text", "tool_choice", "tools", "truncation")
ABOUT_LOGPROBS = ("include", "top_logprobs")
WITHOUT_EFFECT = ("metadata", "max_tool_calls", "stream_options")
"""`metadata` is given back with the response, tool calls are counted for hosted tools only, and the stream's
option is about padding."""
STATELESS = "is not supported: the gateway keeps no responses; send the whole conversation as input."
HOSTED = "is not supported: it runs on OpenAI's servers only."
REFUSED = {
    "previous_response_id": STATELESS,
    "conversation": STATELESS,
    "background": "is not supported: the gateway keeps no responses; wait for the answer or stream it.",
    "background_options": "is not supported: there is no background work.",
    "prompt": "is not supported: the gateway keeps no prompt templates; send instructions and input.",
    "context_management": "is not supported: shorten the conversation before you send it.",
    "moderation": HOSTED,
    "image": HOSTED,
    "access_programs": HOSTED,
    "store": "cannot be true: the gateway keeps no responses; leave it out or send false.",
}
CHAT_NAMES = {
    "audio": "is not part of this API; use /v1/chat/completions.",
    "functions": "is not part of this API: use tools.",
    "function_call": "is not part of this API: use tool_choice.",
    "logprobs": "is not part of this API: use include with message.output_text.logprobs.",
    "max_completion_tokens": "is not part of this API: use max_output_tokens.",
    "max_tokens": "is not part of this API: use max_output_tokens.",
    "messages": "is not part of this API: use input.",
    "modalities": "is not part of this API; use /v1/chat/completions.",
    "n": "is not part of this API; use /v1/chat/completions.",
    "reasoning_effort": "is not part of this API: use reasoning.effort.",
    "response_format": "is not part of this API: use text.format.",
    "verbosity": "is not part of this API: use text.verbosity.",
}
"""Names that would get another meaning, or an effect that the answer cannot show, if they were passed on."""
KNOWN = frozenset({*COPIED, *TRANSLATED, *ABOUT_LOGPROBS, *WITHOUT_EFFECT, *REFUSED, *CHAT_NAMES})

LOGPROBS = "message.output_text.logprobs"
INCLUDABLE = frozenset(
    {
        LOGPROBS,
        "reasoning.encrypted_content",
        "file_search_call.results",
        "web_search_call.results",
        "web_search_call.action.sources",
        "message.input_image.image_url",
        "computer_call_output.output.image_url",
        "code_interpreter_call.outputs",
    }
)
"""All but the first are about what a translated answer never has."""
TOOL_MODES = ("auto", "none", "required")


def to_chat(body: Mapping[str, Any]) -> Json:
    """The chat request that asks the same.

    Raises:
        InvalidRequest: a field is wrong, or has a meaning that chat cannot express; `param` names it.
    """
    refuse_set(body, {**REFUSED, **CHAT_NAMES})
    text_at(body, "model")
    conversation = Conversation()
    conversation.add_instructions(optional_text(body, "instructions"))
    conversation.add_input(body.get("input"))
    chat = shared_fields(body, COPIED, conversation)
    if body.get("max_output_tokens") is not None:
        chat["max_completion_tokens"] = whole_number(body["max_output_tokens"], "max_output_tokens")
    if body.get("truncation") not in (None, "disabled"):
        raise wrong("truncation", "must be disabled: the gateway drops nothing of a conversation.")
    chat |= _reasoning(body) | _text(body) | _tools(body) | _logprobs(body)
    return chat | unknown(body, KNOWN)


def _reasoning(body: Mapping[str, Any]) -> Json:
    reasoning = object_of(body.get("reasoning") or {}, "reasoning")
    if reasoning.get("mode") not in (None, "standard"):
        raise wrong("reasoning.mode", "must be standard: the routed models have no other.")
    if reasoning.get("context") not in (None, "auto", "current_turn"):
        raise wrong("reasoning.context", "must be auto or current_turn: reasoning of earlier turns is not kept.")
    effort = optional_text(reasoning, "effort", "reasoning.")
    return {} if effort is None else {"reasoning_effort": effort}


def _text(body: Mapping[str, Any]) -> Json:
    """How the answer is to be written."""
    config = object_of(body.get("text") or {}, "text")
    found: Json = {}
    if config.get("verbosity") is not None:
        found["verbosity"] = text_at(config, "verbosity", "text.")
    wanted = object_of(config.get("format") or {}, "text.format")
    match wanted.get("type"):
        case None | "text":
            pass
        case "json_object":
            found["response_format"] = {"type": "json_object"}
        case "json_schema":
            text_at(wanted, "name", "text.format.")
            object_of(wanted.get("schema"), "text.format.schema")
            schema = {key: value for key, value in wanted.items() if key != "type"}
            found["response_format"] = {"type": "json_schema", "json_schema": schema}
        case _:
            raise wrong("text.format.type", "must be text, json_object or json_schema.")
    return found


def _logprobs(body: Mapping[str, Any]) -> Json:
    include = body.get("include")
    for index, name in enumerate(include if isinstance(include, list) else ()):
        if not isinstance(name, str) or name not in INCLUDABLE:
            raise wrong(f"include.{index}", "is not known.")
    top = body.get("top_logprobs")
    if not top and not (isinstance(include, list) and LOGPROBS in include):
        return {}
    return {"logprobs": True} if not top else {"logprobs": True, "top_logprobs": top}


def _tools(body: Mapping[str, Any]) -> Json:
    tools = objects_of(body.get("tools") or [], "tools")
    found: Json = {}
    choice = body.get("tool_choice")
    if isinstance(choice, dict) and choice.get("type") == "allowed_tools":
        tools, choice = _allowed(tools, choice)
    if tools:
        found["tools"] = [_tool(tool, f"tools.{index}.") for index, tool in enumerate(tools)]
    if isinstance(choice, dict):
        if choice.get("type") != "function":
            raise wrong("tool_choice.type", f"{str(choice.get('type'))[:64]!r} {HOSTED}")
        name = text_at(choice, "name", "tool_choice.")
        found["tool_choice"] = {"type": "function", "function": {"name": name}}
    elif choice is not None:
        if choice not in TOOL_MODES:
            raise wrong("tool_choice", "must be auto, none, required or an object.")
        found["tool_choice"] = choice
    return found


def _allowed(tools: list[Json], choice: Json) -> tuple[list[Json], Any]:
    """Not every backend knows a choice among some tools; all know a shorter list of tools."""
    names = [tool.get("name") for tool in objects_of(choice.get("tools"), "tool_choice.tools")]
    if choice.get("mode") not in ("auto", "required"):
        raise wrong("tool_choice.mode", "must be auto or required.")
    return [tool for tool in tools if tool.get("name") in names], choice["mode"]


def _tool(tool: Json, at: str) -> Json:
    if tool.get("type") != "function":
        raise wrong(f"{at}type", f"{str(tool.get('type'))[:64]!r} {HOSTED} Use tools of type function.")
    refuse_set(tool, {"async": HOSTED, "defer_loading": HOSTED}, at)
    if tool.get("allowed_callers") not in (None, ["direct"]):
        raise wrong(f"{at}allowed_callers", HOSTED)
    text_at(tool, "name", at)
    kept = ("name", "description", "parameters", "strict")
    return {"type": "function", "function": {key: tool[key] for key in kept if tool.get(key) is not None}}
