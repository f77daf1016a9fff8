"""Promotion and rollback on real vLLM behind the real gateway, while clients send plain requests and streams."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from policies.traffic.reader import decisions
from serving.registry import Registry
from serving.switch_state import read_state
from tests.slow.conftest import OWN_CORE, core, free_port

pytestmark = [pytest.mark.slow, pytest.mark.timeout(2400)]

LOCUM = (sys.executable, "-c", "from router.cli import main; main(prog_name='locum')")
START_TIMEOUT_S = 600.0
CLIENTS = 4
PROMPTS = ("Name three colours.", "What is the capital of France?", "Write one sentence about the sea.")
MAX_TOKENS = 24
CONFIG = """
[server]
port = {port}
[student]
registry = "{registry}"
first_token_timeout_s = 300.0
idle_timeout_s = 300.0
[student.vllm]
port = {vllm}
second_port = {second}
python = "{python}"
dtype = "float32"
context_window_tokens = 512
cpu_omp_threads_bind = "{core}"
log_file = "{log}"
[teacher]
base_url = "http://127.0.0.1:9/v1"
[routing]
fall_back_when_student_forced = false
[log]
dir = "{traffic}"
"""
"""There is no teacher and no falling back: a request that a student does not answer fails."""


@dataclass(frozen=True)
class Answer:
    student: str
    decision_id: str
    prompt: str
    text: str
    started_s: float
    ended_s: float


@dataclass
class Load:
    """Clients that ask without a pause; every second one as a stream."""

    url: str
    answers: list[Answer] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    stop: threading.Event = field(default_factory=threading.Event)
    threads: list[threading.Thread] = field(default_factory=list)

    def __enter__(self) -> Load:
        self.threads = [threading.Thread(target=self._run, args=(number,)) for number in range(CLIENTS)]
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop.set()
        for thread in self.threads:
            thread.join()

    def _run(self, number: int) -> None:
        client = openai.OpenAI(base_url=self.url, api_key="unused", max_retries=0, timeout=300)
        turn = number
        while not self.stop.is_set():
            try:
                self.answers.append(ask(client, PROMPTS[turn % len(PROMPTS)], stream=number % 2 == 1))
            except openai.OpenAIError as exc:
                self.failures.append(f"{time.monotonic():.1f}: {exc!r}")
            turn += 1

    def wait_for_answers_of(self, student: str, count: int = CLIENTS * 2) -> None:
        seen = sum(answer.student == student for answer in self.answers)
        deadline_s = time.monotonic() + START_TIMEOUT_S
        while sum(answer.student == student for answer in self.answers) < seen + count:
            assert time.monotonic() < deadline_s, (student, self.failures[:3])
            time.sleep(0.1)


def ask(client: openai.OpenAI, prompt: str, *, stream: bool) -> Answer:
    create: Any = client.chat.completions.with_raw_response.create
    messages = [{"role": "user", "content": prompt}]
    started_s = time.monotonic()
    raw = create(model="student", messages=messages, max_tokens=MAX_TOKENS, temperature=0, stream=stream)
    if stream:
        chunks = list(raw.parse())
        text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
        assert chunks[-1].choices[0].finish_reason in ("stop", "length")
    else:
        text = raw.parse().choices[0].message.content
    headers = raw.headers
    student, decision = headers.get("x-router-student", ""), headers.get("x-router-decision-id", "")
    return Answer(student, decision, prompt, text, started_s, time.monotonic())


@pytest.fixture
def gateway(two_bundles: tuple[Registry, str, str], serving_python: str, tmp_path: Path) -> Iterator[str]:
    """The base URL of `locum serve`; the registry has no current bundle yet."""
    port = free_port()
    config = tmp_path / "locum.toml"
    config.write_text(
        CONFIG.format(
            port=port,
            registry=two_bundles[0].root,
            vllm=free_port(),
            second=free_port(),
            python=serving_python,
            core=core(OWN_CORE),
            log=tmp_path / "vllm.log",
            traffic=tmp_path / "traffic",
        )
    )
    with (tmp_path / "gateway.log").open("wb") as log:
        process = subprocess.Popen([*LOCUM, "serve", "-c", str(config)], stderr=log)
        try:
            wait_until_alive(process, port)
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            process.terminate()
            code = process.wait(120)
    assert code == 0, (tmp_path / "gateway.log").read_text()[-2000:]


def wait_until_alive(process: subprocess.Popen[bytes], port: int) -> None:
    deadline_s = time.monotonic() + 60
    while True:
        assert process.poll() is None, "the gateway did not start"
        assert time.monotonic() < deadline_s
        try:
            if httpx.get(f"http://127.0.0.1:{port}/healthz", trust_env=False).status_code == 200:
                return
        except httpx.HTTPError:
            time.sleep(0.1)


def locum_student(config: Path, *arguments: str) -> str:
    done = subprocess.run(
        [*LOCUM, "student", arguments[0], "-c", str(config), *arguments[1:], "--wait"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stderr


def recorded(registry: Registry) -> dict[str, str]:
    """What the student that serves says by itself, prompt -> text."""
    state = read_state(registry.root)
    assert state is not None
    assert state.base_url is not None
    client = openai.OpenAI(base_url=state.base_url, api_key="unused", timeout=300)
    return {prompt: ask(client, prompt, stream=False).text for prompt in PROMPTS}


def test_no_request_fails_or_mixes_students_when_bundles_are_promoted_and_rolled_back_under_load(
    two_bundles: tuple[Registry, str, str], gateway: str, tmp_path: Path
) -> None:
    registry, whole, pruned = two_bundles
    config = tmp_path / "locum.toml"
    locum_student(config, "promote", whole)
    expected = {whole: recorded(registry)}
    with Load(gateway) as load:
        load.wait_for_answers_of(whole)
        locum_student(config, "promote", pruned)
        expected[pruned] = recorded(registry)
        load.wait_for_answers_of(pruned)
        locum_student(config, "rollback", "--reason", "the test says so")
        load.wait_for_answers_of(whole)
        tuned = registry.derive(whole, calibrator=None, cascade_threshold=0.5).bundle_id
        expected[tuned] = expected[whole]
        locum_student(config, "promote", tuned)
        load.wait_for_answers_of(tuned)
    assert load.failures == []
    assert all(expected[whole][prompt] != expected[pruned][prompt] for prompt in PROMPTS)
    wrong = [answer for answer in load.answers if answer.text != expected[answer.student][answer.prompt]]
    assert wrong == []
    order = sorted(load.answers, key=lambda answer: answer.started_s)
    seen = [answer.student for answer in order]
    assert list(dict.fromkeys(seen)) == [whole, pruned, tuned]
    assert swapped_under_load(load.answers, whole, pruned)
    records = {record.decision_id: record for record in decisions(tmp_path / "traffic")}
    for answer in load.answers:
        assert records[answer.decision_id].student == answer.student
    print(f"{len(load.answers)} answers: " + ", ".join(f"{name} {seen.count(name)}" for name in expected))


def swapped_under_load(answers: list[Answer], old: str, new: str) -> bool:
    """Whether an answer of the old student was still running when the new one's first answer began."""
    began_s = min(answer.started_s for answer in answers if answer.student == new)
    return any(answer.student == old and answer.started_s < began_s < answer.ended_s for answer in answers)
