"""Requests for embeddings, and the local model that answers them in batches and in turn."""

from __future__ import annotations

import asyncio
import base64
import json
import threading
from array import array
from typing import Any

import pytest
from pydantic import ValidationError

from router.config.embeddings import EmbeddingsConfig
from router.embeddings.local import Answered, Embedded, LocalModel, WindowExceeded
from router.embeddings.request import EmbeddingRequest, used_tokens
from router.errors import BackendBroken, BackendTimeout, InvalidRequest, ModelNotFound, Overloaded
from router.resilience.deadline import Deadline

KNOWN = ("small",)


def parse(max_inputs: int = 4, **fields: Any) -> EmbeddingRequest:
    body = json.dumps({"model": "small", "input": "Hi"} | fields).encode()
    return EmbeddingRequest.parse(body, known_models=KNOWN, max_inputs=max_inputs)


async def ask(local: LocalModel, request: EmbeddingRequest, within_s: float = 20.0) -> Answered:
    return await local.answer(request, [], Deadline.after(within_s))


class FakeModel:
    """Embeds a text as its length; a long one does not fit, and `gate` holds the thread."""

    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self.gate = threading.Event()
        self.gate.set()
        self.error: Exception | None = None

    def __call__(self, texts: list[str]) -> Embedded:
        assert self.gate.wait(10)
        self.batches.append(texts)
        if self.error is not None:
            raise self.error
        for place, text in enumerate(texts):
            if len(text) > 8:
                raise WindowExceeded(place, len(text), 8)
        return Embedded([array("f", [len(text), 0.5]) for text in texts], sum(map(len, texts)))


def config(**fields: Any) -> EmbeddingsConfig:
    return EmbeddingsConfig.model_validate({"model": "small", "max_batch_texts": 2, "max_queued_texts": 4} | fields)


@pytest.mark.parametrize(
    ("given", "count"), [("Hi", 1), (["a", "b"], 2), ([1, 2, 3], 1), ([[1, 2], [3]], 2), (["a", [1]], 2)]
)
def test_request_reads_every_form_of_input(given: Any, count: int) -> None:
    assert len(parse(input=given).inputs) == count


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"input": ""}, "input"),
        ({"input": []}, "input"),
        ({"input": None}, "input"),
        ({"input": {"a": 1}}, "input"),
        ({"input": ["a", ""]}, "input.1"),
        ({"input": ["a", 3]}, "input.1"),
        ({"input": [[]]}, "input"),
        ({"input": list("abcde")}, "input"),
        ({"encoding_format": "hex"}, "encoding_format"),
        ({"dimensions": 0}, "dimensions"),
        ({"dimensions": True}, "dimensions"),
        ({"model": 3}, "model"),
    ],
)
def test_wrong_field_is_refused_by_name(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse(**fields)
    assert caught.value.param == param


def test_unknown_model_is_not_found() -> None:
    with pytest.raises(ModelNotFound, match="small"):
        parse(model="other")


def test_request_is_forwarded_byte_for_byte_but_for_model_and_router() -> None:
    data = b'{"model": "small", "input": ["\\u00e9", "b"] , "user":"u","router":{}}'
    request = EmbeddingRequest.parse(data, known_models=KNOWN, max_inputs=2)
    assert request.forwarded("big") == b'{"model": "big", "input": ["\\u00e9", "b"] , "user":"u"}'


def test_tokens_are_estimated_before_the_model_counts_them() -> None:
    assert parse(input=["12345678", "é"]).approx_tokens == 3
    assert parse(input=[1, 2, 3]).approx_tokens == 3


async def test_local_model_embeds_in_batches_and_keeps_the_order() -> None:
    model = FakeModel()
    async with LocalModel(model, config()) as local:
        answered = await ask(local, parse(input=["a", "bb", "ccc"]))
    assert model.batches[1:] == [["a", "bb"], ["ccc"]]
    answer = json.loads(answered.body)
    assert [found["embedding"] for found in answer["data"]] == [[1.0, 0.5], [2.0, 0.5], [3.0, 0.5]]
    assert [found["index"] for found in answer["data"]] == [0, 1, 2]
    assert answer["usage"] == {"prompt_tokens": 6, "total_tokens": 6}
    assert answered.tokens == 6


async def test_base64_holds_the_same_floats() -> None:
    async with LocalModel(FakeModel(), config()) as local:
        answered = await ask(local, parse(encoding_format="base64"))
    spelled = json.loads(answered.body)["data"][0]["embedding"]
    assert array("f", base64.b64decode(spelled)).tolist() == [2.0, 0.5]


async def test_short_request_gets_its_turn_between_the_batches_of_a_long_one() -> None:
    model = FakeModel()
    async with LocalModel(model, config(max_queued_texts=9)) as local:
        model.gate.clear()
        long = asyncio.create_task(ask(local, parse(max_inputs=9, input=list("abcdef"))))
        await asyncio.sleep(0)
        short = asyncio.create_task(ask(local, parse(input="z")))
        await asyncio.sleep(0)
        model.gate.set()
        await asyncio.gather(long, short)
    assert model.batches.index(["z"]) < model.batches.index(["e", "f"])


async def test_local_model_refuses_more_texts_than_may_wait_and_recovers() -> None:
    model = FakeModel()
    async with LocalModel(model, config()) as local:
        model.gate.clear()
        first = asyncio.create_task(ask(local, parse(input=list("abc"))))
        await asyncio.sleep(0)
        with pytest.raises(Overloaded):
            await ask(local, parse(input=["d", "e"]))
        model.gate.set()
        await first
        assert (await ask(local, parse(input=["d", "e"]))).status == 200


async def test_request_that_is_cancelled_gives_its_place_back() -> None:
    model = FakeModel()
    async with LocalModel(model, config()) as local:
        model.gate.clear()
        first = asyncio.create_task(ask(local, parse(input=list("abcd"))))
        await asyncio.sleep(0)
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        model.gate.set()
        assert (await ask(local, parse(input=list("abcd")))).status == 200


async def test_local_model_that_is_too_slow_is_a_timeout() -> None:
    model = FakeModel()
    async with LocalModel(model, config(request_timeout_s=0.05)) as local:
        model.gate.clear()
        with pytest.raises(BackendTimeout, match=r"embeddings\.request_timeout_s"):
            await ask(local, parse())
        model.gate.set()
        assert (await ask(local, parse())).status == 200


async def test_text_that_does_not_fit_is_refused_by_its_place() -> None:
    async with LocalModel(FakeModel(), config()) as local:
        with pytest.raises(InvalidRequest) as caught:
            await ask(local, parse(input=["a", "b", "much too long"]))
    assert caught.value.param == "input.2"
    assert "embeddings.truncate" in str(caught.value)


async def test_local_model_refuses_what_it_cannot_do() -> None:
    async with LocalModel(FakeModel(), config()) as local:
        with pytest.raises(InvalidRequest) as caught:
            await ask(local, parse(dimensions=2))
        assert caught.value.param == "dimensions"
        with pytest.raises(InvalidRequest) as caught:
            await ask(local, parse(input=[1, 2]))
        assert caught.value.param == "input"


async def test_failure_of_the_model_is_a_broken_backend() -> None:
    model = FakeModel()
    async with LocalModel(model, config()) as local:
        model.error = RuntimeError("out of memory")
        with pytest.raises(BackendBroken):
            await ask(local, parse())


def test_answer_of_a_backend_must_have_a_vector_for_every_input() -> None:
    body = json.dumps({"data": [{"embedding": [1]}], "usage": {"prompt_tokens": 3}}).encode()
    assert used_tokens(body, inputs=1) == 3
    assert used_tokens(b'{"data":[{}]}', inputs=1) is None
    for broken, inputs in ((body, 2), (b"<html>", 1), (b"{}", 1)):
        with pytest.raises(ValueError, match="answer"):
            used_tokens(broken, inputs=inputs)


@pytest.mark.parametrize(
    "table",
    [
        {"threads": 2, "base_url": "http://127.0.0.1:1/v1", "model": "m"},
        {"api_key_env": "KEY"},
        {"tls": {"ca_file": "ca.pem"}},
        {"base_url": "http://127.0.0.1:1/v1"},
        {"base_url": "ftp://x"},
        {"max_inputs": 0},
    ],
)
def test_configuration_refuses_keys_without_an_effect(table: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        EmbeddingsConfig.model_validate(table)
