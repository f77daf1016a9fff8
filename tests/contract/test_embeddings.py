"""`/v1/embeddings` through the real gateway, with OpenAI's official client."""

from __future__ import annotations

import json
from array import array
from collections.abc import Callable
from typing import Any

import httpx
import openai
import pytest

from loadtests.fake.embeddings import embedding
from loadtests.fake_backend import BackendThread
from router.config.embeddings import EmbeddingsConfig
from router.embeddings.local import Embedded, LocalModel
from router.resilience.deadline import Deadline
from tests.contract.conftest import RunningGateway, StartGateway

StartEmbeddings = Callable[..., RunningGateway]


@pytest.fixture
def start(start_gateway: StartGateway, student: BackendThread) -> StartEmbeddings:
    """Starts a gateway whose embeddings come from the student's fake backend."""

    def started(model: str = "student", **parts: str) -> RunningGateway:
        table = (
            f'[embeddings]\nbase_url = "{student.base_url}"\nmodel = "{model}"\naliases = ["text-embedding-3-small"]\n'
        )
        return start_gateway(rest=table + parts.pop("rest", ""), **parts)

    return started


@pytest.mark.parametrize("encoding", ["float", "base64", None])
def test_client_reads_the_backends_embeddings(
    start: StartEmbeddings, student: BackendThread, encoding: str | None
) -> None:
    gateway = start()
    options: Any = {} if encoding is None else {"encoding_format": encoding}
    with gateway.client() as client:
        answer = client.embeddings.create(model="text-embedding-3-small", input=["one", "two"], **options)
    if encoding == "base64":
        assert all(isinstance(found.embedding, str) for found in answer.data)
    else:
        assert [found.embedding for found in answer.data] == [embedding("one"), embedding("two")]
    assert answer.usage.prompt_tokens == 2
    received = student.state.received[-1]
    assert received.path == "/v1/embeddings"
    assert json.loads(received.body)["model"] == "student"
    assert gateway.metric('router_embedding_requests_total{outcome="ok"}') == 1
    assert gateway.metric("router_embedding_tokens_total") == 2


def test_answer_is_the_backends_byte_for_byte(start: StartEmbeddings, student: BackendThread) -> None:
    body = b'{"model":"student","input":"a","user":"u" , "router":{"session":"s"}}'
    response = httpx.post(f"{start().origin}/v1/embeddings", content=body, timeout=20)
    assert response.content == b"".join(student.state.received[-1].response)
    assert student.state.received[-1].body == b'{"model":"student","input":"a","user":"u"}'


def test_wrong_request_is_refused_in_openais_form(start: StartEmbeddings) -> None:
    gateway = start()
    with gateway.client() as client:
        with pytest.raises(openai.BadRequestError) as caught:
            client.embeddings.create(model="student", input="")
        assert caught.value.param == "input"
        with pytest.raises(openai.NotFoundError, match="text-embedding-3-small"):
            client.embeddings.create(model="other", input="a")
    assert gateway.metric('router_embedding_requests_total{outcome="client_error"}') == 2
    assert httpx.get(f"{gateway.origin}/v1/embeddings").status_code == 405


def test_embeddings_are_not_found_without_their_table(gateway: RunningGateway) -> None:
    with gateway.client() as client, pytest.raises(openai.NotFoundError, match=r"\[embeddings\]"):
        client.embeddings.create(model="any", input="a")


@pytest.mark.parametrize(
    ("model", "status"), [("fault-503", 503), ("fault-429-retry-after-7", 429), ("fault-garbage", 503)]
)
def test_failing_backend_is_an_error_with_its_status(start: StartEmbeddings, model: str, status: int) -> None:
    with start(model).client() as client, pytest.raises(openai.APIStatusError) as caught:
        client.embeddings.create(model=model, input="a")
    assert caught.value.status_code == status
    if model.endswith("7"):
        assert caught.value.response.headers["retry-after"] == "7"


def test_refusal_of_the_backend_reaches_the_client(start: StartEmbeddings) -> None:
    with start("fault-422").client() as client, pytest.raises(openai.UnprocessableEntityError, match="fake backend"):
        client.embeddings.create(model="fault-422", input="a")


def test_keys_and_limits_hold_for_embeddings(start: StartEmbeddings) -> None:
    rest = '[auth]\nkeys_env = "KEYS"\n[limits]\nrequests_per_minute = 2\n'
    gateway = start(rest=rest, environ={"KEYS": "team=secret-key-of-the-team"})
    with gateway.client() as client, pytest.raises(openai.AuthenticationError):
        client.embeddings.create(model="student", input="a")
    with gateway.client("secret-key-of-the-team") as client:
        raw = client.embeddings.with_raw_response.create(model="student", input="a")
        assert raw.headers["x-ratelimit-remaining-requests"] == "1"
        client.embeddings.create(model="student", input="a")
        with pytest.raises(openai.RateLimitError):
            client.embeddings.create(model="student", input="a")
    assert gateway.metric('router_embedding_requests_total{outcome="rejected"}') == 2


async def test_local_model_gives_what_the_client_expects() -> None:
    """The model is a fake; the real one has a test of its own with the marker `semantic`."""
    from router.embeddings.request import EmbeddingRequest

    def embed(texts: list[str]) -> Embedded:
        return Embedded([array("f", [0.25, -0.5]) for _ in texts], len(texts))

    async with LocalModel(embed, EmbeddingsConfig(model="m")) as local:
        request = EmbeddingRequest.parse(b'{"model":"m","input":"a"}', known_models=("m",), max_inputs=1)
        answered = await local.answer(request, [], Deadline.after(20))
    parsed = openai.types.CreateEmbeddingResponse.model_validate_json(answered.body)
    assert parsed.data[0].embedding == [0.25, -0.5]
