"""Text completions: what the router reads of a request, and of an answer that it passes on untouched."""

from __future__ import annotations

import json
from typing import Any

import pytest

from router.config import BackendConfig
from router.dialects.completions import (
    COMPLETIONS,
    CompletionRequest,
    CompletionStreamReader,
    completion_meaning,
)
from router.errors import InvalidRequest

BACKEND = BackendConfig(base_url="http://127.0.0.1:1/v1", model="base-1")


def request_of(**fields: Any) -> CompletionRequest:
    return CompletionRequest.parse(json.dumps({"model": "auto", "prompt": "Once"} | fields).encode(), [])


def features_of(**fields: Any) -> Any:
    return request_of(**fields).features(tenant="t", default_output_tokens=99, student_window_tokens=8)


def test_request_is_forwarded_byte_for_byte_but_for_model_and_router() -> None:
    data = b'{"model": "auto","prompt": ["a", "b"], "echo":true,"logprobs": 2, "temperature": 2.50, "router": {}}'
    asked = CompletionRequest.parse(data, []).outgoing(BACKEND)
    assert asked.body == b'{"model": "base-1","prompt": ["a", "b"], "echo":true,"logprobs": 2, "temperature": 2.50}'
    assert asked.api is COMPLETIONS
    assert asked.translation is None


def test_stream_asks_for_usage_and_hides_it_when_the_client_did_not() -> None:
    asked = request_of(stream=True).outgoing(BACKEND)
    assert json.loads(asked.body)["stream_options"] == {"include_usage": True}
    assert asked.hides_usage


@pytest.mark.parametrize(
    ("prompt", "size_bytes", "turn"),
    [
        ("Once upon", 9, "Once upon"),
        ("Grüße", 7, "Grüße"),
        (["a", "longest", "b"], 7, "longest"),
        ([1, 2, 3], 12, ""),
        ([[1, 2], [3]], 8, ""),
        (None, 0, ""),
    ],
)
def test_features_are_those_of_the_longest_prompt(prompt: Any, size_bytes: int, turn: str) -> None:
    features = features_of(prompt=prompt)
    assert features.prompt_bytes == size_bytes
    assert features.last_user_turn == turn


def test_features_know_the_defaults_of_this_api() -> None:
    assert features_of().requested_output_tokens == 16
    assert features_of(max_tokens=0).requested_output_tokens == 0
    assert features_of(max_tokens=50).requested_output_tokens == 50
    assert features_of(suffix="end").prompt_bytes == 7


def test_choices_are_counted_over_all_prompts() -> None:
    assert request_of(prompt=["a", "b"], n=3).choices == 6
    assert request_of(prompt=[1, 2]).choices == 1


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"model": ""}, "model"),
        ({"prompt": 3}, "prompt"),
        ({"prompt": []}, "prompt"),
        ({"prompt": ["a", 3]}, "prompt"),
        ({"prompt": [[]]}, "prompt"),
        ({"prompt": ["a"] * 70_000}, "prompt"),
        ({"n": 0}, "n"),
        ({"max_tokens": -1}, "max_tokens"),
        ({"max_tokens": "9"}, "max_tokens"),
        ({"stream": 1}, "stream"),
        ({"stream_options": []}, "stream_options"),
        ({"router": {"route": "nowhere"}}, "router.route"),
    ],
)
def test_wrong_field_is_refused_by_name(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        request_of(**fields)
    assert caught.value.param == param


def test_meaning_is_read_from_the_text_of_the_first_choice() -> None:
    body = (
        b'{"model":"m","choices":[{"index":1,"text":"no","finish_reason":"stop"},'
        b'{"index":0,"text":"yes \\ud83d","finish_reason":"stop"}],"usage":{"prompt_tokens":1,"completion_tokens":2}}'
    )
    meaning = completion_meaning(body)
    assert meaning is not None
    assert meaning.text == "yes \ud83d"
    assert meaning.usage is not None
    assert completion_meaning(b'{"choices":[]}') is None
    assert completion_meaning(b"[]") is None


def test_stream_reader_reads_the_text_and_the_end() -> None:
    reader = CompletionStreamReader(hide_usage=True)
    block = b'data: {"choices":[{"index":0,"text":"a"}]}\n\n: beat\n\ndata: {"choices":[{"index":0,"text":"b"}]}\n\n'
    assert reader.text_of(block + b"data: [DONE]\n\n") == "ab"
    delta = reader.read(b'data: {"choices":[{"index":0,"text":"","finish_reason":"length"}]}\n\n')
    assert delta.finish_reason == "length"
    assert delta.finished == {0}
    assert reader.read(b'data: {"choices":[{"index":0,"text":"a","finish_reason":null}]}\n\n').commits
