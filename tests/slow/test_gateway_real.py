"""The main job on real models: vLLM answers, llama.cpp is called in, streams flow, a client that leaves stops vLLM."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import httpx
import openai
import pytest

from router.config_file import parse
from serving.models import PreparedModel
from tests.contract.conftest import RunningGateway
from tests.slow.conftest import STUDENT_WINDOW_TOKENS

pytestmark = pytest.mark.slow

QUESTION = [{"role": "user", "content": "Name one colour of the rainbow. Answer with one word."}]
LONGER_THAN_THE_WINDOW = "The quick brown fox jumps over the lazy dog. " * (STUDENT_WINDOW_TOKENS * 105 // 1000)
"""By a twentieth: such a sentence has ten tokens."""
LOW_CONFIDENCE = {"router": {"retrieval_confidence": 0.2}}
CONFIG = """
[server]
port = 0
[student]
base_url = "{student}"
tokenizer = "{tokenizer}"
price_usd_per_1m_input_tokens = 0.02
price_usd_per_1m_output_tokens = 0.04
[teacher]
base_url = "{teacher}"
price_usd_per_1m_input_tokens = 2.5
price_usd_per_1m_output_tokens = 10.0
first_token_timeout_s = 300.0
[log]
dir = "{log}"
"""


@pytest.fixture(scope="module")
def gateway(
    student_url: str, teacher_url: str, student_model: PreparedModel, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningGateway]:
    text = CONFIG.format(
        student=student_url, teacher=teacher_url, tokenizer=student_model.path, log=tmp_path_factory.mktemp("traffic")
    )
    running = RunningGateway(parse(text), {})
    running.start()
    yield running
    running.stop()


def client_of(gateway: RunningGateway) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{gateway.origin}/v1", api_key="unused", max_retries=0, timeout=300)


def vllm_metric(student_url: str, name: str) -> float:
    text = httpx.get(student_url.removesuffix("/v1") + "/metrics", timeout=30).text
    return sum(float(line.rpartition(" ")[2]) for line in text.splitlines() if line.startswith(name + "{"))


def wait_for(condition: Callable[[], bool], limit_s: float = 60) -> None:
    deadline_s = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline_s, "the condition never became true"
        time.sleep(0.1)


def test_window_is_learned_from_the_student(gateway: RunningGateway) -> None:
    assert httpx.get(f"{gateway.origin}/readyz").json()["student"]["context_window_tokens"] == STUDENT_WINDOW_TOKENS


def test_each_model_answers_when_the_policies_choose_it(gateway: RunningGateway) -> None:
    create = client_of(gateway).chat.completions.with_raw_response.create
    by_student = create(model="auto", messages=QUESTION, max_tokens=8, temperature=0)
    by_teacher = create(model="auto", messages=QUESTION, max_tokens=8, temperature=0, extra_body=LOW_CONFIDENCE)
    assert by_student.headers["x-router-route"] == "student"
    assert by_teacher.headers["x-router-route"] == "teacher"
    assert by_teacher.headers["x-router-policy"] == "retrieval_confidence"
    for raw in (by_student, by_teacher):
        completion = raw.parse()
        assert completion.choices[0].message.content
        assert completion.usage is not None
    first, second = gateway.records()[-2:]
    assert first.cost_usd is not None and first.counterfactual_cost_usd is not None
    assert 0 < first.cost_usd < first.counterfactual_cost_usd
    assert second.cost_usd == second.counterfactual_cost_usd


@pytest.mark.parametrize("extra", [{}, LOW_CONFIDENCE])
def test_stream_is_whole_and_its_usage_recorded_but_hidden(gateway: RunningGateway, extra: dict[str, object]) -> None:
    stream = client_of(gateway).chat.completions.create(
        model="auto", messages=QUESTION, max_tokens=12, temperature=0, stream=True, extra_body=extra
    )
    chunks = list(stream)
    text = "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)
    assert text
    assert chunks[-1].choices[0].finish_reason in ("stop", "length")
    assert all(chunk.usage is None for chunk in chunks)
    record = gateway.records()[-1]
    assert record.completion == text
    assert record.usage is not None and record.usage.completion_tokens > 0
    assert record.ttft_s is not None


def test_prompt_longer_than_the_window_goes_to_the_teacher_by_exact_count(gateway: RunningGateway) -> None:
    raw = client_of(gateway).chat.completions.with_raw_response.create(
        model="auto", messages=[{"role": "user", "content": LONGER_THAN_THE_WINDOW}], max_tokens=4, temperature=0
    )
    assert raw.headers["x-router-route"] == "teacher"
    assert (raw.headers["x-router-policy"], raw.headers["x-router-reason"]) == ("long_context", "exceeds_window")


def test_students_own_refusal_of_a_long_prompt_is_a_fall_back(gateway: RunningGateway) -> None:
    raw = client_of(gateway).chat.completions.with_raw_response.create(
        model="student", messages=[{"role": "user", "content": LONGER_THAN_THE_WINDOW}], max_tokens=4, temperature=0
    )
    assert (raw.headers["x-router-route"], raw.headers["x-router-reason"]) == ("teacher", "fallback_context_overflow")


def test_clients_mistake_that_only_vllm_finds_is_passed_on(gateway: RunningGateway) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client_of(gateway).chat.completions.create(model="student", messages=QUESTION, temperature=-3)
    assert "temperature" in str(caught.value)


def test_vllm_stops_generating_when_the_client_leaves(gateway: RunningGateway, student_url: str) -> None:
    running = "vllm:num_requests_running"
    wait_for(lambda: vllm_metric(student_url, running) == 0)
    stream = client_of(gateway).chat.completions.create(
        model="student",
        messages=QUESTION,
        max_tokens=STUDENT_WINDOW_TOKENS - 100,
        stream=True,
        extra_body={"ignore_eos": True},
    )
    next(iter(stream))
    assert vllm_metric(student_url, running) == 1
    generated = vllm_metric(student_url, "vllm:generation_tokens_total")
    stream.close()
    wait_for(lambda: vllm_metric(student_url, running) == 0)
    assert vllm_metric(student_url, "vllm:generation_tokens_total") - generated < STUDENT_WINDOW_TOKENS - 200
    wait_for(lambda: gateway.records()[-1].outcome == "client_disconnected")


def test_fields_of_vllm_survive_in_both_directions(gateway: RunningGateway) -> None:
    body = {
        "model": "student", "messages": QUESTION, "max_tokens": 4, "temperature": 0, "logprobs": True,
        "top_logprobs": 3, "return_token_ids": True,
    }  # fmt: skip
    answer = gateway.post(body).json()
    assert len(answer["choices"][0]["logprobs"]["content"][0]["top_logprobs"]) == 3
    assert answer["choices"][0]["token_ids"]
    assert answer["prompt_token_ids"]
