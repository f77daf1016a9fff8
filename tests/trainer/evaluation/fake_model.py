"""A scripted OpenAI endpoint on a real socket: answers by a function, logprobs, token ids, faults when told."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from trainer.recipe import Endpoint, Recipe
from trainer.stage import Progress


@dataclass
class Script:
    """What the model says: text and mean logprob of its tokens, for the last user message."""

    answer: Callable[[str], tuple[str, float]]
    token_logprob: float = -0.1
    """Of every echoed or scored prompt token."""
    refuse_unknown: bool = False
    """Answers 400 to options that plain OpenAI does not have."""
    fail_after: int | None = None
    """Chat requests that are answered; all later ones get 503."""
    chats: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)


def chat_answer(script: Script, body: dict[str, Any]) -> dict[str, Any]:
    text, mean = script.answer(body["messages"][-1]["content"])
    tokens = [text[start : start + 4] for start in range(0, len(text), 4)]
    entries = [{"token": each, "logprob": mean, "bytes": list(each.encode())} for each in tokens]
    entries.append({"token": "<|im_end|>", "logprob": -9.0, "bytes": list(b"<|im_end|>")})
    ids = [ord(each[0]) for each in tokens] + [2]
    choice: dict[str, Any] = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
    choice["logprobs"] = {"content": entries} if body.get("logprobs") else None
    if body.get("return_token_ids"):
        choice["token_ids"] = ids
    return {
        "choices": [choice],
        "usage": {"prompt_tokens": 5, "completion_tokens": len(ids)},
        "prompt_token_ids": [1, 5, 9] if body.get("return_token_ids") else None,
    }


def completion_answer(script: Script, body: dict[str, Any]) -> dict[str, Any]:
    if isinstance(body["prompt"], list):
        scored = [None] + [{str(each): {"logprob": script.token_logprob}} for each in body["prompt"][1:]]
        return {"choices": [{"text": "x", "prompt_logprobs": scored}]}
    # Every character is a token; an option that contains "right" is likely.
    prompt = body["prompt"]
    each = script.token_logprob if "right" in prompt.rpartition("Answer:")[2] else -3.0
    logprobs = [None, *[each] * (len(prompt) - 1), -0.5]
    return {"choices": [{"text": prompt + "x", "logprobs": {
        "text_offset": list(range(len(prompt) + 1)), "token_logprobs": logprobs, "tokens": [*prompt, "x"]}}]}  # fmt: skip


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = 65_536  # one packet an answer
    script: Script

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        script = self.script
        if script.refuse_unknown and "return_token_ids" in body:
            self._send(400, {"error": {"message": "Unrecognized request argument supplied: return_token_ids"}})
        elif self.path.endswith("/chat/completions"):
            script.headers.append({name.lower(): value for name, value in self.headers.items()})
            script.chats.append(body)
            if script.fail_after is not None and len(script.chats) > script.fail_after:
                self._send(503, {"error": {"message": "overloaded"}})
            else:
                self._send(200, chat_answer(script, body))
        else:
            self._send(200, completion_answer(script, body))

    def _send(self, status: int, answer: dict[str, Any]) -> None:
        data = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: Any) -> None:
        pass


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that go away in the middle are part of the tests."""


@contextlib.contextmanager
def running(script: Script) -> Iterator[Endpoint]:
    server = Server(("127.0.0.1", 0), type("Scripted", (Handler,), {"script": script}))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield Endpoint(base_url=f"http://127.0.0.1:{server.server_port}/v1", model="fake", concurrency=4, timeout_s=10)
    finally:
        server.shutdown()
        server.server_close()


def serving(scripts: dict[str, Script]) -> Any:
    """A stand-in for launching vLLM: the script is chosen by the folder's own name file."""

    @contextlib.asynccontextmanager
    async def serve(model: Path, recipe: Recipe, name: str, progress: Progress) -> AsyncIterator[Endpoint]:
        with running(scripts[(model / "name.txt").read_text()]) as endpoint:
            yield endpoint

    return serve
