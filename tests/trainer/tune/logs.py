"""Traffic logs with labelled requests for `locum tune`, written as the gateway writes them."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import msgspec
from click.testing import CliRunner, Result

from policies.base import RequestFeatures, RouteDecision
from policies.record import SCHEMA_VERSION, DecisionRecord, FeedbackRecord, encode
from policies.traffic.segments import frame
from router.cli import main
from router.segments import Segment
from serving.bundles import read_manifest, write_bundle
from serving.registry import Registry
from tests.serving.bundles import build

DECISION = RouteDecision(route="student", reason="default", policy="default", version="v1")

FEATURES = RequestFeatures(prompt_bytes=1, message_count=1, approx_prompt_tokens=1, requested_output_tokens=1)

SYSTEM = "Name the intent."


class Log:
    """A traffic folder, filled through the gateway's own writer."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._segment = Segment(folder, 64 * 1024)
        self._segment.prepare()
        self._next = 0

    def answered(self, prompt: str, answer: str, *, route: str, label: str | None = None, **fields: Any) -> str:
        """One record, with feedback when it has a label; returns its id."""
        self._next += 1
        decision_id = f"r-{self._next:05d}"
        messages = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": prompt}]
        record = DecisionRecord(
            **{
                "schema": SCHEMA_VERSION, "decision_id": decision_id, "created_s": 1000.0 + self._next,
                "endpoint": "/v1/chat/completions", "stream": False, "requested_model": "auto", "decision": DECISION,
                "route": route, "reason": "default", "status": 200, "outcome": "ok", "finish_reason": "stop",
                "student": "s-0", "teacher": "t", "latency_s": 0.1, "overhead_s": 0.001, "capture": "full",
                "request": json.dumps({"model": "auto", "messages": messages}), "completion": answer, **fields,
            }
        )  # fmt: skip
        self._write(encode(record))
        if label is not None:
            self.feedback(decision_id, label=label)
        return decision_id

    def feedback(self, decision_id: str, **fields: Any) -> None:
        self._write(encode(FeedbackRecord(schema=1, decision_id=decision_id, created_s=9e3, source="human", **fields)))

    def _write(self, payload: bytes) -> None:
        self._segment.write(frame(payload))

    def close(self) -> None:
        self._segment.close()


def fill(log: Log, n: int = 200, *, student: str = "s-0", pairs: bool = True, start: int = 0, **fields: Any) -> None:
    """Labelled requests: the student errs on a fifth, with lower logprobs; the teacher on a few others."""
    generator = random.Random(n + start)
    for i in range(start, start + n):
        wrong = i % 5 == 0
        logprob = -generator.uniform(0.6, 3.0) if wrong else -generator.uniform(0.01, 1.0)
        prompt, label = f"question {i}", f"intent_{i % 7}"
        answer = "something else" if wrong else label
        log.answered(prompt, answer, route="student", label=label, mean_logprob=logprob, student=student, **fields)
        if pairs:
            log.answered(prompt, "no idea" if i % 20 == 3 else label, route="teacher", student=student, **fields)


def run(log: Log, *arguments: str) -> Result:
    return CliRunner().invoke(main, ["tune", str(log.folder), *arguments], catch_exceptions=False)


def run_json(log: Log, *arguments: str) -> dict[str, Any]:
    result = run(log, *arguments, "--json")
    assert result.exit_code == 0, result.output
    decoded: dict[str, Any] = json.loads(result.stdout)
    return decoded


def sealed_set(path: Path, prompts: list[str]) -> Path:
    lines = [
        {"id": str(i), "messages": [{"role": "user", "content": prompt}], "label": "x"}
        for i, prompt in enumerate(prompts)
    ]  # fmt: skip
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def registry_of(tmp_path: Path, **manifest: Any) -> tuple[Registry, str]:
    registry = Registry(tmp_path / "students")
    built = tmp_path / "built"
    bundle = build(built)
    write_bundle(built, bundle, msgspec.structs.replace(read_manifest(built), **manifest))
    bundle = registry.add(built)
    registry.promote(bundle.bundle_id)
    return registry, bundle.bundle_id
