"""A student whose answers a test writes: texts, logprobs with alternatives, calls, times and failures."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any


@dataclass
class Says:
    """One answer."""

    text: str | None = "fine"
    logprob: float = -0.1
    """Of every token; the alternatives have it and 2 less."""
    finish_reason: str = "stop"
    reasoning: str = ""
    calls: Sequence[tuple[str, str]] = ()
    delay_s: float = 0.0
    gap_s: float = 0.0
    """Between the events of a stream; without one they come in one piece."""
    status: int = 200

    @property
    def tokens(self) -> list[str]:
        words = (self.text or "").split(" ")
        return [word if not index else f" {word}" for index, word in enumerate(words) if self.text]


@dataclass
class Student:
    """The last answer of `script` goes on for ever."""

    script: list[Says] = field(default_factory=lambda: [Says()])
    received: list[dict[str, Any]] = field(default_factory=list)
    base_url: str = ""

    def next(self, body: dict[str, Any]) -> Says:
        self.received.append(body)
        return self.script[min(len(self.received), len(self.script)) - 1]


def _logprobs(body: dict[str, Any], says: Says, tokens: Sequence[str]) -> dict[str, Any] | None:
    if not body.get("logprobs"):
        return None
    top = [
        {"token": "a", "logprob": says.logprob - 2.0 * n, "bytes": [97]} for n in range(body.get("top_logprobs") or 0)
    ]
    return {
        "content": [
            {"token": each, "logprob": says.logprob, "bytes": list(each.encode()), "top_logprobs": top}
            for each in tokens
        ]
    }


def _calls(says: Says) -> list[dict[str, Any]]:
    return [
        {"index": index, "id": f"call-{index}", "type": "function", "function": {"name": name, "arguments": arguments}}
        for index, (name, arguments) in enumerate(says.calls)
    ]


def _usage(says: Says) -> dict[str, int]:
    count = len(says.tokens)
    return {"prompt_tokens": 10, "completion_tokens": count, "total_tokens": 10 + count}


def _plain(body: dict[str, Any], says: Says) -> bytes:
    message: dict[str, Any] = {"role": "assistant", "content": says.text, "refusal": None}
    if says.reasoning:
        message["reasoning_content"] = says.reasoning
    if says.calls:
        message["tool_calls"] = _calls(says)
    choice = {"index": 0, "message": message, "logprobs": _logprobs(body, says, says.tokens),
              "finish_reason": says.finish_reason}  # fmt: skip
    answer = {"id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": body["model"],
              "choices": [choice], "usage": _usage(says)}  # fmt: skip
    return json.dumps(answer).encode()


def _events(body: dict[str, Any], says: Says) -> Iterator[bytes]:
    def event(delta: dict[str, Any], tokens: Sequence[str] = (), finish: str | None = None) -> bytes:
        choice = {"index": 0, "delta": delta, "logprobs": _logprobs(body, says, tokens) if tokens else None,
                  "finish_reason": finish}  # fmt: skip
        chunk = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": body["model"],
                 "choices": [choice]}  # fmt: skip
        return b"data: " + json.dumps(chunk).encode() + b"\n\n"

    yield event({"role": "assistant", "content": ""})
    if says.reasoning:
        yield event({"reasoning_content": says.reasoning})
    for token in says.tokens:
        yield event({"content": token}, [token])
    for call in _calls(says):
        yield event({"tool_calls": [call]})
    yield event({}, finish=says.finish_reason)
    if (body.get("stream_options") or {}).get("include_usage"):
        last = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": body["model"],
                "choices": [], "usage": _usage(says)}  # fmt: skip
        yield b"data: " + json.dumps(last).encode() + b"\n\n"
    yield b"data: [DONE]\n\n"


@contextmanager
def scripted(*script: Says) -> Iterator[Student]:
    """A student on a socket of its own."""
    student = Student(list(script) or [Says()])

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self._send(200, [b'{"object":"list","data":[]}'])

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            says = student.next(body)
            time.sleep(says.delay_s)
            if says.status != 200:
                self._send(says.status, [b'{"error":{"message":"planted"}}'])
            elif body.get("stream"):
                self._send(200, list(_events(body, says)), "text/event-stream", says.gap_s)
            else:
                self._send(200, [_plain(body, says)])

        def _send(
            self, status: int, content: Sequence[bytes], kind: str = "application/json", gap_s: float = 0.0
        ) -> None:
            self.send_response(status)
            self.send_header("content-type", kind)
            self.send_header("content-length", str(sum(map(len, content))))
            self.end_headers()
            for piece in content if gap_s else [b"".join(content)]:
                self.wfile.write(piece)
                time.sleep(gap_s)

        def log_message(self, format: str, *args: object) -> None:
            """Not to the terminal."""

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, request: object, client_address: object) -> None:
            """A gateway that stops waiting is no error."""

    server = Server(("127.0.0.1", 0), Handler)
    Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    student.base_url = f"http://127.0.0.1:{server.server_address[1]}/v1"
    try:
        yield student
    finally:
        server.shutdown()
        server.server_close()
