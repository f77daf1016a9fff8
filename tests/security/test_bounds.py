"""What one client can cost the others: memory, time, connections and metric series are bounded."""

from __future__ import annotations

import contextlib
import gzip
import json
import socket
import time
import zlib
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from loadtests.fake_backend import BackendThread
from router.body import MAX_VALUES, JsonBody
from router.errors import InvalidRequest
from tests.contract.conftest import RunningGateway, StartGateway, chats
from tests.contract.test_odd_input import EVENTS, answering, chunk
from tests.security.attacks import BODY, CHAT, MESSAGES, chunked, connect, everything, responses

PLAIN = {"model": "auto", "messages": MESSAGES}
MIB = 2**20


def resident_bytes() -> int:
    """Of this process, in which the gateway runs as well."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def test_body_is_refused_before_it_is_held_when_it_never_ends(start_gateway: StartGateway) -> None:
    gateway = start_gateway(server="max_body_bytes = 1048576\nbody_timeout_s = 5.0")
    head = CHAT + b"host: x\r\ntransfer-encoding: chunked\r\n\r\n"
    piece = chunked(b"a" * 65_536, end=b"")
    before = resident_bytes()
    sent = 0
    with connect(gateway) as client:
        client.sendall(head)
        client.settimeout(0.05)
        answer = b""
        while sent < 64 * MIB:
            try:
                client.sendall(piece)
                sent += len(piece)
            except (TimeoutError, ConnectionError):
                break
            if not answer:
                with contextlib.suppress(TimeoutError):
                    answer = client.recv(65_536)
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert resident_bytes() - before < 32 * MIB


def test_body_of_another_size_than_it_says_is_refused_by_its_head(start_gateway: StartGateway) -> None:
    gateway = start_gateway(server="max_body_bytes = 2048")
    with connect(gateway) as client:
        client.sendall(CHAT + b"host: x\r\ncontent-length: 9223372036854775807\r\n\r\n{")
        client.settimeout(20)
        assert client.recv(65_536).startswith(b"HTTP/1.1 413 ")


def test_compressed_body_is_never_unpacked(target: RunningGateway) -> None:
    bomb = gzip.compress(b'{"model":"' + b"a" * (8 * MIB), 9)
    for path in ("/v1/chat/completions", "/v1/messages", "/v1/responses", "/v1/feedback"):
        for encoding in ("gzip", "deflate", "br", "zstd", "gzip, gzip"):
            answer = httpx.post(target.origin + path, content=bomb, headers={"content-encoding": encoding})
            assert answer.status_code == 415, (path, encoding)


@pytest.mark.parametrize("pack", [gzip.compress, zlib.compress])
def test_compressed_answer_of_a_backend_is_never_unpacked(
    start_gateway: StartGateway, teacher: BackendThread, pack: Callable[[bytes], bytes]
) -> None:
    """Neither an answer nor that to a probe: 64 KiB can become 64 MiB."""
    bomb = pack(b" " * (64 * MIB))
    encoding = b"gzip" if pack is gzip.compress else b"deflate"
    head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-encoding: %b\r\ncontent-length: %d\r\n\r\n"
    before = resident_bytes()
    with answering(head % (encoding, len(bomb)) + bomb) as url:
        gateway = start_gateway(student_url=url, student="")
        answer = gateway.post(PLAIN)
    assert (answer.status_code, answer.headers["x-router-route"]) == (200, "teacher")
    assert resident_bytes() - before < 32 * MIB


def test_stream_of_comments_without_an_answer_is_given_up_and_the_teacher_answers(start_gateway: StartGateway) -> None:
    endless = EVENTS + (b": " + b"waiting " * 8_192 + b"\n\n") * 400 + chunk(content="late")
    with answering(endless) as url:
        gateway = start_gateway(student_url=url, student="")
        answer = gateway.post({**PLAIN, "stream": True})
    assert (answer.status_code, answer.headers["x-router-route"]) == (200, "teacher")
    assert "late" not in answer.text and answer.text.endswith("data: [DONE]\n\n")
    assert gateway.records()[0].reason == "fallback_invalid_response"


def test_compressed_answer_to_a_probe_is_not_looked_into(start_gateway: StartGateway) -> None:
    models = gzip.compress(b'{"data":[{"id":"teacher","max_model_len":777}]}')
    head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-encoding: gzip\r\ncontent-length: %d\r\n\r\n"
    with answering(head % len(models) + models) as url:
        gateway = start_gateway(teacher_url=url)
        seen = httpx.get(f"{gateway.origin}/readyz").json()["teacher"]
    assert (seen["context_window_tokens"], seen["reachable"]) == (None, False)


@pytest.mark.parametrize(
    "text",
    [
        '{"model":"auto","messages":[' + "[]," * MAX_VALUES + "[]]}",
        '{"model":"auto","messages":[' + "{}," * MAX_VALUES + "{}]}",
        '{"model":"auto","prompt":[' + "1," * (MAX_VALUES + 1) + "1]}",
        "[" * 100_000,
        '{"a":' * 100_000,
    ],
    ids=["lists", "objects", "numbers", "nested_lists", "nested_objects"],
)
def test_body_of_very_many_values_is_refused_without_being_built(text: str) -> None:
    """A small body can become a large tree: three bytes of text are 70 bytes of memory."""
    with pytest.raises(InvalidRequest):
        JsonBody.parse(text.encode())


def test_body_with_a_large_text_is_accepted() -> None:
    prose = "It was the best of times, it was the worst of times; " * 40_000
    image = "data:image/png;base64," + "iVBORw0KGgo" * 1_000_000
    body = json.dumps({"model": "auto", "messages": [{"role": "user", "content": [prose, image]}]})
    assert JsonBody.parse(body.encode()).values["model"] == "auto"


def test_request_in_thousands_of_tiny_chunks_is_read(target: RunningGateway, student: BackendThread) -> None:
    before = chats(student)
    body = json.dumps({"model": "student", "messages": [{"role": "user", "content": "a" * 10_000}]}).encode()
    pieces = b"".join(b"1\r\n%c\r\n" % byte for byte in body)
    with connect(target) as client:
        client.sendall(CHAT + b"host: x\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n")
        client.sendall(pieces + b"0\r\n\r\n")
        assert [answer.status for answer in responses(everything(client))] == [200]
    assert chats(student) == before + 1


def test_stream_of_ten_thousand_tiny_frames_arrives_whole_and_in_bounded_memory(target: RunningGateway) -> None:
    body = {**PLAIN, "model": "student", "stream": True}
    body["messages"] = [{"role": "user", "content": "[[fake-tokens-10000]]"}]
    before = resident_bytes()
    answer = target.post(body).content
    assert answer.count(b'"content"') >= 10_000
    assert answer.endswith(b"data: [DONE]\n\n")
    assert resident_bytes() - before < 64 * MIB


def test_clients_that_send_a_byte_now_and_then_keep_nobody_out_and_are_closed(start_gateway: StartGateway) -> None:
    gateway = start_gateway(server="body_timeout_s = 1.0")
    slow_heads = [connect(gateway) for _ in range(60)]
    slow_bodies = [connect(gateway) for _ in range(20)]
    for client in slow_heads:
        client.sendall(CHAT + b"host: x\r\nx-a: ")
    for client in slow_bodies:
        client.sendall(CHAT + b"host: x\r\ncontent-length: 500\r\n\r\n{")
    answered = 0
    deadline_s = time.monotonic() + 2.0
    while time.monotonic() < deadline_s:
        for client in slow_heads + slow_bodies:
            with contextlib.suppress(OSError):  # closed already
                client.send(b" ")
        answered += gateway.post(PLAIN).status_code == 200
    assert answered > 0
    for client in slow_heads:
        assert everything(client) == b""
    for client in slow_bodies:
        assert client.recv(4096).startswith(b"HTTP/1.1 408 ")
        client.close()


def series(gateway: RunningGateway) -> set[str]:
    lines = httpx.get(gateway.origin + "/metrics").text.splitlines()
    return {line.rpartition(" ")[0] for line in lines if line and not line.startswith("#")}


def test_metrics_do_not_grow_with_what_clients_make_up(start_gateway: StartGateway) -> None:
    gateway = start_gateway({"KEYS": "acme=key-of-acme"}, rest='[auth]\nkeys_env = "KEYS"')
    own = {"authorization": "Bearer key-of-acme"}

    http = httpx.Client(base_url=gateway.origin, headers=own, verify=False, timeout=20)  # noqa: S501 - plain HTTP

    def burst(mark: str) -> None:
        for number in range(5):
            word = f"made-up-{mark}-{number}"
            for more in (
                {"model": word}, {"reasoning_effort": word}, {"user": word, "metadata": {word: word}},
                {"router": {"tags": {word: word}, "session": word}}, {"router": {"route": word}}, {"router": {word: word}},
            ):  # fmt: skip
                http.post("/v1/chat/completions", json={**PLAIN, **more})
            http.post("/v1/chat/completions", json=PLAIN, headers={"authorization": f"Bearer {word}"})
            http.post("/v1/chat/completions", json=PLAIN, headers={"x-router-purpose": word})
            http.request("PURGE", f"/{word}")
            http.get(f"/v1/models/{word}")
            http.get(f"/admin/{word}")

    burst("warm")
    known = series(gateway)
    burst("later")
    assert series(gateway) == known
    assert not any("made-up" in line for line in known)


def test_connections_of_clients_that_vanish_are_given_back(
    start_gateway: StartGateway, wait_until: Callable[[Callable[[], bool]], None]
) -> None:
    gateway = start_gateway(server="max_inflight_requests = 4\nmax_queued_requests = 0")
    slow = json.dumps({**PLAIN, "messages": [{"role": "user", "content": "[[fake-delay-30]]"}]}).encode()
    for _ in range(3):
        stuck: list[socket.socket] = []
        for _ in range(4):
            client = connect(gateway)
            client.sendall(CHAT + b"host: x\r\ncontent-length: %d\r\n\r\n%b" % (len(slow), slow))
            stuck.append(client)
        wait_until(lambda: gateway.metric("router_inflight_requests") == 4)
        for client in stuck:
            client.close()
        wait_until(lambda: gateway.metric("router_inflight_requests") == 0)
    assert gateway.post(BODY).status_code == 200
