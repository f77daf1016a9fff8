"""A judge behind an OpenAI-compatible endpoint: honest, biased, talkative or broken, as a test wants it.

It finds the texts as an honest reader of the prompt would: by the marker of the first line and nothing else.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple, Self


class Shown(NamedTuple):
    """What the judge was shown."""

    conversation: str
    first: str
    second: str


Judging = Callable[[Shown], str]


def shown_in(messages: list[dict[str, str]]) -> Shown:
    text = messages[-1]["content"]
    marker = re.escape(text.splitlines()[0].removeprefix("BEGIN "))
    form = rf"BEGIN {marker}\nCONVERSATION {marker}\n(.*)\nANSWER A {marker}\n(.*)\nANSWER B {marker}\n(.*)\nEND {marker}\n"
    found = re.match(form, text, re.DOTALL)
    assert found, text
    return Shown(*found.groups())


class JudgeServer:
    """Serves while the block lasts. `judging` answers; `seen` holds the requests' bodies, `headers` their headers."""

    def __init__(self, judging: Judging, status: int = 200, refuses: frozenset[str] = frozenset()) -> None:
        """
        Args:
            refuses: options that get a 400.
        """
        self.judging = judging
        self.status = status
        self.refuses = refuses
        self.seen: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}/v1"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def _answer(self, body: bytes, headers: dict[str, str]) -> tuple[int, bytes]:
        request = json.loads(body)
        self.seen.append(request)
        self.headers.append(headers)
        if self.refuses & request.keys():
            return 400, b'{"error":{"message":"an option is not supported","type":"invalid_request_error"}}'
        text = self.judging(shown_in(request["messages"]))
        answer = json.dumps(
            {
                "object": "chat.completion",
                "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text}}],
                "usage": {"prompt_tokens": 1000, "completion_tokens": 10, "total_tokens": 1010},
            }
        ).encode()
        return self.status, answer

    def _handler(judge: JudgeServer) -> type[BaseHTTPRequestHandler]:  # noqa: N805
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                content = self.rfile.read(int(self.headers["content-length"]))
                status, answer = judge._answer(content, {k.lower(): v for k, v in self.headers.items()})
                self.send_response(status)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(answer)))
                self.end_headers()
                with suppress(OSError):  # the client may have given up
                    self.wfile.write(answer)

            def log_message(self, format: str, *args: object) -> None: ...

        return Handler
