"""Tool calls, reasoning and embeddings of the fake backend, as the official client sees them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import openai
import pytest

from loadtests.fake.embeddings import embedding
from loadtests.fake_backend import BackendThread

TOOLS: list[Any] = [{"type": "function", "function": {"name": name, "parameters": {}}} for name in ("first", "second")]
ASK: Any = [{"role": "user", "content": "hi"}]


@pytest.fixture
def client(backend: BackendThread) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=backend.base_url, api_key="none", max_retries=0, timeout=10) as client:
        yield client


def test_answer_calls_the_tools_of_the_request_when_told_so(client: openai.OpenAI) -> None:
    model = "fake-calls-2-tokens-2-reasoning-2"
    choice = client.chat.completions.create(model=model, messages=ASK, tools=TOOLS).choices[0]
    assert choice.finish_reason == "tool_calls"
    assert choice.message.content == "The quick"
    assert choice.message.model_extra == {"reasoning": "Let me"}
    assert [call.function.name for call in choice.message.tool_calls or () if call.type == "function"] == [
        "first",
        "second",
    ]


def test_stream_has_the_same_calls_in_pieces(client: openai.OpenAI) -> None:
    model = "fake-calls-2-tokens-2-reasoning-2"
    whole = client.chat.completions.create(model=model, messages=ASK, tools=TOOLS).choices[0].message
    texts = ["", ""]
    names = []
    for chunk in client.chat.completions.create(model=model, messages=ASK, tools=TOOLS, stream=True):
        for call in chunk.choices[0].delta.tool_calls or ():
            assert call.function is not None
            texts[call.index] += call.function.arguments or ""
            names += [call.function.name] if call.function.name else []
    assert [(c.function.name, c.function.arguments) for c in whole.tool_calls or () if c.type == "function"] == list(
        zip(names, texts, strict=True)
    )


@pytest.mark.parametrize("encoding", ["float", "base64", None])
def test_embeddings_depend_on_the_text(client: openai.OpenAI, encoding: Any) -> None:
    options = {} if encoding is None else {"encoding_format": encoding}
    answer = client.embeddings.create(model="student", input=["one", "two"], **options)
    if encoding == "base64":
        assert all(isinstance(found.embedding, str) for found in answer.data)
    else:
        assert [found.embedding for found in answer.data] == [embedding("one"), embedding("two")]
    assert answer.usage.prompt_tokens == 2


def test_embeddings_fail_when_told_so(client: openai.OpenAI) -> None:
    with pytest.raises(openai.InternalServerError):
        client.embeddings.create(model="fault-503", input="a")
    with pytest.raises(openai.NotFoundError):
        client.embeddings.create(model="unknown", input="a")
