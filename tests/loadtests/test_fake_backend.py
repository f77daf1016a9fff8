"""The fake backend as the official client sees it."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import httpx
import openai
import pytest
from openai.types.chat import ChatCompletionChunk

from loadtests.fake_backend import BackendThread, FakeBackend

from .conftest import Wait


@pytest.fixture
def client(backend: BackendThread) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=backend.base_url, api_key="none", max_retries=0, timeout=10) as client:
        yield client


def ask(client: openai.OpenAI, model: str = "student", content: str = "hi", **options: object) -> str:
    answer = client.chat.completions.create(
        model=model,
        messages=[{"role": "user", "content": content}],
        **options,  # type: ignore[call-overload]
    )
    return str(answer.choices[0].message.content)


def stream(client: openai.OpenAI, model: str, content: str = "hi", **options: object) -> list[ChatCompletionChunk]:
    return list(
        client.chat.completions.create(
            model=model,
            messages=[{"role": "user", "content": content}],
            stream=True,
            **options,  # type: ignore[call-overload]
        )
    )


def test_client_reads_answer_and_usage_when_plain(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model="fake-tokens-3-prompt-tokens-900", messages=[{"role": "user", "content": "hi"}]
    )
    assert answer.choices[0].message.content == "The quick brown"
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (900, 3)


def test_client_reads_vllm_frames_when_streaming(client: openai.OpenAI) -> None:
    chunks = stream(client, "fake-tokens-5", stream_options={"include_usage": True})
    assert chunks[0].choices[0].delta.role == "assistant"
    assert [chunk.choices[0].delta.content for chunk in chunks[1:6]] == ["The", " quick", " brown", " fox", " jumps"]
    assert chunks[6].choices[0].finish_reason == "stop"
    assert chunks[7].choices == []
    assert chunks[7].usage is not None
    assert chunks[7].usage.completion_tokens == 5
    assert len(chunks) == 8


def test_stream_has_no_usage_frame_when_not_asked_for(client: openai.OpenAI) -> None:
    chunks = stream(client, "fake-tokens-5")
    assert all(chunk.choices and chunk.usage is None for chunk in chunks)


def test_answer_ends_with_length_when_max_tokens_cuts_it(client: openai.OpenAI) -> None:
    chunks = stream(client, "fake-tokens-50", max_tokens=2)
    assert len(chunks) == 4
    assert chunks[-1].choices[0].finish_reason == "length"


def test_completions_answer_when_plain_and_streaming(client: openai.OpenAI) -> None:
    assert client.completions.create(model="student", prompt="[[fake-tokens-2]]").choices[0].text == "The quick"
    chunks = client.completions.create(model="fake-tokens-2", prompt="x", stream=True)
    assert [chunk.choices[0].text for chunk in chunks] == ["The", " quick", ""]


def test_logprobs_are_given_when_asked_for(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model="fake-tokens-2-logprob-1.5", messages=[{"role": "user", "content": "hi"}], logprobs=True
    )
    logprobs = answer.choices[0].logprobs
    assert logprobs is not None
    assert logprobs.content is not None
    assert [(entry.token, entry.logprob) for entry in logprobs.content] == [
        ("The", -1.5), (" quick", -1.5), ("<|im_end|>", -9.0),
    ]  # fmt: skip


def test_models_state_their_window_when_listed(client: openai.OpenAI) -> None:
    models = client.models.list().data
    assert [model.id for model in models] == ["student", "teacher"]
    assert (models[0].model_extra or {})["max_model_len"] == 8192
    assert client.models.retrieve("teacher").id == "teacher"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("other")


def test_unserved_model_is_not_found_when_asked(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="`gpt` does not exist"):
        ask(client, "gpt")


def test_unknown_directive_is_a_400_when_asked(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="unknown directive"):
        ask(client, "fake-nonsense")


def test_message_directive_strikes_when_the_model_is_served(client: openai.OpenAI) -> None:
    with pytest.raises(openai.InternalServerError):
        ask(client, content="[[fault-500]] please")
    assert ask(client, content="see [[fault-500]]") != ""


def test_rate_limit_carries_retry_after_when_told(client: openai.OpenAI) -> None:
    with pytest.raises(openai.RateLimitError) as caught:
        ask(client, "fault-429-retry-after-7")
    assert caught.value.response.headers["retry-after"] == "7"


def test_overflow_has_vllm_shape_when_told(backend: BackendThread, client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="maximum context length is 8192 tokens") as caught:
        ask(client, "fault-400-context")
    assert caught.value.param == "input_tokens"
    assert caught.value.response.json()["error"]["code"] == 400


def test_unauthorized_error_is_a_string_when_told(client: openai.OpenAI) -> None:
    with pytest.raises(openai.AuthenticationError) as caught:
        ask(client, "fault-401-string")
    assert caught.value.response.json() == {"error": "Unauthorized"}


def test_fault_ends_when_its_times_are_used_up(backend: BackendThread, client: openai.OpenAI) -> None:
    for _ in range(2):
        with pytest.raises(openai.InternalServerError):
            ask(client, "fault-503-times-2")
    assert ask(client, "fault-503-times-2") != ""


def test_client_sees_error_when_the_first_frame_is_one(client: openai.OpenAI) -> None:
    with pytest.raises(openai.APIError, match="EngineCore"):
        stream(client, "fault-error-frame")
    with pytest.raises(openai.APIError, match="EngineCore"):
        stream(client, "fault-error-frame-mid-3")


def test_stream_is_empty_when_told(client: openai.OpenAI) -> None:
    assert stream(client, "fault-empty-stream") == []
    assert ask(client, "fault-empty-answer") == ""


def test_odd_stream_reads_the_same_when_parsed(client: openai.OpenAI) -> None:
    plain = "".join(chunk.choices[0].delta.content or "" for chunk in stream(client, "fake-extra-tokens-12"))
    odd = "".join(chunk.choices[0].delta.content or "" for chunk in stream(client, "fake-odd-tokens-12"))
    merged = "".join(chunk.choices[0].delta.content or "" for chunk in stream(client, "fake-extra-merge-tokens-12"))
    assert plain.startswith('Caf\u00e9 "so" \u2028 \U0001f600\\n\t2.50')
    assert plain == odd == merged


def test_echo_returns_the_message_when_told(client: openai.OpenAI) -> None:
    assert ask(client, "fake-echo", "caf\u00e9 \U0001f600 one two") == "caf\u00e9 \U0001f600 one two"


def test_two_answers_are_equal_bytes_when_fixed(backend: BackendThread) -> None:
    body = {"model": "fake-fixed-extra", "messages": [{"role": "user", "content": "hi"}]}
    first, second = (httpx.post(f"{backend.base_url}/chat/completions", json=body).content for _ in range(2))
    assert first == second
    assert b'"x_cost" : 2.50 ,"x_exp":1E+2' in first


def test_last_returns_request_and_answer_byte_for_byte_when_asked(backend: BackendThread) -> None:
    sent = b'{ "model":"student","temperature":2.50,  "messages":[{"role":"user","content":"\\u00e9"}]}'
    answer = httpx.post(f"{backend.base_url}/chat/completions", content=sent, headers={"X-Odd-Case": "Value"})
    assert httpx.get(f"{backend.origin}/_last/body").content == sent
    assert httpx.get(f"{backend.origin}/_last/response").content == answer.content
    (entry,) = httpx.get(f"{backend.origin}/_last", params={"n": 1}).json()
    assert base64.b64decode(entry["body_base64"]) == sent
    assert ["X-Odd-Case", "Value"] in entry["headers"]
    assert entry["status"] == 200


def test_stats_see_an_abort_when_the_client_leaves_a_stream(backend: BackendThread, wait_for: Wait) -> None:
    body = {"model": "fake-tokens-1000-gap-0.05", "stream": True, "messages": [{"role": "user", "content": "hi"}]}
    with httpx.stream("POST", f"{backend.base_url}/chat/completions", json=body) as answer:
        chunks = answer.iter_raw()  # kept: an iterator that is dropped closes the connection
        next(chunks)
        wait_for(lambda: backend.state.in_flight == 1)
    wait_for(lambda: backend.state.aborted == 1)
    stats = httpx.get(f"{backend.origin}/_stats").json()
    assert (stats["in_flight"], stats["completed"], stats["aborted"]) == (0, 0, 1)
    assert stats["by_model"] == {"fake-tokens-1000-gap-0.05": 1}


def test_reset_forgets_counts_when_posted(backend: BackendThread, client: openai.OpenAI) -> None:
    ask(client)
    assert httpx.post(f"{backend.origin}/_reset").status_code == 200
    stats = httpx.get(f"{backend.origin}/_stats").json()
    assert (stats["requests"], stats["completed"], stats["by_model"]) == (0, 0, {})
    assert httpx.get(f"{backend.origin}/_last").json() == []


def test_health_and_metrics_answer_when_asked(backend: BackendThread) -> None:
    assert httpx.get(f"{backend.origin}/health").status_code == 200
    assert 'vllm:num_requests_running{model_name="student"} 0' in httpx.get(f"{backend.origin}/metrics").text


def test_key_is_required_when_one_is_set() -> None:
    body = {"model": "student", "messages": [{"role": "user", "content": "hi"}]}
    with BackendThread(api_key="secret") as backend:
        url = f"{backend.base_url}/chat/completions"
        refused = httpx.post(url, json=body)
        assert (refused.status_code, refused.json()) == (401, {"error": "Unauthorized"})
        assert httpx.post(url, json=body, headers={"authorization": "Bearer secret"}).status_code == 200
        assert httpx.get(f"{backend.origin}/health").status_code == 200


@pytest.mark.parametrize(
    ("content", "message"), [(b"{", "truncated"), (b'{"model": "student"}', "messages"), (b"[]", "object")]
)
def test_bad_body_is_a_400_when_sent(backend: BackendThread, content: bytes, message: str) -> None:
    answer = httpx.post(f"{backend.base_url}/chat/completions", content=content)
    assert answer.status_code == 400
    assert message in answer.json()["error"]["message"]


async def test_backend_dies_and_returns_when_stopped_and_started_in_process() -> None:
    async with FakeBackend() as backend, httpx.AsyncClient() as client:
        url = f"{backend.base_url}/chat/completions"
        body = {"model": "teacher", "messages": [{"role": "user", "content": "hi"}]}
        assert (await client.post(url, json=body)).status_code == 200
        hanging = asyncio.create_task(client.post(url, json={**body, "model": "fault-hang"}))
        while backend.state.in_flight == 0:  # noqa: ASYNC110 - the backend is not ours to add an event to
            await asyncio.sleep(0.005)
        await backend.stop()
        with pytest.raises(httpx.HTTPError):
            await hanging
        with pytest.raises(httpx.ConnectError):
            await client.get(f"{backend.origin}/health")
        await backend.start()
        assert (await client.get(f"{backend.origin}/health")).status_code == 200


def test_command_serves_until_terminated_when_started_as_a_process() -> None:
    command = [sys.executable, "-m", "loadtests.fake_backend", "--port", "0", "--model", "m", "--window-tokens", "77"]
    command += ["--api-key-env", "FAKE_KEY"]
    environment = {**os.environ, "FAKE_KEY": "k"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        url = next(word for word in line.split() if word.startswith("http"))
        models = httpx.get(f"{url}/models", headers={"authorization": "Bearer k"}).json()
        assert json.dumps(models).count('"max_model_len": 77') == 1
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0
