"""The claim's client: resumable, and loud when the server is gone."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import msgspec
import pytest

from loadtests.fake_backend import BackendThread
from trainer.claim import client
from trainer.claim.client import Answered, Plan, SendingFailed, check_student, read_answers, send, wait_for_student
from trainer.claim.data import Case

CASES = [Case(f"c{n}", f"question {n}", "label") for n in range(6)]


@pytest.fixture
def backend() -> Iterator[BackendThread]:
    with BackendThread(models=("student",)) as running:
        yield running


def quiet(done: int, total: int | None, unit: str) -> None:
    """No progress."""


def test_client_asks_every_case_once_when_nothing_was_answered_before(tmp_path: Path, backend: BackendThread) -> None:
    path = tmp_path / "answers.jsonl"
    answers = asyncio.run(send(CASES, Plan(backend.base_url, "student", concurrency=3), path, quiet))
    assert set(answers) == {case.id for case in CASES}
    assert read_answers(path) == answers
    assert all(answer.completion_tokens > 0 for answer in answers.values())


def test_client_asks_only_the_rest_when_the_file_ends_in_a_torn_line(tmp_path: Path, backend: BackendThread) -> None:
    path = tmp_path / "answers.jsonl"
    kept = Answered(id="c1", text="kept")
    path.write_bytes(msgspec.json.encode(kept) + b'\n{"id":"c2","te')
    answers = asyncio.run(send(CASES, Plan(backend.base_url, "student"), path, quiet))
    assert answers["c1"].text == "kept"
    assert set(read_answers(path)) == {case.id for case in CASES}


def test_client_gives_up_when_the_server_is_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "GIVE_UP_AFTER", 1)
    with pytest.raises(ExceptionGroup) as caught:
        asyncio.run(send(CASES, Plan("http://127.0.0.1:9/v1", "student"), tmp_path / "a.jsonl", quiet))
    assert caught.group_contains(SendingFailed, match=r"127\.0\.0\.1:9")


@contextmanager
def starting_gateway(answers: list[tuple[int, str]]) -> Iterator[tuple[str, list[bytes]]]:
    """Answers with these (status, x-router-student) in turn, the last one for ever. Yields its URL and the bodies."""
    bodies: list[bytes] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            bodies.append(self.rfile.read(int(self.headers["content-length"])))
            status, student = answers[min(len(bodies), len(answers)) - 1]
            self.send_response(status)
            self.send_header("x-router-student", student)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            """Quiet."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/v1", bodies
        server.shutdown()


def test_client_waits_for_the_bundle_when_the_gateway_has_just_started() -> None:
    with starting_gateway([(503, "none"), (200, "old"), (200, "new")]) as (url, bodies):
        asyncio.run(wait_for_student(url, "new", timeout_s=30, interval_s=0))
    assert len(bodies) == 3


def test_client_says_who_serves_when_the_bundle_never_comes() -> None:
    with starting_gateway([(200, "old")]) as (url, _), pytest.raises(SendingFailed, match=r"new.*HTTP 200 by old"):
        asyncio.run(wait_for_student(url, "new", timeout_s=0, interval_s=0))


def test_answers_of_two_students_are_refused() -> None:
    answers = {name: Answered(id=name, text="x", student=name) for name in ("a", "b")}
    with pytest.raises(SendingFailed, match="'b' served, not a"):
        check_student(answers, "a", Path("test.jsonl"))
    check_student({"a": answers["a"]}, "a", Path("test.jsonl"))
