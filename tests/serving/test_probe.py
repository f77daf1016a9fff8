"""What the probe makes of the answers of other people's servers."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from serving.probe import HttpProbe, ServedModel
from tests.serving.conftest import free_port

Answers = dict[str, tuple[int, object]]
VLLM: Answers = {
    "/health": (200, None),
    "/v1/models": (200, {"object": "list", "data": [{"id": "student", "max_model_len": 2048}]}),
}


@pytest.fixture
def serve() -> Iterator[Callable[[Answers], str]]:
    servers = []

    def start(answers: Answers) -> str:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                status, body = answers.get(self.path, (404, {}))
                data = body.encode() if isinstance(body, str) else json.dumps(body).encode()
                self.send_response(status)
                self.send_header("content-length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *args: object) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, args=(0.01,)).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_port}/v1"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


async def test_probe_is_ready_and_knows_the_window_when_vllm_serves_the_model(serve: Callable[[Answers], str]) -> None:
    report = await HttpProbe(serve(VLLM), model="student")(5.0)
    assert report.ready
    assert report.models == (ServedModel("student", 2048),)


async def test_probe_reads_the_window_of_llama_cpp(serve: Callable[[Answers], str]) -> None:
    listing = {"data": [{"id": "teacher", "meta": {"n_ctx": 4096}}]}
    report = await HttpProbe(serve({**VLLM, "/v1/models": (200, listing)}), model="teacher")(5.0)
    assert report.models == (ServedModel("teacher", 4096),)


async def test_probe_is_ready_when_a_hosted_api_has_no_health_path(serve: Callable[[Answers], str]) -> None:
    report = await HttpProbe(serve({"/v1/models": VLLM["/v1/models"]}), model="student")(5.0)
    assert report.ready


@pytest.mark.parametrize(
    ("answers", "healthy", "problem"),
    [
        ({"/health": (503, None)}, False, "/health answers 503"),
        ({"/v1/models": (401, {"error": "Unauthorized"})}, True, "refuses the API key"),
        ({"/v1/models": (404, {})}, True, "/v1/models answers 404"),
        ({"/v1/models": (500, {})}, False, "/v1/models answers 500"),
        ({"/v1/models": (200, "<html>")}, True, "OpenAI's form"),
        ({"/v1/models": (200, {"data": [{"id": "other"}]})}, True, "does not serve 'student' (served: other)"),
        ({"/v1/models": (200, {"data": []})}, True, "(served: none)"),
    ],
)
async def test_probe_says_what_is_wrong(
    serve: Callable[[Answers], str], answers: Answers, healthy: bool, problem: str
) -> None:
    report = await HttpProbe(serve({**VLLM, **answers}), model="student")(5.0)
    assert not report.ready
    assert report.healthy is healthy
    assert report.problem is not None
    assert problem in report.problem


async def test_probe_is_not_ready_when_nothing_listens() -> None:
    report = await HttpProbe(f"http://127.0.0.1:{free_port()}/v1", model="student")(5.0)
    assert not report.healthy
    assert report.problem
