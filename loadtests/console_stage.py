"""A stage for the operator's console: a real gateway process with logged traffic, between two fake backends.

with Stage(folder) as stage:
    stage.traffic(200)
    ...                     # stage.origin, stage.key
"""

from __future__ import annotations

import json
import os
import random
import sys
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx

from loadtests.children import Child
from loadtests.fake_backend import BackendThread
from loadtests.systems import free_port

KEY = "operators-key-0123456789"
SECOND_KEY = "second-operators-key-0123"
CLIENT_KEY = "client-key-0123456789"
START_TIMEOUT_S = 60.0
CONFIG = """
[server]
port = {port}
probe_interval_s = 60.0

[student]
base_url = "{student_url}"
model = "student"
context_window_tokens = 8192
price_usd_per_1m_input_tokens = 0.02
price_usd_per_1m_output_tokens = 0.04

[teacher]
base_url = "{teacher_url}"
model = "teacher"
price_usd_per_1m_input_tokens = 2.5
price_usd_per_1m_output_tokens = 10.0

[[routing.policies]]
type = "long_context"

[[routing.policies]]
type = "retrieval_confidence"
escalate_below = 0.55

[[routing.policies]]
type = "long_reasoning"

[[routing.policies]]
type = "cascade"
calibrator = "{folder}/calibrator.json"
threshold = 0.4

[quality.shadow]
student_share = 0.5
teacher_share = 0.5

[[quality.graders]]
type = "regex"
pattern = "^teacher|[.].*[.]"

[log]
dir = "{folder}/traffic"
write_timeout_s = 10.0

[admin]
dir = "{folder}/admin"
watch_file = false
show_texts = {show_texts}

[auth]
keys_env = "CLIENT_KEYS"
admin_key_env = "ADMIN_KEYS"
{rest}
"""
CALIBRATOR = {
    "sha256": "5276c3a8391c71e864d4779dc858e1525f828b4ab38467158be55b6832bdebae",
    "schema": 1,
    "calibrator": {"type": "platt", "slope": 1.6, "intercept": 2.4},
    "raw": "mean_logprob", "aggregate": None, "k": 0, "student": "", "student_model_sha256": "",
    "source": "x", "note": "", "n": 100, "n_sufficient": 80, "ece": 0.01, "reliability": [],
}  # fmt: skip
"""Made up, for drafts whose logprobs are made up as well."""
QUESTIONS = (
    "Where do I change my address?",
    "Prove step by step that there are infinitely many primes, then derive a bound for the n-th one.",
    "What does error 42 mean?",
    "How long is the warranty?",
    "Compare the three plans, compute the yearly cost of each for 17 people, and explain which one pays off when.",
)
EASY = (QUESTIONS[0], QUESTIONS[2], QUESTIONS[3])
TEAMS = ("billing", "docs", "support")


class Stage:
    """A context manager: entering starts everything, leaving ends it."""

    def __init__(self, folder: Path, *, show_texts: bool = True, rest: str = "") -> None:
        """
        Args:
            rest: more of the configuration.
        """
        self.folder = folder
        self.key = KEY
        self._show_texts = show_texts
        self._rest = rest
        self._running = ExitStack()
        self.origin = ""

    def __enter__(self) -> Self:
        try:
            return self._started()
        except BaseException:
            self._running.close()
            raise

    def _started(self) -> Self:
        backends = [self._running.enter_context(BackendThread(signature=name)) for name in ("student", "teacher")]
        port = free_port()
        (self.folder / "calibrator.json").write_text(json.dumps(CALIBRATOR))
        config = self.folder / "locum.toml"
        config.write_text(
            CONFIG.format(
                port=port,
                student_url=backends[0].base_url,
                teacher_url=backends[1].base_url,
                folder=self.folder,
                show_texts=str(self._show_texts).lower(),
                rest=self._rest,
            )
        )
        self.origin = f"http://127.0.0.1:{port}"
        program = "from router.cli import main; main()"
        keys = [f"CLIENT_KEYS=acme={CLIENT_KEY}", f"ADMIN_KEYS=ann={KEY},bob={SECOND_KEY}"]
        command = ["env", *keys, sys.executable, "-c", program, "serve", "-c", str(config)]
        gateway = Child(
            "the gateway",
            command,
            cores=os.sched_getaffinity(0),
            ready_url=f"{self.origin}/healthz",
            log=self.folder / "gateway.log",
            ready_timeout_s=START_TIMEOUT_S,
        )
        self._running.enter_context(gateway)
        self._client = self._running.enter_context(httpx.Client(base_url=self.origin, timeout=60.0, trust_env=False))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._running.close()

    def ask(self, question: str, **members: Any) -> httpx.Response:
        """One chat request of a client."""
        body = {"model": "auto", "messages": [{"role": "user", "content": question}], "max_tokens": 60, **members}
        return self._client.post("/v1/chat/completions", json=body, headers={"authorization": f"Bearer {CLIENT_KEY}"})

    def admin(self, method: str, path: str, *, key: str = KEY, **options: Any) -> httpx.Response:
        """One request of an operator's script."""
        return self._client.request(method, f"/admin/{path}", headers={"authorization": f"Bearer {key}"}, **options)

    def metrics(self) -> str:
        return self._client.get("/metrics").text

    def judge(self, decision_id: str, score: float) -> httpx.Response:
        """A client's feedback."""
        return self._client.post(
            "/v1/feedback",
            json={"decision_id": decision_id, "score": score, "source": "user"},
            headers={"authorization": f"Bearer {CLIENT_KEY}"},
        )

    def traffic(self, requests: int, *, seed: int = 1) -> None:
        """Requests of all kinds, the same for a seed: retrieval, reasoning, sure and unsure drafts, failures."""
        chance = random.Random(seed)  # noqa: S311 - reproducible traffic, no secret
        for number in range(requests):
            logprob = round(chance.uniform(0.02, 0.6) if chance.random() < 0.7 else chance.uniform(0.6, 2.5), 2)
            text = chance.choice(QUESTIONS if chance.random() < 0.25 else EASY)
            directive = f"[[fake-tokens-{chance.randint(10, 60)}-logprob-{logprob}-delay-{chance.random() / 50:.3f}]]"
            if number % 40 == 39:
                directive = "[[fault-500]]"
            router: dict[str, Any] = {"tags": {"team": chance.choice(TEAMS)}}
            if chance.random() < 0.4:
                score = round(min(1.0, 0.35 + chance.random()), 2)
                router["retrieved_chunks"] = [{"id": "c1", "text": "A piece of the manual.", "score": score}]
            answer = self.ask(f"{directive} {text}", router=router, stream=number % 50 == 0)
            if answer.status_code == 200 and chance.random() < 0.5:
                good = chance.random() < (0.95 if answer.headers["x-router-route"] == "teacher" else 0.88)
                self.judge(answer.headers["x-router-decision-id"], 1.0 if good else 0.0)

    def policy(self) -> dict[str, Any]:
        """The document in force, with its version."""
        found: dict[str, Any] = json.loads(self.admin("GET", "policy").content)
        return found
