"""The student on real vLLM: its own parser takes our arguments, and it answers with its window, template and tokenizer."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import httpx
import pytest

from serving.launch import VllmBuild, clean_environment, detect_build, vllm_arguments
from serving.options import VllmOptions
from tests.slow.conftest import STUDENT_WINDOW_TOKENS

pytestmark = pytest.mark.slow

ANY_FOLDER = str(Path(__file__).parent)
"""The parser asks only that the model is a folder."""

SETTINGS: dict[str, tuple[str, dict[str, Any]]] = {
    "cpu": ("cpu", {"context_window_tokens": 2048, "cpu_omp_threads_bind": "0"}),
    "gpu defaults": ("gpu", {}),
    "awq": ("gpu", {"quantization": "awq_marlin", "gpu_memory_utilization": 0.85, "dtype": "float16"}),
    "awq without marlin": ("gpu", {"quantization": "awq", "dtype": "float16"}),
    "gptq": ("gpu", {"quantization": "gptq_marlin", "max_num_seqs": 128, "enable_prefix_caching": True}),
    "gptq without marlin": ("gpu", {"quantization": "gptq"}),
    "fp8": ("gpu", {"quantization": "fp8", "tensor_parallel_size": 2, "enable_prefix_caching": False}),
    "w8a8": ("gpu", {"quantization": "compressed-tensors", "max_logprobs": 5, "enforce_eager": True}),
    "extra": ("gpu", {"extra_args": ["--max-num-batched-tokens", "4096"], "shutdown_timeout_s": 7.0}),
}


@pytest.fixture(scope="module")
def parsed(serving_python: str) -> dict[str, dict[str, Any]]:
    """What vLLM's own parser makes of each setting; one start of its interpreter for all."""
    argvs = []
    for flavour, options in SETTINGS.values():
        vllm = VllmOptions.model_validate({"model": ANY_FOLDER, "port": 8123, **options})
        argvs.append(vllm_arguments(vllm, "cpu" if flavour == "cpu" else "gpu"))
    script = Path(__file__).with_name("vllm_parser.py")
    done = subprocess.run(
        [serving_python, str(script)],
        input=json.dumps(argvs),
        env=clean_environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    line = next(line for line in done.stdout.splitlines() if line.startswith("PARSED "))
    return dict(zip(SETTINGS, json.loads(line.removeprefix("PARSED ")), strict=True))


@pytest.mark.parametrize("name", SETTINGS)
def test_vllms_parser_reads_our_arguments_as_meant(parsed: dict[str, dict[str, Any]], name: str) -> None:
    flavour, options = SETTINGS[name]
    seen = parsed[name]
    assert (seen["model"], seen["served_model_name"], seen["host"], seen["port"]) == (
        ANY_FOLDER,
        ["student"],
        "127.0.0.1",
        8123,
    )
    assert seen["api_key"] is None
    assert seen["trust_remote_code"] is False
    assert seen["max_model_len"] == options.get("context_window_tokens")
    assert seen["quantization"] == options.get("quantization")
    assert seen["dtype"] == options.get("dtype", "auto")
    assert seen["tensor_parallel_size"] == options.get("tensor_parallel_size", 1)
    assert seen["max_logprobs"] == options.get("max_logprobs", 20)
    assert seen["enforce_eager"] is options.get("enforce_eager", flavour == "cpu")
    assert seen["shutdown_timeout"] == options.get("shutdown_timeout_s", 30)
    for key in ("gpu_memory_utilization", "max_num_seqs", "enable_prefix_caching"):
        if key in options:
            assert seen[key] == options[key]
    if name == "extra":
        assert seen["max_num_batched_tokens"] == 4096


def test_detection_finds_the_build_without_importing_it(serving_python: str) -> None:
    build = detect_build(serving_python)
    assert isinstance(build, VllmBuild)
    assert build.version[0].isdigit()


def test_student_answers_on_vllm_with_its_window_and_template(student_url: str) -> None:
    with httpx.Client(base_url=student_url, timeout=120, trust_env=False) as client:
        models = client.get("/models").json()["data"]
        assert [(model["id"], model["max_model_len"]) for model in models] == [("student", STUDENT_WINDOW_TOKENS)]
        body = {"model": "student", "messages": [{"role": "user", "content": "What is water made of?"}]}
        answer = client.post("/chat/completions", json={**body, "max_tokens": 40, "temperature": 0}).json()
    choice = answer["choices"][0]
    assert "hydrogen" in choice["message"]["content"].lower()
    assert "<|im_" not in choice["message"]["content"]
    # 20 tokens of ChatML's default system prompt and turns around the question.
    assert 30 <= answer["usage"]["prompt_tokens"] <= 45


def test_students_tokenizer_splits_digits_and_ends_turns(student_url: str) -> None:
    root = student_url.removesuffix("/v1")
    body = {"model": "student", "prompt": "a 2026", "add_special_tokens": False, "return_token_strs": True}
    strings = httpx.post(f"{root}/tokenize", json=body, timeout=60, trust_env=False).json()["token_strs"]
    assert [text for text in strings if any(sign.isdigit() for sign in text)] == ["2", "0", "2", "6"]
    with httpx.Client(base_url=student_url, timeout=120, trust_env=False) as client:
        endings = []
        for question in ("What is 2+2?", "Name the largest planet."):
            body = {"model": "student", "messages": [{"role": "user", "content": question}], "max_tokens": 100}
            answer = client.post("/chat/completions", json={**body, "temperature": 0}).json()
            endings.append(answer["choices"][0]["finish_reason"])
    # A small model may ramble on; without the right end token it always would.
    assert "stop" in endings


def test_teacher_answers_plain_and_as_a_stream_with_usage(teacher_url: str) -> None:
    body = {"model": "teacher", "messages": [{"role": "user", "content": "What is 17*3? Only the number."}]}
    with httpx.Client(base_url=teacher_url, timeout=300, trust_env=False) as client:
        plain = client.post("/chat/completions", json={**body, "max_tokens": 10, "temperature": 0}).json()
        options = {"stream": True, "stream_options": {"include_usage": True}, "max_tokens": 10, "temperature": 0}
        lines = client.post("/chat/completions", json={**body, **options}).text.split("\n\n")
    assert "51" in plain["choices"][0]["message"]["content"]
    events = [line.removeprefix("data: ") for line in lines if line]
    assert events[-1] == "[DONE]"
    assert json.loads(events[-2])["usage"]["completion_tokens"] == plain["usage"]["completion_tokens"]
