"""A teacher's endpoint that answers like vLLM, a recipe, and contexts for single stages."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest

from trainer.recipe import Recipe
from trainer.stage import StageContext

VOCABULARY = 50


def quiet(done: int, total: int | None, unit: str) -> None:
    return


def logprob(position: int, token: int) -> float:
    """A distribution that a test can predict: the most likely token at a position is the position's own number."""
    return -0.5 - ((token - position) % VOCABULARY)


class CountingServer(ThreadingHTTPServer):
    """Knows how many of the connections it has accepted it still serves."""

    def __init__(self, handler: type[BaseHTTPRequestHandler]) -> None:
        self.served = threading.Condition()
        self.open = 0
        super().__init__(("127.0.0.1", 0), handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        with self.served:
            self.open += 1
        super().process_request(request, client_address)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            with self.served:
                self.open -= 1
                self.served.notify_all()


class FakeTeacher:
    """`max_logprobs`, `window` and `failing` (status for the next requests) can be changed while it runs."""

    def __init__(self) -> None:
        self.max_logprobs = 20
        self.window = 1000
        self.token_ids = True
        self.gives_logprobs = True
        self.failing: list[int] = []
        self.die_after: int | None = None
        self.scored: list[list[int]] = []
        self.bodies: list[dict[str, Any]] = []
        self._lock = threading.Lock()
        fake = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *_: object) -> None:
                return

            def do_GET(self) -> None:
                listing = {"data": [{"id": "teacher", "max_model_len": fake.window}]}
                self._send(200, listing if self.path == "/v1/models" else {"version": "0.32.0"})

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                with fake._lock:
                    self._send(*fake.answer(self.path, body))

            def _send(self, status: int, value: object) -> None:
                content = json.dumps(value).encode()
                self.send_response(status)
                self.send_header("content-length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

        self._server = CountingServer(Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1"
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def let_go(self) -> None:
        """Wait until the requests that a client has sent and given up are answered; they would count later on."""
        httpx.get(f"{self.url}/models", trust_env=False)  # accepted behind all of them
        with self._server.served:
            assert self._server.served.wait_for(lambda: not self._server.open, timeout=20)

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def answer(self, path: str, body: dict[str, Any]) -> tuple[int, object]:
        self.bodies.append(body)
        if self.failing:
            return self.failing.pop(0), {"error": {"message": "told to fail"}}
        if body["model"] != "teacher":
            return 404, {"error": {"message": "no such model"}}
        if path.endswith("/chat/completions"):
            more = {"prompt_token_ids": [3, 4, 5]} if self.token_ids else {}
            choice = {"message": {"content": "yes"}, **({"token_ids": [6]} if self.token_ids else {})}
            return 200, {"choices": [choice], "system_fingerprint": "vllm-0.32.0-abc", **more}
        return self._score(body["prompt"], body["prompt_logprobs"])

    def _score(self, ids: list[int], k: int) -> tuple[int, object]:
        if k > self.max_logprobs:
            return 400, {"error": {"message": f"greater than max allowed: {self.max_logprobs}"}}
        if len(ids) + 1 > self.window:
            return 400, {"error": {"message": "too long"}}
        if self.die_after is not None and len(self.scored) >= self.die_after:
            return 503, {"error": {"message": "engine dead"}}
        self.scored.append(ids)
        if not self.gives_logprobs:
            return 200, {"choices": [{"text": ""}]}
        return 200, {"choices": [{"prompt_logprobs": [None, *self._entries(ids, k)]}]}

    def _entries(self, ids: list[int], k: int) -> list[dict[str, object]]:
        """Entry i is the distribution of token i; unsorted, with the actual token in addition."""
        found = []
        for position, token in enumerate(ids[1:], 1):
            top = [(position + rank) % VOCABULARY for rank in range(k)]
            listed = sorted({*top, token})
            found.append({str(each): {"logprob": logprob(position, each), "rank": 1} for each in listed})
        return found


@pytest.fixture
def teacher() -> Iterator[FakeTeacher]:
    fake = FakeTeacher()
    yield fake
    fake.stop()


@pytest.fixture
def base_model(tmp_path: Path) -> Path:
    """What the stages look at before torch: a configuration and a tokenizer's file."""
    folder = tmp_path / "base"
    folder.mkdir()
    (folder / "config.json").write_text('{"num_hidden_layers": 4}')
    (folder / "tokenizer.json").write_text('{"model": {"vocab": {"a": 0, "b": 1}}}')
    return folder


@pytest.fixture
def recipe(teacher: FakeTeacher, base_model: Path, tmp_path: Path) -> Callable[..., Recipe]:
    """Tables of the recipe, changed by keyword: recipe(train={"method": "sft"})."""

    def make(**tables: dict[str, Any]) -> Recipe:
        values: dict[str, dict[str, Any]] = {
            "export": {"log_dir": "log"},
            "teacher": {
                "base_url": teacher.url, "model": "teacher", "tokenizer": str(base_model), "top_k": 4, "concurrency": 3,
            },
            "student": {"base_model": str(base_model)},
            "evaluate": {"dataset": "x.jsonl", "sha256": "0" * 64, "provenance": "human"},
        }  # fmt: skip
        merged = {name: {**values.get(name, {}), **tables.get(name, {})} for name in {*values, *tables}}
        return Recipe.model_validate({"name": "test", **merged})

    return make


@pytest.fixture
def context(tmp_path: Path) -> Callable[..., StageContext]:
    def make(recipe: Recipe, folder: str, **inputs: Path) -> StageContext:
        path = tmp_path / folder
        path.mkdir(exist_ok=True)
        return StageContext(recipe=recipe, folder=path, inputs=inputs, summaries={}, progress=quiet)

    return make
