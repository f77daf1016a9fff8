"""The gateway calls the backends that the operator named, and nothing else (server-side request forgery)."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator

import httpx
import pytest

from loadtests.fake_backend import BackendThread
from router.addresses import plain_http_url
from router.config import ConfigError
from router.config_file import parse
from tests.contract.conftest import RunningGateway, StartGateway, chats
from tests.contract.test_odd_input import answering
from tests.security.attacks import MESSAGES

PLAIN = {"model": "auto", "messages": MESSAGES}

REFUSED = [
    "file:///etc/passwd", "gopher://127.0.0.1:6379/_", "ftp://127.0.0.1/v1", "unix:///run/x.sock", "//127.0.0.1/v1",
    "127.0.0.1/v1", "http:///v1", "http://", "javascript:alert(1)", "data:text/plain,x", "dict://127.0.0.1:11211/",
    "http://user:password@127.0.0.1/v1", "http://key@127.0.0.1/v1", "http://127.0.0.1@evil.example/v1",
    "http://169.254.169.254/v1", "http://169.254.169.254./v1", "http://0xa9fea9fe/v1", "http://[fe80::1]/v1",
    "http://metadata.google.internal/v1", "http://[::ffff:169.254.169.254]/v1", "http://100.100.100.200/v1",
    "http://127.0.0.1/v1?key=x", "http://127.0.0.1/v1#x", "http://127.0.0.1/v1\r\nx-evil: 1", "http://127.0.0.1/v1 HTTP/1.0",
    "http://127.0.0.1:0/v1", "http://127.0.0.1:99999/v1", "http://[127.0.0.1/v1", "http://exa%6dple/v1", "http://a\\@b/v1",
]  # fmt: skip
TABLES = {
    "student": "[student]\nbase_url = {url}\n[teacher]\nbase_url = 'http://127.0.0.1/v1'",
    "teacher": "[student]\nbase_url = 'http://127.0.0.1/v1'\n[teacher]\nbase_url = {url}",
    "replica": "[[student.replicas]]\nbase_url = {url}\n[teacher]\nbase_url = 'http://127.0.0.1/v1'",
    "fallback": "[student]\nbase_url = 'http://127.0.0.1/v1'\n[teacher]\nbase_url = 'http://127.0.0.1/v1'\n"
    "[[teacher.fallbacks]]\nbase_url = {url}",
    "embeddings": "[student]\nbase_url = 'http://127.0.0.1/v1'\n[teacher]\nbase_url = 'http://127.0.0.1/v1'\n"
    "[embeddings]\nmodel = 'm'\nbase_url = {url}",
}


@pytest.mark.parametrize("table", TABLES)
def test_url_that_is_no_plain_http_url_of_a_backend_is_refused(table: str) -> None:
    for url in REFUSED:
        quoted = '"' + url.replace("\\", "\\\\").replace("\r", "\\r").replace("\n", "\\n") + '"'
        with pytest.raises(ConfigError) as caught:
            parse(TABLES[table].format(url=quoted))
        assert "base_url" in str(caught.value), url
        assert "password" not in str(caught.value), url  # a secret that stands there by mistake is not repeated


def test_ordinary_urls_are_accepted() -> None:
    for url in ("http://127.0.0.1:8101/v1", "https://api.example.com/v1", "http://[::1]:8000/v1", "http://vllm/v1"):
        assert plain_http_url(url) == url


class Listener:
    """Counts who connects; nobody should."""

    def __enter__(self) -> Listener:
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        self.connections = 0
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self._thread.join()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._socket.accept()
            except OSError:
                return
            self.connections += 1
            client.close()


@pytest.fixture
def elsewhere() -> Iterator[Listener]:
    with Listener() as listener:
        yield listener


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("stream", [False, True])
def test_redirect_of_a_backend_is_not_followed(
    start_gateway: StartGateway, teacher: BackendThread, elsewhere: Listener, status: int, stream: bool
) -> None:
    head = f"HTTP/1.1 {status} Elsewhere\r\nlocation: {elsewhere.url}/v1/chat/completions\r\ncontent-length: 0\r\n\r\n"
    with answering(head.encode()) as url:
        gateway = start_gateway(student_url=url)  # its probe is redirected as well
        answer = gateway.post({**PLAIN, "stream": stream})
        assert answer.status_code == 200
        assert answer.headers["x-router-route"] == "teacher"
        assert "location" not in answer.headers
    assert elsewhere.connections == 0
    assert chats(teacher) == 1


def test_urls_in_a_request_are_not_fetched(gateway: RunningGateway, elsewhere: Listener) -> None:
    url = elsewhere.url
    messages = [
        {"role": "user", "content": [
            {"type": "image_url", "image_url": {"url": f"{url}/a.png"}}, {"type": "text", "text": f"see {url}/b"},
            {"type": "file", "file": {"file_id": f"{url}/c"}},
        ]}
    ]  # fmt: skip
    body = {
        "model": "auto", "messages": messages, "documents": [{"text": "x", "url": f"{url}/d"}], "user": f"{url}/e",
        "tools": [{"type": "mcp", "server_url": f"{url}/f"}], "router": {"session": f"{url}/g", "tags": {"url": url}},
    }  # fmt: skip
    hosts = {"host": url.removeprefix("http://"), "x-forwarded-host": url, "forwarded": f"host={url}", "referer": url}
    gateway.post(body, headers=hosts)
    for source in ({"type": "url", "url": f"{url}/h"}, {"type": "image", "url": f"{url}/i"}):
        content = [{"type": "image", "source": source}, {"type": "document", "source": source}]
        httpx.post(
            f"{gateway.origin}/v1/messages",
            json={"model": "auto", "max_tokens": 9, "messages": [{"role": "user", "content": content}]},
        )
    items = [{"type": "message", "role": "user", "content": [{"type": "input_image", "image_url": f"{url}/j"}]}]
    httpx.post(f"{gateway.origin}/v1/responses", json={"model": "auto", "input": items})
    assert elsewhere.connections == 0


def test_model_name_of_a_client_is_no_path_of_a_backend(gateway: RunningGateway, student: BackendThread) -> None:
    before = len(student.state.received)
    for name in ("../admin", "student/../../metrics", "http://127.0.0.1/x", "..%2f..%2fmetrics"):
        assert gateway.post({**PLAIN, "model": name}).status_code == 404
        assert httpx.get(f"{gateway.origin}/v1/models/{name}").status_code == 404
    assert len(student.state.received) == before
