"""A traffic log, a recipe and a judge to run the data stages on."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from zlib import crc32

import msgspec
import numpy as np
import pyarrow.parquet as pq
import pytest

from policies.base import RouteDecision
from policies.durable import sha256_of
from policies.record import AnyRecord, DecisionRecord, FeedbackRecord
from policies.traffic.segments import SUFFIX, frame
from trainer.recipe import Recipe
from trainer.similarity.texts import words
from trainer.stage import Progress, Stage, StageContext, Summary
from trainer.tables import DROPPED, Example, ExampleWriter, read_examples


def quiet(done: int, total: int | None, unit: str) -> None:
    return


@pytest.fixture
def record() -> Callable[..., DecisionRecord]:
    """Makes a record that is exported as it is, but for what is given."""

    def make(number: int, text: str | None = None, answer: str = "An answer.", **fields: Any) -> DecisionRecord:
        messages = fields.pop("messages", [{"role": "user", "content": text or f"Question {number} about the invoice"}])
        body = {"model": "auto", "messages": messages, **fields.pop("body", {})}
        values: dict[str, Any] = {
            "schema": 1, "decision_id": f"d{number:06}", "created_s": 1000.0 + number, "endpoint": "/v1/chat/completions",
            "stream": False, "requested_model": "auto", "decision": RouteDecision(route="teacher", reason="fits"),
            "route": "teacher", "reason": "fits", "status": 200, "outcome": "ok", "finish_reason": "stop",
            "student": "student", "teacher": "teacher-1", "latency_s": 1.0, "overhead_s": 0.001, "capture": "full",
            "distillation": "allowed", "request": json.dumps(body), "completion": answer, "backend_fingerprint": "fp1",
        }  # fmt: skip
        return DecisionRecord(**{**values, **fields})

    return make


@pytest.fixture
def feedback() -> Callable[..., FeedbackRecord]:
    def make(number: int, **fields: Any) -> FeedbackRecord:
        return FeedbackRecord(schema=1, decision_id=f"d{number:06}", created_s=5000.0, **fields)

    return make


@pytest.fixture
def write_log(tmp_path: Path) -> Callable[..., Path]:
    def write(records: Sequence[AnyRecord], name: str = "a") -> Path:
        folder = tmp_path / "traffic"
        folder.mkdir(exist_ok=True)
        data = b"".join(frame(msgspec.json.encode(each)) for each in records)
        (folder / f"{name}{SUFFIX}").write_bytes(data)
        return folder

    return write


@pytest.fixture
def evaluation_set(tmp_path: Path) -> Callable[..., Path]:
    def write(texts: Sequence[str] = ("Is the moon made of cheese, and who says so?",)) -> Path:
        path = tmp_path / "evaluation.jsonl"
        lines = [
            json.dumps({"id": f"e{i}", "messages": [{"role": "user", "content": text}], "label": "x", "category": "c"})
            for i, text in enumerate(texts)
        ]
        path.write_text("\n".join(lines) + "\n")
        return path

    return write


@pytest.fixture
def tables(tmp_path: Path, evaluation_set: Callable[..., Path]) -> Callable[..., dict[str, Any]]:
    """The tables of a recipe that needs no encoder; arguments change or add tables."""

    def make(**changes: dict[str, Any] | str) -> dict[str, Any]:
        dataset = tmp_path / "evaluation.jsonl"
        if not dataset.exists():
            evaluation_set()
        values: dict[str, Any] = {
            "name": "test",
            "work_dir": str(tmp_path / "runs"),
            "export": {"log_dir": str(tmp_path / "traffic")},
            "dedupe": {"cosine": 1},
            "decontaminate": {"cosine": 1},
            "teacher": {"base_url": "http://127.0.0.1:9/v1", "model": "t"},
            "student": {"base_model": str(tmp_path / "base")},
            "evaluate": {"dataset": str(dataset), "sha256": sha256_of(dataset), "provenance": "human"},
            "bundle": {"registry": str(tmp_path / "students")},
        }
        for name, change in changes.items():
            values[name] = {**values.get(name, {}), **change} if isinstance(change, dict) else change
        return values

    return make


@pytest.fixture
def recipe(tables: Callable[..., dict[str, Any]]) -> Callable[..., Recipe]:
    return lambda **changes: Recipe.model_validate(tables(**changes))


@pytest.fixture
def example() -> Callable[..., Example]:
    def make(number: int, text: str | None = None, answer: str = "An answer.", **fields: Any) -> Example:
        messages = fields.pop("messages", [{"role": "user", "content": text or f"Question {number}"}])
        values: dict[str, Any] = {
            "decision_id": f"d{number:06}", "created_s": 1000.0 + number, "tenant": "default", "route": "teacher",
            "teacher": "teacher-1", "fingerprint": "fp1", "distillation": "allowed", "messages": json.dumps(messages),
            "completion": answer, "finish_reason": "stop",
        }  # fmt: skip
        return Example(**{**values, **fields})

    return make


class Result:
    """What a stage left."""

    def __init__(self, folder: Path, summary: Summary) -> None:
        self.folder = folder
        self.summary = summary

    def kept(self, name: str = "examples.parquet") -> list[Example]:
        return list(read_examples(self.folder / name))

    def ids(self, name: str = "examples.parquet") -> list[int]:
        return [int(each.decision_id[1:]) for each in self.kept(name)]

    def dropped(self) -> dict[int, str]:
        rows = pq.read_table(self.folder / DROPPED).to_pylist()
        return {int(each["decision_id"][1:]): each["cause"] for each in rows}


@pytest.fixture
def run_stage(tmp_path: Path) -> Callable[..., Result]:
    """Runs one stage on examples, as the pipeline would."""

    def run(
        stage: Stage,
        recipe: Recipe,
        examples: Sequence[Example],
        summary: Summary | None = None,
        progress: Progress = quiet,
    ) -> Result:
        need = stage.needs[0]
        source, target = tmp_path / "in" / need, tmp_path / "out" / stage.name
        source.mkdir(parents=True, exist_ok=True)
        target.mkdir(parents=True, exist_ok=True)
        with ExampleWriter(source / "examples.parquet") as writer:
            for each in examples:
                writer.keep(each)
        context = StageContext(
            recipe=recipe, folder=target, inputs={need: source}, summaries={need: summary or {}}, progress=progress
        )
        return Result(target, stage.run(context))

    return run


def bag_of_words(texts: Path, out: Path, progress: Progress) -> int:
    """An embedding whose cosine is the overlap of words: near texts are near."""
    rows = []
    for text in pq.read_table(texts).column("text").to_pylist():
        vector = np.zeros(512, dtype=np.float32)
        for word in words(text):
            vector[crc32(word.encode()) % 512] += 1.0
        rows.append(vector / max(float(np.linalg.norm(vector)), 1e-9))
    np.stack(rows).astype(np.float32).tofile(out)
    return 512


@pytest.fixture
def embed() -> Callable[[Path, Path, Progress], int]:
    return bag_of_words


class FakeJudge:
    """An OpenAI endpoint whose answer a test decides from the request's body."""

    def __init__(self) -> None:
        self.bodies: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.answer: Callable[[dict[str, Any]], str | int] = lambda body: "5"
        """A text, or the status of an error."""
        self.gate = threading.Semaphore(1_000_000)
        """Every answer takes one; a test puts in another to make the judge fall silent after some answers."""
        judge = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                judge.gate.acquire()
                judge.bodies.append(body)
                judge.headers.append({key.lower(): value for key, value in self.headers.items()})
                found = judge.answer(body)
                status = found if isinstance(found, int) else 200
                data = json.dumps({"choices": [{"message": {"content": found}}]}).encode()
                self.send_response(status)
                self.send_header("content-length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *args: object) -> None:
                return

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        self.base_url = f"http://127.0.0.1:{self.server.server_address[1]}/v1"


@pytest.fixture
def judge() -> Iterator[FakeJudge]:
    fake = FakeJudge()
    yield fake
    fake.server.shutdown()
    fake.server.server_close()
