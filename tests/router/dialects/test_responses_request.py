"""Requests of OpenAI's Responses API become chat requests."""

from __future__ import annotations

from typing import Any

import pytest

from router.chat import ChatRequest
from router.dialects.fields import json_text
from router.dialects.responses.request import CHAT_NAMES, REFUSED, to_chat
from router.errors import InvalidRequest

ASK = {"model": "auto", "input": "Hi"}


def chat_of(**fields: Any) -> dict[str, Any]:
    return to_chat(ASK | fields)


def messages_of(*items: Any, **fields: Any) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = chat_of(input=list(items), **fields)["messages"]
    return found


def refusal(**fields: Any) -> str:
    with pytest.raises(InvalidRequest) as caught:
        chat_of(**fields)
    assert caught.value.param is not None
    assert str(caught.value).startswith(caught.value.param)
    return caught.value.param


def test_request_becomes_chat_when_its_input_is_a_string() -> None:
    chat = chat_of(instructions="Be brief.", max_output_tokens=40)
    assert chat == {
        "model": "auto",
        "max_completion_tokens": 40,
        "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}],
    }


def test_request_keeps_what_chat_calls_the_same_and_forwards_what_it_does_not_know() -> None:
    same = {
        "temperature": 0.5, "top_p": 0.1, "parallel_tool_calls": False, "user": "u", "safety_identifier": "s",
        "prompt_cache_key": "k", "service_tier": "flex", "store": False, "seed": 4, "min_p": 0.1,
    }  # fmt: skip
    chat = chat_of(**same)
    assert {key: chat[key] for key in same} == same


def test_metadata_is_not_forwarded() -> None:
    assert "metadata" not in chat_of(metadata={"a": "b"})


def test_stream_asks_for_usage() -> None:
    assert chat_of(stream=True, stream_options={"include_obfuscation": False})["stream_options"] == {
        "include_usage": True
    }


def test_messages_are_translated_with_their_parts() -> None:
    found = messages_of(
        {"role": "developer", "content": "Be brief."},
        {
            "type": "message",
            "role": "user",
            "content": [
                {"type": "input_text", "text": "Which?"},
                {"type": "input_image", "image_url": "https://example.org/a.png", "detail": "low"},
                {"type": "input_file", "file_data": "data:application/pdf;base64,JV", "filename": "a.pdf"},
            ],
        },
        {
            "type": "message",
            "id": "msg_1",
            "role": "assistant",
            "status": "completed",
            "content": [{"type": "output_text", "text": "This one.", "annotations": []}],
        },
        {"role": "user", "content": "Why?"},
    )
    assert found == [
        {"role": "system", "content": "Be brief."},
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "Which?"},
                {"type": "image_url", "image_url": {"url": "https://example.org/a.png", "detail": "low"}},
                {"type": "file", "file": {"file_data": "data:application/pdf;base64,JV", "filename": "a.pdf"}},
            ],
        },
        {"role": "assistant", "content": "This one."},
        {"role": "user", "content": "Why?"},
    ]


def test_calls_of_one_turn_stand_in_one_message_before_their_outputs() -> None:
    def call(number: int) -> dict[str, Any]:
        return {"type": "function_call", "call_id": f"c{number}", "name": "f", "arguments": "{}", "id": f"fc_{number}"}

    found = messages_of(
        {"role": "user", "content": "Go."},
        {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "x"},
        {"role": "assistant", "content": "I look."},
        call(1),
        call(2),
        {"type": "function_call_output", "call_id": "c1", "output": "one"},
        {"type": "function_call_output", "call_id": "c2", "output": [{"type": "input_text", "text": "two"}]},
        call(3),
        {"type": "function_call_output", "call_id": "c3", "output": ""},
    )
    assert [message["role"] for message in found] == ["user", "assistant", "tool", "tool", "assistant", "tool"]
    assert found[1]["content"] == "I look."
    assert [one["id"] for one in found[1]["tool_calls"]] == ["c1", "c2"]
    assert [found[i]["content"] for i in (2, 3, 5)] == ["one", "two", ""]
    assert found[4] == {
        "role": "assistant",
        "content": None,
        "tool_calls": [{"id": "c3", "type": "function", "function": {"name": "f", "arguments": "{}"}}],
    }


def test_image_of_a_tool_goes_into_the_users_turn_behind_all_outputs() -> None:
    image = {"type": "input_image", "image_url": "https://example.org/a.png"}
    found = messages_of(
        {"type": "function_call", "call_id": "c1", "name": "f", "arguments": "{}"},
        {"type": "function_call", "call_id": "c2", "name": "f", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c1", "output": [image]},
        {"type": "function_call_output", "call_id": "c2", "output": "two"},
    )
    assert [message["role"] for message in found] == ["assistant", "tool", "tool", "user"]
    assert found[3]["content"][1]["image_url"]["url"] == "https://example.org/a.png"


def test_results_of_a_file_search_are_in_the_prompt_and_are_evidence() -> None:
    results = [
        {"file_id": "f1", "filename": "a.md", "score": 0.8, "text": "Paris."},
        {"file_id": "f2", "filename": None, "score": 0.1, "text": "Rome."},
        {"file_id": "f3"},
    ]
    chat = chat_of(
        input=[
            {"role": "user", "content": "Capital?"},
            {"type": "file_search_call", "id": "fs", "queries": ["capital"], "status": "completed", "results": results},
        ]
    )
    assert chat["router"]["retrieved_chunks"] == [
        {"text": "Paris.", "id": "a.md", "score": 0.8},
        {"text": "Rome.", "id": "f2", "score": 0.1},
    ]
    assert "Paris." in chat["messages"][1]["content"]


def test_tools_and_tool_choice_are_translated() -> None:
    tool = {"type": "function", "name": "f", "description": "d", "parameters": {"type": "object"}, "strict": True}
    other = {**tool, "name": "g"}
    chat = chat_of(tools=[tool, other], tool_choice={"type": "function", "name": "f"})
    assert chat["tools"][0] == {"type": "function", "function": {k: v for k, v in tool.items() if k != "type"}}
    assert chat["tool_choice"] == {"type": "function", "function": {"name": "f"}}
    allowed = {"type": "allowed_tools", "mode": "required", "tools": [{"type": "function", "name": "g"}]}
    chat = chat_of(tools=[tool, other], tool_choice=allowed)
    assert [found["function"]["name"] for found in chat["tools"]] == ["g"]
    assert chat["tool_choice"] == "required"
    assert chat_of(tools=[tool], tool_choice="none")["tool_choice"] == "none"
    assert "tools" not in chat_of(tools=[])


def test_text_and_reasoning_say_how_to_answer() -> None:
    schema = {"type": "json_schema", "name": "n", "schema": {"type": "object"}, "strict": True}
    chat = chat_of(text={"format": schema, "verbosity": "low"}, reasoning={"effort": "high", "summary": "auto"})
    assert chat["response_format"] == {
        "type": "json_schema",
        "json_schema": {"name": "n", "schema": {"type": "object"}, "strict": True},
    }
    assert (chat["verbosity"], chat["reasoning_effort"]) == ("low", "high")
    assert chat_of(text={"format": {"type": "json_object"}})["response_format"] == {"type": "json_object"}
    assert "response_format" not in chat_of(text={"format": {"type": "text"}})


def test_logprobs_are_asked_for_when_they_are_included() -> None:
    assert chat_of(top_logprobs=3)["top_logprobs"] == 3
    assert chat_of(include=["message.output_text.logprobs"])["logprobs"] is True
    assert "logprobs" not in chat_of(include=["reasoning.encrypted_content"], top_logprobs=0)


@pytest.mark.parametrize("field", [*REFUSED, *CHAT_NAMES])
def test_field_is_refused_by_name_when_its_meaning_would_be_lost(field: str) -> None:
    assert refusal(**{field: True}) == field


def test_fields_that_say_nothing_are_no_reason_to_refuse() -> None:
    assert chat_of(background=False, previous_response_id=None, store=None, truncation="disabled") == chat_of()


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"model": 3}, "model"),
        ({"input": None}, "input"),
        ({"input": []}, "input"),
        ({"input": [{"type": "item_reference", "id": "x"}]}, "input.0.type"),
        ({"input": [{"type": "web_search_call", "id": "x"}]}, "input.0.type"),
        ({"input": [{"role": "tool", "content": ""}]}, "input.0.role"),
        ({"input": [{"role": "user", "content": [{"type": "video"}]}]}, "input.0.content.0.type"),
        (
            {"input": [{"role": "user", "content": [{"type": "input_image", "file_id": "f"}]}]},
            "input.0.content.0.image_url",
        ),
        (
            {"input": [{"role": "user", "content": [{"type": "input_file", "file_url": "u"}]}]},
            "input.0.content.0.file_url",
        ),
        ({"input": [{"type": "function_call", "name": "f", "arguments": "{}"}]}, "input.0.call_id"),
        ({"input": [{"type": "function_call_output", "output": ""}]}, "input.0.call_id"),
        ({"max_output_tokens": 0}, "max_output_tokens"),
        ({"tools": [{"type": "web_search"}]}, "tools.0.type"),
        ({"tools": [{"type": "function", "parameters": {}}]}, "tools.0.name"),
        ({"tool_choice": {"type": "mcp"}}, "tool_choice.type"),
        ({"tool_choice": "some"}, "tool_choice"),
        ({"text": {"format": {"type": "xml"}}}, "text.format.type"),
        ({"text": {"format": {"type": "json_schema", "name": "n"}}}, "text.format.schema"),
        ({"reasoning": {"mode": "pro"}}, "reasoning.mode"),
        ({"reasoning": {"context": "all_turns"}}, "reasoning.context"),
        ({"truncation": "auto"}, "truncation"),
        ({"include": ["message.mood"]}, "include.0"),
        ({"instructions": 3}, "instructions"),
    ],
)
def test_wrong_field_is_refused_by_name(fields: dict[str, Any], param: str) -> None:
    assert refusal(**fields) == param


def test_translated_request_is_a_chat_request() -> None:
    tool = {"type": "function", "name": "f", "parameters": {}}
    chat = chat_of(tools=[tool], stream=True, reasoning={"effort": "low"}, max_output_tokens=9)
    parsed = ChatRequest.parse(json_text(chat, "body").encode(), [])
    features = parsed.features(tenant="t", default_output_tokens=1, student_window_tokens=None)
    assert parsed.wants_usage
    assert features.reasoning_effort == "low"
    assert features.requested_output_tokens == 9
    assert features.has_tools
