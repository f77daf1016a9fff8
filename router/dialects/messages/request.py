"""A request of Anthropic's Messages API as a chat request.

What chat has no word for is refused where its loss would change the answer, and left out where it would not: cache
breakpoints, signed thinking of earlier turns, delivery options. Source: Anthropic API reference, version 2023-06-01.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from router.dialects.fields import (
    Json,
    flag,
    object_of,
    objects_of,
    optional_text,
    refuse_set,
    text_at,
    unknown,
    whole_number,
    wrong,
)
from router.dialects.messages.turns import Conversation
from router.dialects.parts import shared_fields

COPIED = ("model", "temperature", "top_p", "top_k", "stream", "router", "documents")
"""Fields that mean the same in both."""
TRANSLATED = (
    "max_tokens",
    "messages",
    "metadata",
    "output_config",
    "service_tier",
    "speed",
    "stop_sequences",
    "system",
)
TOOL_FIELDS = ("thinking", "tool_choice", "tools")
WITHOUT_EFFECT = ("cache_control", "diagnostics")
"""What they change is the provider's bookkeeping, not the answer."""
REFUSED = {
    "container": "needs Anthropic's own code execution; leave it out.",
    "context_management": "is not supported: shorten the conversation before you send it.",
    "mcp_servers": "is not supported: connect MCP tools in your application and send them as tools.",
    "inference_geo": "cannot be kept by the routed models; leave it out.",
    "user_profile_id": "has no meaning for the routed models; leave it out.",
    "workspace_id": "has no meaning for the routed models; leave it out.",
}
CHAT_NAMES = {
    "audio": "is not part of this API; use /v1/chat/completions.",
    "functions": "is not part of this API: use tools.",
    "function_call": "is not part of this API: use tool_choice.",
    "logprobs": "is not part of this API; use /v1/chat/completions.",
    "max_completion_tokens": "is not part of this API: use max_tokens.",
    "modalities": "is not part of this API; use /v1/chat/completions.",
    "n": "is not part of this API; use /v1/chat/completions.",
    "parallel_tool_calls": "is not part of this API: use tool_choice.disable_parallel_tool_use.",
    "reasoning_effort": "is not part of this API: use output_config.effort.",
    "response_format": "is not part of this API: use output_config.format.",
    "stop": "is not part of this API: use stop_sequences.",
    "stream_options": "is not part of this API: usage always comes.",
    "top_logprobs": "is not part of this API; use /v1/chat/completions.",
}
"""Names that would get another meaning, or an effect that the answer cannot show, if they were passed on."""
KNOWN = frozenset({*COPIED, *TRANSLATED, *TOOL_FIELDS, *WITHOUT_EFFECT, *REFUSED, *CHAT_NAMES})

EFFORT_OF_BUDGET_TOKENS = ((4096, "low"), (16_384, "medium"))
"""Thinking budgets below these mean that effort; more is `high`. Chat knows no budget in tokens."""
THINKING_TYPES = ("enabled", "adaptive", "between_tools", "disabled")
TOOL_CHOICES = {"auto": "auto", "any": "required", "none": "none"}
SERVICE_TIERS = {"auto": None, "standard_only": "default"}
NOT_OURS = "is not supported: it needs Anthropic's own tools."


def to_chat(body: Mapping[str, Any]) -> Json:
    """The chat request that asks the same.

    Raises:
        InvalidRequest: a field is wrong, or has a meaning that chat cannot express; `param` names it.
    """
    refuse_set(body, {**REFUSED, **CHAT_NAMES})
    text_at(body, "model")
    conversation = Conversation()
    conversation.add_system(body.get("system"), "system")
    conversation.add_turns(body.get("messages"))
    chat = shared_fields(body, COPIED, conversation)
    chat["max_completion_tokens"] = whole_number(body.get("max_tokens"), "max_tokens")
    chat |= _stop(body) | _tools(body) | _output(body) | _account(body)
    return chat | unknown(body, KNOWN)


def shows_thinking(body: Mapping[str, Any]) -> bool:
    """Whether the client asked to see the model's reasoning."""
    thinking = body.get("thinking")
    return isinstance(thinking, dict) and thinking.get("type") != "disabled" and thinking.get("display") != "omitted"


def _stop(body: Mapping[str, Any]) -> Json:
    sequences = body.get("stop_sequences")
    if sequences is None:
        return {}
    if not isinstance(sequences, list) or not all(isinstance(sequence, str) for sequence in sequences):
        raise wrong("stop_sequences", "must be a list of strings.")
    return {"stop": sequences} if sequences else {}


def _output(body: Mapping[str, Any]) -> Json:
    """Effort, thinking and the format of the answer."""
    found: Json = {}
    effort = _effort_of_thinking(body.get("thinking"))
    config = object_of(body.get("output_config") or {}, "output_config")
    refuse_set(unknown(config, ("effort", "format")), dict.fromkeys(config, "is not supported."), "output_config.")
    effort = optional_text(config, "effort", "output_config.") or effort
    if effort is not None:
        found["reasoning_effort"] = effort
    if config.get("format") is not None:
        wanted = object_of(config["format"], "output_config.format")
        if wanted.get("type") != "json_schema":
            raise wrong("output_config.format.type", "must be json_schema.")
        schema = object_of(wanted.get("schema"), "output_config.format.schema")
        found["response_format"] = {
            "type": "json_schema",
            "json_schema": {"name": "answer", "schema": schema, "strict": True},
        }
    return found


def _effort_of_thinking(thinking: Any) -> str | None:
    if thinking is None:
        return None
    kind = object_of(thinking, "thinking").get("type")
    if kind not in THINKING_TYPES:
        raise wrong("thinking.type", f"must be one of {', '.join(THINKING_TYPES)}.")
    if kind != "enabled":
        return None
    budget = whole_number(thinking.get("budget_tokens"), "thinking.budget_tokens")
    return next((effort for below, effort in EFFORT_OF_BUDGET_TOKENS if budget < below), "high")


def _tools(body: Mapping[str, Any]) -> Json:
    found: Json = {}
    tools = objects_of(body.get("tools") or [], "tools")
    if tools:
        found["tools"] = [_tool(tool, f"tools.{index}.") for index, tool in enumerate(tools)]
    if body.get("tool_choice") is None:
        return found
    choice = object_of(body["tool_choice"], "tool_choice")
    kind = text_at(choice, "type", "tool_choice.")
    if kind == "tool":
        name = text_at(choice, "name", "tool_choice.")
        found["tool_choice"] = {"type": "function", "function": {"name": name}}
    elif kind in TOOL_CHOICES:
        found["tool_choice"] = TOOL_CHOICES[kind]
    else:
        raise wrong("tool_choice.type", "must be one of auto, any, tool, none.")
    if flag(choice.get("disable_parallel_tool_use"), "tool_choice.disable_parallel_tool_use"):
        found["parallel_tool_calls"] = False
    return found


def _tool(tool: Json, at: str) -> Json:
    if tool.get("type") not in (None, "custom"):
        raise wrong(f"{at}type", f"{str(tool['type'])[:64]!r} {NOT_OURS} Describe a tool with name and input_schema.")
    refuse_set(tool, {"defer_loading": NOT_OURS}, at)
    if tool.get("allowed_callers") not in (None, ["direct"]):
        raise wrong(f"{at}allowed_callers", NOT_OURS)
    parameters = object_of(tool.get("input_schema"), f"{at}input_schema")
    if tool.get("input_examples"):
        examples = objects_of(tool["input_examples"], f"{at}input_examples")
        parameters = {**parameters, "examples": examples}  # JSON Schema's own word for them
    function: Json = {"name": text_at(tool, "name", at), "parameters": parameters}
    description = optional_text(tool, "description", at)
    if description is not None:
        function["description"] = description
    if tool.get("strict") is not None:
        function["strict"] = flag(tool["strict"], f"{at}strict")
    return {"type": "function", "function": function}


def _account(body: Mapping[str, Any]) -> Json:
    """Who asks, and how it is to be served."""
    found: Json = {}
    metadata = object_of(body.get("metadata") or {}, "metadata")
    user = optional_text(metadata, "user_id", "metadata.")
    if user is not None:
        found["user"] = user
    tier = optional_text(body, "service_tier")
    if tier is not None and tier not in SERVICE_TIERS:
        raise wrong("service_tier", "must be auto or standard_only.")
    if tier is not None and SERVICE_TIERS[tier] is not None:
        found["service_tier"] = SERVICE_TIERS[tier]
    if body.get("speed") not in (None, "standard"):
        raise wrong("speed", "must be standard: the routed models have no other.")
    return found
