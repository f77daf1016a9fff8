"""What arrives on the socket before it is a request: odd clients are served, hostile ones bounded."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import msgspec
import pytest

from loadtests.fake_backend import BackendThread
from router import server
from router.config import ServerConfig
from tests.contract.conftest import RunningGateway, StartGateway, chats

MESSAGES = [{"role": "user", "content": "hello"}]
PLAIN = msgspec.json.encode({"model": "student", "messages": MESSAGES})
STREAM = msgspec.json.encode({"model": "student", "messages": MESSAGES, "stream": True})
CHAT = "POST /v1/chat/completions HTTP/1.1"


def request(line: str = CHAT, *headers: str, body: bytes = b"", length: bool = True) -> bytes:
    lines = [line, "host: gateway", *headers, *([f"content-length: {len(body)}"] if length else [])]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


class Client:
    """A raw connection."""

    def __init__(self, gateway: RunningGateway) -> None:
        self.socket = socket.create_connection(("127.0.0.1", int(gateway.origin.rpartition(":")[2])), timeout=15)

    def send(self, *parts: bytes) -> None:
        for part in parts:
            self.socket.sendall(part)

    def response(self) -> tuple[int, bytes, bytes]:
        """Status, head and body of the next response that has a length."""
        data = b""
        while b"\r\n\r\n" not in data:
            data += self._more()
        head, _, body = data.partition(b"\r\n\r\n")
        length = int(re.search(rb"content-length: (\d+)", head)[1])  # type: ignore[index]
        while len(body) < length:
            body += self._more()
        assert len(body) == length, "more than one response"
        return int(head.split()[1]), head, body

    def rest(self) -> bytes:
        """Everything up to the end of the connection."""
        data = b""
        while more := self.socket.recv(65536):
            data += more
        return data

    def _more(self) -> bytes:
        more = self.socket.recv(65536)
        assert more, "the connection was closed"
        return more


@contextmanager
def connected(gateway: RunningGateway) -> Iterator[Client]:
    client = Client(gateway)
    with client.socket:
        yield client


def error_code(body: bytes) -> str:
    return str(msgspec.json.decode(body)["error"]["code"])


JDK_UPGRADE = ("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAEAAEAAAAIAAAABAAMAAABk")
"""What java.net.http.HttpClient sends to every http:// URL."""


def test_request_with_its_body_is_served_when_the_client_offers_h2c(gateway: RunningGateway) -> None:
    offered = request(CHAT, *JDK_UPGRADE, body=PLAIN)
    head, _, body = offered.partition(b"\r\n\r\n")
    chunked = request(
        CHAT, *JDK_UPGRADE, "transfer-encoding: chunked",
        body=b"%x\r\n%b\r\n0\r\n\r\n" % (len(PLAIN), PLAIN), length=False,
    )  # fmt: skip
    with connected(gateway) as client:  # all on one connection: nothing may be left over
        for parts in ([offered], [head + b"\r\n\r\n", body[:9], body[9:]], [chunked], [request(body=PLAIN)]):
            client.send(*parts)
            status, head_of_answer, _ = client.response()
            assert status == 200
            assert b"upgrade" not in head_of_answer.lower()
    assert [record.status for record in gateway.records()] == [200] * 4


def test_pipelined_request_is_served_when_it_follows_an_offered_upgrade(gateway: RunningGateway) -> None:
    with connected(gateway) as client:
        client.send(
            request(CHAT, *JDK_UPGRADE, body=PLAIN) + request("GET /healthz HTTP/1.1", "connection: close", body=b"")
        )
        assert client.rest().count(b"HTTP/1.1 200") == 2


def test_websocket_offer_is_answered_like_any_request(gateway: RunningGateway) -> None:
    offer = ("Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: AAAA")
    with connected(gateway) as client:
        client.send(request("GET /v1/realtime HTTP/1.1", *offer, length=False))
        assert client.response()[0] == 404
        client.send(request("GET /v1/models HTTP/1.1", *offer, length=False))
        assert client.response()[0] == 200


def test_connect_is_refused(gateway: RunningGateway) -> None:
    with connected(gateway) as client:
        client.send(request("CONNECT example.com:443 HTTP/1.1", length=False))
        assert client.rest().startswith(b"HTTP/1.1 400")


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"nonsense\r\n\r\n", 400),
        (request(CHAT, "x-large: " + "a" * 70_000, body=PLAIN), 431),
        (request(CHAT, "origin: https://elsewhere.example", body=PLAIN), 403),
        (request("POST /v1/nowhere HTTP/1.1", body=PLAIN), 404),
    ],
)
def test_request_that_is_refused_at_the_edge_leaves_no_record(
    gateway: RunningGateway, sent: bytes, status: int
) -> None:
    """docs/threat-model.md says so. The request after it, which is none of those, leaves one."""
    with connected(gateway) as client:
        client.send(sent)
        assert client.response()[0] == status
    with connected(gateway) as client:
        client.send(request(body=PLAIN))
        assert client.response()[0] == 200
    assert [record.status for record in gateway.records()] == [200]


HUGE = "x-large: " + "a" * 70_000
MANY = [f"x-{number}: {'b' * 1000}" for number in range(80)]


@pytest.mark.parametrize(
    "parts",
    [
        [request(CHAT, HUGE, body=PLAIN)],
        [request(CHAT, *MANY, body=PLAIN)],
        [request(CHAT, *MANY, body=PLAIN)[start : start + 5000] for start in range(0, 80_000, 5000)],
        [request(f"GET /{'a' * 70_000} HTTP/1.1")],
        [request(CHAT, HUGE, length=False)[:-4], b"c" * 300_000],
        [b"\r\n" * 150_000],
    ],
    ids=["one_header", "many_headers", "in_pieces", "path", "without_end", "blank_lines"],
)
def test_head_is_431_before_authentication_when_it_is_too_large(
    start_gateway: StartGateway, student: BackendThread, parts: list[bytes]
) -> None:
    gateway = start_gateway({"KEYS": "acme=key-of-acme"}, rest='[auth]\nkeys_env = "KEYS"')
    with connected(gateway) as client:
        client.send(*parts)
        answer = client.rest()
    assert answer.startswith(b"HTTP/1.1 431 ")
    assert error_code(answer.partition(b"\r\n\r\n")[2]) == "headers_too_large"
    assert chats(student) == 0
    assert gateway.records() == []


def test_head_is_accepted_when_it_is_just_not_too_large(gateway: RunningGateway) -> None:
    with connected(gateway) as client:
        client.send(request(CHAT, "x-large: " + "a" * 60_000, body=PLAIN))
        assert client.response()[0] == 200
        client.send(request(body=PLAIN.replace(b"hello", b"hello" * 40_000)))  # the body does not count
        assert client.response()[0] == 200


def test_trailers_are_bounded_and_are_no_headers(gateway: RunningGateway, student: BackendThread) -> None:
    body = b"%x\r\n%b\r\n0\r\n" % (len(PLAIN), PLAIN)
    start = request(CHAT, "transfer-encoding: chunked", body=body, length=False)
    with connected(gateway) as client:
        client.send(start, b"x-router-route: teacher\r\n\r\n")
        status, head, _ = client.response()
        assert (status, b"x-router-route: student" in head) == (200, True)
        client.send(start, *(b"t: %b" % (b"a" * 50_000) for _ in range(6)))
        assert client.rest().startswith(b"HTTP/1.1 431 ")
    assert chats(student) == 1


def test_broken_request_is_400_in_openai_form(gateway: RunningGateway) -> None:
    with connected(gateway) as client:
        client.send(b"\x16\x03\x01\x02\x00\x01")  # TLS
        answer = client.rest()
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert error_code(answer.partition(b"\r\n\r\n")[2]) == "invalid_http"


@pytest.mark.parametrize("sent", [b"", b"\r\n", b"POST /v1/chat", request(body=PLAIN)[:60]])
def test_connection_is_closed_when_no_head_arrives_in_time(start_gateway: StartGateway, sent: bytes) -> None:
    gateway = start_gateway(server="body_timeout_s = 0.3")
    with connected(gateway) as client:
        client.send(sent)
        assert client.rest() == b""


def test_kept_alive_connection_is_closed_when_its_next_head_stalls(start_gateway: StartGateway) -> None:
    gateway = start_gateway(server="body_timeout_s = 0.3")
    with connected(gateway) as client:
        client.send(request(body=PLAIN))
        assert client.response()[0] == 200
        client.send(request(body=PLAIN)[:50])
        assert client.rest() == b""


def test_idle_connection_and_slow_answer_outlive_the_time_for_a_head(start_gateway: StartGateway) -> None:
    gateway = start_gateway(server="body_timeout_s = 0.2")
    slow = PLAIN.replace(b"hello", b"[[fake-delay-0.6]]")
    with connected(gateway) as client:
        client.send(request(body=PLAIN))
        assert client.response()[0] == 200
        client.socket.settimeout(0.7)
        with pytest.raises(TimeoutError):
            client.socket.recv(1)
        client.socket.settimeout(15)
        client.send(request(body=slow) + request(body=PLAIN)[:50])  # half of the next head waits behind the answer
        assert client.response()[0] == 200


def test_http_1_0_client_gets_a_stream_without_chunks_and_the_close(gateway: RunningGateway) -> None:
    with connected(gateway) as client:
        client.send(request("POST /v1/chat/completions HTTP/1.0", "connection: keep-alive", body=STREAM))
        head, _, body = client.rest().partition(b"\r\n\r\n")
    assert b"transfer-encoding" not in head.lower()
    assert b"connection: close" in head.lower()
    assert body.startswith(b"data: {")
    assert body.endswith(b"data: [DONE]\n\n")


def test_http_1_0_client_gets_a_plain_answer_with_its_length(gateway: RunningGateway) -> None:
    with connected(gateway) as client:
        client.send(request("POST /v1/chat/completions HTTP/1.0", body=PLAIN))
        assert client.response()[0] == 200
        assert client.rest() == b""


FOREIGN = ["https://evil.example", "http://evil.example:8080", "null", "http://127.0.0.1.evil.example", "http://["]


@pytest.mark.parametrize("origin", FOREIGN)
@pytest.mark.parametrize(("method", "path"), [("POST", "chat/completions"), ("GET", "models"), ("OPTIONS", "models")])
def test_page_of_another_site_is_refused_when_there_is_no_authentication(
    gateway: RunningGateway, student: BackendThread, origin: str, method: str, path: str
) -> None:
    response = httpx.request(
        method, f"{gateway.origin}/v1/{path}", headers={"origin": origin, "content-type": "text/plain"}, content=PLAIN
    )
    assert response.status_code == 403
    assert response.json()["error"]["code"] == "origin_not_allowed"
    assert "access-control-allow-origin" not in response.headers
    assert chats(student) == 0


@pytest.mark.parametrize("origin", ["http://localhost:3000", "http://127.0.0.1", "https://[::1]:8443"])
def test_page_of_this_machine_is_served_when_there_is_no_authentication(gateway: RunningGateway, origin: str) -> None:
    assert gateway.post(PLAIN, headers={"origin": origin}).status_code == 200


def test_page_of_another_site_is_served_when_it_has_a_key(start_gateway: StartGateway) -> None:
    gateway = start_gateway({"KEYS": "acme=key-of-acme"}, rest='[auth]\nkeys_env = "KEYS"')
    headers = {"origin": "https://app.example", "authorization": "Bearer\tkey-of-acme"}
    assert gateway.post(PLAIN, headers=headers).status_code == 200


@pytest.mark.parametrize("path", ["/docs", "/redoc", "/openapi.json", "/v1/models/", "/v1/chat/completions/"])
def test_there_is_nothing_at_paths_that_a_framework_would_add(gateway: RunningGateway, path: str) -> None:
    response = httpx.get(gateway.origin + path)
    assert response.status_code == 404
    assert "location" not in response.headers


@pytest.mark.parametrize(
    ("host", "key"),
    [
        ("no such host", "server.host"),
        ("a" * 70, "server.host"),
        ("203.0.113.7", "server.host"),
        ("::zz", "server.host"),
    ],
)
def test_bind_names_the_host_when_it_is_not_an_address_of_this_machine(host: str, key: str) -> None:
    with pytest.raises(server.CannotListen, match=key):
        server.bind(ServerConfig(host=host, port=0))


def test_bind_names_the_port_when_it_is_taken(gateway: RunningGateway) -> None:
    with pytest.raises(server.CannotListen, match=r"server\.port"):
        server.bind(ServerConfig(port=int(gateway.origin.rpartition(":")[2])))
