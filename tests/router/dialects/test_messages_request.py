"""Requests of Anthropic's Messages API become chat requests."""

from __future__ import annotations

from typing import Any

import pytest

from router.chat import ChatRequest
from router.dialects.fields import json_text
from router.dialects.messages.request import CHAT_NAMES, REFUSED, shows_thinking, to_chat
from router.errors import InvalidRequest

ASK = {"model": "auto", "max_tokens": 50, "messages": [{"role": "user", "content": "Hi"}]}
PIXEL = "iVBORw0KGgo="


def chat_of(**fields: Any) -> dict[str, Any]:
    return to_chat(ASK | fields)


def messages_of(*messages: dict[str, Any], **fields: Any) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = chat_of(messages=list(messages), **fields)["messages"]
    return found


def user(*blocks: Any) -> dict[str, Any]:
    return {"role": "user", "content": list(blocks)}


def refusal(**fields: Any) -> str | None:
    with pytest.raises(InvalidRequest) as caught:
        chat_of(**fields)
    assert caught.value.param is not None
    assert str(caught.value).startswith(caught.value.param)
    return caught.value.param


def test_request_becomes_chat_when_it_is_the_smallest() -> None:
    assert chat_of() == {
        "model": "auto",
        "max_completion_tokens": 50,
        "messages": [{"role": "user", "content": "Hi"}],
    }


def test_request_keeps_sampling_and_forwards_fields_that_it_does_not_know() -> None:
    chat = chat_of(temperature=0.2, top_p=0.9, top_k=40, stop_sequences=["END"], min_p=0.1, seed=3)
    assert chat["temperature"] == 0.2
    assert (chat["top_p"], chat["top_k"], chat["min_p"], chat["seed"]) == (0.9, 40, 0.1, 3)
    assert chat["stop"] == ["END"]


def test_stream_asks_for_usage() -> None:
    chat = chat_of(stream=True)
    assert chat["stream"] is True
    assert chat["stream_options"] == {"include_usage": True}


def test_system_becomes_the_first_message_when_it_is_text_or_blocks() -> None:
    assert chat_of(system="Be brief.")["messages"][0] == {"role": "system", "content": "Be brief."}
    block = {"type": "text", "text": "Be kind.", "cache_control": {"type": "ephemeral"}}
    assert chat_of(system=[block])["messages"][0] == {"role": "system", "content": "Be kind."}
    both = chat_of(system=[block, block])["messages"][0]["content"]
    assert both == [{"type": "text", "text": "Be kind."}] * 2


def test_image_becomes_an_image_url_when_it_is_base64_or_a_url() -> None:
    data = {"type": "base64", "media_type": "image/png", "data": PIXEL}
    (message,) = messages_of(
        user(
            {"type": "image", "source": data},
            {"type": "image", "source": {"type": "url", "url": "https://example.org/a.png"}},
            {"type": "text", "text": "Which?"},
        )
    )
    assert message["content"] == [
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PIXEL}"}},
        {"type": "image_url", "image_url": {"url": "https://example.org/a.png"}},
        {"type": "text", "text": "Which?"},
    ]


def test_tools_become_functions() -> None:
    schema = {"type": "object", "properties": {"city": {"type": "string"}}}
    tool = {"name": "weather", "description": "Now.", "input_schema": schema, "strict": True, "cache_control": {}}
    chat = chat_of(tools=[tool, {"name": "bare", "input_schema": schema, "input_examples": [{"city": "Rome"}]}])
    first, second = (found["function"] for found in chat["tools"])
    assert first == {"name": "weather", "description": "Now.", "parameters": schema, "strict": True}
    assert second["parameters"]["examples"] == [{"city": "Rome"}]


@pytest.mark.parametrize(
    ("choice", "wanted"),
    [
        ({"type": "auto"}, "auto"),
        ({"type": "any"}, "required"),
        ({"type": "none"}, "none"),
        ({"type": "tool", "name": "f"}, {"type": "function", "function": {"name": "f"}}),
    ],
)
def test_tool_choice_is_translated(choice: dict[str, Any], wanted: Any) -> None:
    chat = chat_of(tools=[{"name": "f", "input_schema": {}}], tool_choice=choice)
    assert chat["tool_choice"] == wanted
    assert "parallel_tool_calls" not in chat
    alone = chat_of(tool_choice={**choice, "disable_parallel_tool_use": True})
    assert alone["parallel_tool_calls"] is False


def test_tool_use_and_its_results_become_calls_and_tool_messages() -> None:
    found = messages_of(
        {"role": "user", "content": "Weather in Rome and Oslo?"},
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": "two calls", "signature": "x"},
                {"type": "text", "text": "I look."},
                {"type": "tool_use", "id": "t1", "name": "weather", "input": {"city": "Rome"}},
                {"type": "tool_use", "id": "t2", "name": "weather", "input": {"city": "Oslo"}},
            ],
        },
        user(
            {"type": "tool_result", "tool_use_id": "t1", "content": "21 °C"},
            {
                "type": "tool_result",
                "tool_use_id": "t2",
                "is_error": True,
                "content": [{"type": "text", "text": "no such city"}],
            },
            {"type": "text", "text": "Well?"},
        ),
    )
    assert found[1]["content"] == "I look."
    assert [call["function"]["arguments"] for call in found[1]["tool_calls"]] == ['{"city":"Rome"}', '{"city":"Oslo"}']
    assert found[2] == {"role": "tool", "tool_call_id": "t1", "content": "21 °C"}
    assert found[3] == {"role": "tool", "tool_call_id": "t2", "content": "Error: no such city"}
    assert found[4] == {"role": "user", "content": "Well?"}


def test_image_of_a_tool_goes_into_the_users_turn_behind_all_results() -> None:
    image = {"type": "image", "source": {"type": "url", "url": "https://example.org/a.png"}}
    found = messages_of(
        user({"type": "text", "text": "Go."}),
        {"role": "assistant", "content": [{"type": "tool_use", "id": "t1", "name": "shot", "input": {}}]},
        user(
            {"type": "tool_result", "tool_use_id": "t1", "content": [image]},
            {"type": "tool_result", "tool_use_id": "t2"},
        ),
    )
    assert [message["role"] for message in found] == ["user", "assistant", "tool", "tool", "user"]
    assert found[4]["content"][1] == {"type": "image_url", "image_url": {"url": "https://example.org/a.png"}}
    assert "t1" in found[4]["content"][0]["text"]


def test_search_results_and_documents_are_in_the_prompt_and_are_evidence() -> None:
    search = {
        "type": "search_result",
        "source": "https://kb/1",
        "title": 'A "title"',
        "content": [{"type": "text", "text": "Paris is the capital."}],
    }
    document = {
        "type": "document",
        "title": "Notes",
        "source": {"type": "text", "media_type": "text/plain", "data": "Rome too."},
    }
    chat = chat_of(messages=[user(search, document, {"type": "text", "text": "Capital?"})], router={"session": "s"})
    first, second, third = (part["text"] for part in chat["messages"][0]["content"])
    assert "Paris is the capital." in first
    assert "https://kb/1" in first
    assert "Rome too." in second
    assert third == "Capital?"
    assert chat["router"] == {
        "session": "s",
        "retrieved_chunks": [
            {"text": "Paris is the capital.", "id": "https://kb/1"},
            {"text": "Rome too.", "id": "Notes"},
        ],
    }


def test_search_results_inside_a_tool_result_are_evidence_for_the_question_before() -> None:
    search = {"type": "search_result", "source": "s", "title": "t", "content": [{"type": "text", "text": "found"}]}
    old = {**search, "content": [{"type": "text", "text": "old"}]}
    turns = [
        user(old, {"type": "text", "text": "first question"}),
        {"role": "assistant", "content": "answer"},
        user({"type": "text", "text": "second question"}),
        {"role": "assistant", "content": [{"type": "tool_use", "id": "t1", "name": "find", "input": {}}]},
        user({"type": "tool_result", "tool_use_id": "t1", "content": [search]}),
    ]
    assert chat_of(messages=turns)["router"]["retrieved_chunks"] == [{"text": "found", "id": "s"}]


def test_evidence_of_the_client_wins_over_what_stands_in_the_messages() -> None:
    search = {"type": "search_result", "source": "s", "title": "t", "content": [{"type": "text", "text": "found"}]}
    own = {"retrieved_chunks": [{"text": "mine", "score": 0.9}]}
    assert chat_of(messages=[user(search)], router=own)["router"] == own


def test_pdf_becomes_a_file() -> None:
    source = {"type": "base64", "media_type": "application/pdf", "data": "JVBERi0="}
    (message,) = messages_of(user({"type": "document", "title": "a.pdf", "source": source}))
    assert message["content"] == [
        {"type": "file", "file": {"filename": "a.pdf", "file_data": "data:application/pdf;base64,JVBERi0="}}
    ]


@pytest.mark.parametrize(
    ("fields", "effort"),
    [
        ({"thinking": {"type": "enabled", "budget_tokens": 1024}}, "low"),
        ({"thinking": {"type": "enabled", "budget_tokens": 8192}}, "medium"),
        ({"thinking": {"type": "enabled", "budget_tokens": 32_000}}, "high"),
        ({"thinking": {"type": "adaptive"}}, None),
        ({"thinking": {"type": "disabled"}}, None),
        ({"thinking": {"type": "enabled", "budget_tokens": 1024}, "output_config": {"effort": "max"}}, "max"),
    ],
)
def test_thinking_becomes_reasoning_effort(fields: dict[str, Any], effort: str | None) -> None:
    assert chat_of(**fields).get("reasoning_effort") == effort


def test_thinking_is_shown_when_it_was_asked_for() -> None:
    assert shows_thinking({"thinking": {"type": "adaptive"}})
    assert not shows_thinking({})
    assert not shows_thinking({"thinking": {"type": "disabled"}})
    assert not shows_thinking({"thinking": {"type": "adaptive", "display": "omitted"}})


def test_output_format_becomes_a_response_format() -> None:
    schema = {"type": "object"}
    chat = chat_of(output_config={"format": {"type": "json_schema", "schema": schema}})
    assert chat["response_format"]["json_schema"]["schema"] == schema
    assert chat["response_format"]["type"] == "json_schema"


def test_metadata_and_service_tier_say_who_asks_and_how() -> None:
    assert chat_of(metadata={"user_id": "u-1"})["user"] == "u-1"
    assert chat_of(service_tier="standard_only")["service_tier"] == "default"
    assert "service_tier" not in chat_of(service_tier="auto")


@pytest.mark.parametrize("field", [*REFUSED, *CHAT_NAMES])
def test_field_is_refused_by_name_when_its_meaning_would_be_lost(field: str) -> None:
    assert refusal(**{field: {"a": 1}}) == field


TEXT = {"type": "text", "text": "a"}
CITED = {"citations": {"enabled": True}}
SEARCH = {"type": "search_result", "source": "s", "title": "t", "content": [TEXT]}


@pytest.mark.parametrize(
    ("content", "param"),
    [
        ([{"type": "image", "source": {"type": "file", "file_id": "f"}}], "messages.0.content.0.source.type"),
        ([{"type": "document", "source": {"type": "url", "url": "u"}}], "messages.0.content.0.source.type"),
        ([{**SEARCH, **CITED}], "messages.0.content.0.citations.enabled"),
        ([{"type": "container_upload", "file_id": "f"}], "messages.0.content.0.type"),
        ([TEXT, {"type": "tool_result", "tool_use_id": "t"}], "messages.0.content.1"),
        ([{"type": "tool_result", "tool_use_id": 3}], "messages.0.content.0.tool_use_id"),
        ([{"type": "text"}], "messages.0.content.0.text"),
        ([3], "messages.0.content.0"),
        (3, "messages.0.content"),
    ],
)
def test_block_is_refused_by_place(content: Any, param: str) -> None:
    assert refusal(messages=[{"role": "user", "content": content}]) == param


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"model": None}, "model"),
        ({"max_tokens": None}, "max_tokens"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": True}, "max_tokens"),
        ({"messages": []}, "messages"),
        ({"messages": "Hi"}, "messages"),
        ({"messages": [{"role": "tool", "content": ""}]}, "messages.0.role"),
        ({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "{"}]}, "messages.1.role"),
        ({"stop_sequences": "END"}, "stop_sequences"),
        ({"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, "tools.0.type"),
        ({"tools": [{"name": "f", "input_schema": {}, "defer_loading": True}]}, "tools.0.defer_loading"),
        ({"tools": [{"name": "f"}]}, "tools.0.input_schema"),
        ({"tool_choice": {"type": "some"}}, "tool_choice.type"),
        ({"thinking": {"type": "enabled"}}, "thinking.budget_tokens"),
        ({"thinking": {"type": "loud"}}, "thinking.type"),
        ({"output_config": {"task_budget": {"total": 5}}}, "output_config.task_budget"),
        ({"output_config": {"format": {"type": "xml"}}}, "output_config.format.type"),
        ({"service_tier": "gold"}, "service_tier"),
        ({"speed": "fast"}, "speed"),
        ({"metadata": {"user_id": 3}}, "metadata.user_id"),
        ({"system": [{"type": "image"}]}, "system.0.type"),
        ({"stream": "yes"}, "stream"),
    ],
)
def test_wrong_field_is_refused_by_name(fields: dict[str, Any], param: str) -> None:
    assert refusal(**fields) == param


def test_request_of_too_many_parts_is_refused() -> None:
    assert refusal(messages=[user(*[TEXT] * 40_000), user(*[TEXT] * 40_000)]) == "messages"


def test_translated_request_is_a_chat_request() -> None:
    chat = chat_of(system="Be brief.", tools=[{"name": "f", "input_schema": {}}], stream=True)
    parsed = ChatRequest.parse(json_text(chat, "body").encode(), [])
    assert parsed.stream
    assert parsed.wants_usage


def test_number_beyond_all_doubles_is_refused_by_name() -> None:
    call = {"type": "tool_use", "id": "t", "name": "f", "input": {"a": float("inf")}}
    with pytest.raises(InvalidRequest) as caught:
        chat_of(messages=[{"role": "assistant", "content": [call]}, {"role": "user", "content": "x"}])
    assert caught.value.param == "messages.0.content.0.input"
