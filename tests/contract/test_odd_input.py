"""Legal but unusual input, from clients and from backends: answered, recorded, and bounded in what it can cost."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import httpx
import msgspec
import pytest

from loadtests.fake_backend import BackendThread
from router.carriers import chunks_in
from router.chat import MAX_PARTS, ChatRequest
from router.directives import MAX_CHUNKS
from router.errors import InvalidRequest
from tests.contract.conftest import RunningGateway, StartGateway, chats

HI = [{"role": "user", "content": "hi"}]
PLAIN = {"model": "auto", "messages": HI}
STREAM = {**PLAIN, "stream": True}


def tool(content: object) -> list[dict[str, object]]:
    return [*HI, {"role": "tool", "tool_call_id": "1", "content": content}]


@pytest.mark.parametrize(
    "body",
    [
        {**PLAIN, "router": {"session": "\ud800"}},
        {**PLAIN, "router": {"tags": {"a\ud800": "b\ud800"}}},
        {**PLAIN, "messages": [{"role": "user", "content": "lone \ud83d half"}]},
        {**PLAIN, "messages": [{"role": "user", "content": [{"type": {}}, {"type": None}, {}]}]},
        {**PLAIN, "documents": [{"text": "x", "score": 10**400}, 5, None, {"text": ["y", {"text": 3}]}]},
        {**PLAIN, "messages": tool('{"results": [{"text": "x", "score": 1' + "0" * 399 + "}]}")},
        {**PLAIN, "messages": tool("[" * 50_000)},
        {**PLAIN, "messages": [{"role": "developer", "content": None}, {"role": "anything", "content": []}]},
        {**PLAIN, "n": 3, "tools": [], "response_format": {"type": "json_object"}, "stop": None, "stream": None},
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_unusual_request_is_answered_and_leaves_one_record(
    gateway: RunningGateway, body: dict[str, object], stream: bool
) -> None:
    response = gateway.post(json.dumps({**body, "stream": stream}).encode())
    assert response.status_code == 200 or "surrogate" in response.text  # a backend may refuse a lone surrogate
    assert len(gateway.records()) == 1


@pytest.mark.parametrize(
    ("body", "headers"),
    [
        ({**PLAIN, "router": {"\ud800": 1}}, {}),
        (PLAIN, {"x-router-explain": "[" * 5_000}),
        (PLAIN, {"x-router-retrieval-confidence": "[" * 5_000}),
        ({**PLAIN, **{f"k{n}": n for n in range(2_000)}}, {}),
        ({**PLAIN, "messages": HI * (MAX_PARTS + 1)}, {}),
    ],
)
def test_hostile_request_is_a_400(gateway: RunningGateway, body: dict[str, object], headers: dict[str, str]) -> None:
    response = gateway.post(json.dumps(body).encode(), headers=headers)
    assert response.status_code == 400
    assert len(gateway.records()) == 1


def test_compressed_body_is_a_415(gateway: RunningGateway) -> None:
    assert gateway.post(b"\x1f\x8b", headers={"content-encoding": "gzip"}).status_code == 415


def test_no_more_chunks_are_built_than_a_policy_may_see() -> None:
    built = 0

    class Counting(dict[str, object]):
        def get(self, key: str, default: object = None) -> object:
            nonlocal built
            built += key == "id"
            return super().get(key, default)

    documents = [Counting(text="x") for _ in range(50_000)]
    found = chunks_in({"documents": documents, "messages": []})
    assert found is not None and len(found) == MAX_CHUNKS
    assert built <= MAX_CHUNKS + 1


def test_parts_are_counted_over_all_messages() -> None:
    half = {"role": "user", "content": [{"type": "text", "text": "x"}] * (MAX_PARTS // 2)}
    with pytest.raises(InvalidRequest, match="more than"):
        ChatRequest.parse(msgspec.json.encode({"model": "auto", "messages": [half, half, half]}), [])


@contextmanager
def answering(answer: bytes) -> Iterator[str]:
    """A backend that gives this answer to every request and then closes."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        if head.startswith(b"POST"):
            length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
            await reader.readexactly(length)
        writer.write(answer)
        await writer.drain()
        writer.close()

    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    server = asyncio.run_coroutine_threadsafe(asyncio.start_server(handle, "127.0.0.1", 0), loop).result()
    yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
    loop.call_soon_threadsafe(server.close)
    loop.call_soon_threadsafe(loop.stop)
    thread.join()


def chunk(index: int = 0, *, content: str | None = None, finish: str | None = None, **more: object) -> bytes:
    delta = {} if content is None else {"content": content}
    choice = {"index": index, "delta": delta, "finish_reason": finish}
    return b"data: " + json.dumps({"id": "x", "choices": [choice], **more}).encode() + b"\n\n"


USAGE = b'data: {"id":"x","choices":[],"usage":{"prompt_tokens":7,"completion_tokens":3}}'
EVENTS = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n"
STREAM_OF_TWO = {**STREAM, "n": 2}


@pytest.mark.parametrize(
    ("body", "events", "complete"),
    [
        (STREAM, chunk(content="a") + chunk(finish="stop") + b"data: [DONE]\n", True),
        (STREAM, chunk(content="a") + chunk(finish="stop")[:-2], True),
        (STREAM, chunk(content="a") + chunk(finish="stop") + USAGE, True),
        (STREAM, chunk(content="a") + chunk(finish="stop") + USAGE[:-9], True),
        (STREAM, chunk(content="a") + chunk(content="b")[:-9], False),
        (STREAM_OF_TWO, chunk(content="a") + chunk(1, content="b") + chunk(finish="stop"), False),
        (STREAM_OF_TWO, chunk(content="a") + chunk(finish="stop") + chunk(1, content="b", finish="length"), True),
        (STREAM, chunk(content="a") + chunk(finish="error", error={"code": 502, "message": "upstream"}), False),
    ],
)
def test_stream_that_ends_oddly_is_either_completed_once_or_an_error(
    start_gateway: StartGateway, body: dict[str, object], events: bytes, complete: bool
) -> None:
    with answering(EVENTS + events) as url:
        gateway = start_gateway(student_url=url)
        response = gateway.post(body)
        frames = response.content.removesuffix(b"\n\n").split(b"\n\n")
        assert response.content.count(b"[DONE]") == int(complete)
        assert (b'"error"' in frames[-1]) != complete
        assert b'"usage"' not in response.content
        for frame in frames[: -1 if complete else None]:
            json.loads(frame.removeprefix(b"data: "))
        assert gateway.records()[-1].outcome == ("ok" if complete else "backend_error")
        if USAGE in events:
            assert gateway.records()[-1].usage is not None


@pytest.mark.parametrize(
    "answer",
    [
        b'{"choices":[{"message":{"content":"half \\ud83d"},"finish_reason":"stop"}]}',
        b'{"choices":[{"message":{"content":"x"},"finish_reason":"stop"}],"usage":[1]}',
    ],
)
def test_odd_but_legal_answer_is_passed_on_instead_of_being_paid_twice(
    start_gateway: StartGateway, teacher: BackendThread, answer: bytes
) -> None:
    head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(answer)
    with answering(head + answer) as url:
        response = start_gateway(student_url=url).post(PLAIN)
    assert response.content == answer
    assert chats(teacher) == 0


IMPOSSIBLE = b"9" * 400
CLAIMING = {
    "/v1/chat/completions": b'{"choices":[{"message":{"content":"x"},"finish_reason":"stop"}],"usage":{"prompt_tokens":%s,"completion_tokens":1}}',
    "/v1/messages": b'{"type":"message","content":[{"type":"text","text":"x"}],"usage":{"input_tokens":%s,"output_tokens":1}}',
    "/v1/embeddings": b'{"data":[1],"usage":{"prompt_tokens":%s}}',
}
REQUESTS = {
    "/v1/chat/completions": PLAIN,
    "/v1/messages": {**PLAIN, "max_tokens": 5},
    "/v1/embeddings": {"model": "student", "input": "a"},
}


@pytest.mark.parametrize("path", CLAIMING)
@pytest.mark.parametrize("tokens", [IMPOSSIBLE, b"-5", b"true", b"null"])
def test_answer_is_passed_on_and_recorded_without_usage_when_its_usage_is_impossible(
    start_gateway: StartGateway, path: str, tokens: bytes
) -> None:
    answer = CLAIMING[path] % tokens
    with answering(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n\r\n" + answer) as url:
        table = f'[embeddings]\nbase_url = "{url}"\nmodel = "student"\nprice_usd_per_1m_input_tokens = 1.0\n'
        gateway = start_gateway(student_url=url, student='native_apis = ["messages"]', rest=table)
        response = httpx.post(f"{gateway.origin}{path}", json=REQUESTS[path], timeout=20)
        assert (response.status_code, response.content) == (200, answer)
        (record,) = gateway.records()
        assert (record.outcome, record.usage, record.cost_usd) == ("ok", None, None)


def test_stream_is_passed_on_and_recorded_without_usage_when_its_usage_is_impossible(
    start_gateway: StartGateway,
) -> None:
    events = chunk(content="a") + chunk(finish="stop") + USAGE.replace(b"7", IMPOSSIBLE) + b"\n\ndata: [DONE]\n\n"
    with answering(EVENTS + events) as url:
        gateway = start_gateway(student_url=url)
        assert gateway.post(STREAM).content.endswith(b"data: [DONE]\n\n")
        (record,) = gateway.records()
        assert (record.outcome, record.usage) == ("ok", None)


@pytest.mark.parametrize("answer", [b"[" * 100_000, b"x" * 3_000_000, b"", b'{"data": 7}', b"\xff"])
def test_gateway_starts_and_goes_on_when_a_backend_lists_its_models_oddly(
    start_gateway: StartGateway, answer: bytes
) -> None:
    with answering(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(answer) + answer) as url:
        gateway = start_gateway(student_url=url, server="")
        assert gateway.post({**PLAIN, "model": "teacher"}).status_code == 200


def test_second_answer_in_the_same_segment_is_never_given_to_the_next_request(
    start_gateway: StartGateway, wait_until: Callable[[Callable[[], bool]], None]
) -> None:
    body = b'{"choices":[{"message":{"content":"x"},"finish_reason":"stop"}]}'
    one = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(body) + body
    with answering(one + b"HTTP/1.1 200 OK\r\ncontent-le") as url:
        gateway = start_gateway(student_url=url)
        for _ in range(3):
            assert gateway.post(PLAIN).status_code == 200


def test_client_that_stops_reading_gives_its_place_back_when_its_time_is_over(
    start_gateway: StartGateway, wait_until: Callable[[Callable[[], bool]], None]
) -> None:
    gateway = start_gateway(server="request_timeout_s = 3.0\nmax_inflight_requests = 2")
    body = json.dumps({**STREAM, "messages": [{"role": "user", "content": "[[fake-tokens-200000]]"}]}).encode()
    head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % len(body)
    stuck = []
    for _ in range(2):
        client = socket.create_connection(("127.0.0.1", int(gateway.origin.rpartition(":")[2])), timeout=10)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.sendall(head + body)
        stuck.append(client)
    wait_until(lambda: [record.outcome for record in gateway.records()] == ["timeout"] * 2)
    wait_until(lambda: gateway.metric("router_inflight_requests") == 0)
    assert gateway.post(PLAIN).status_code == 200
    for client in stuck:
        client.close()


@pytest.mark.parametrize("key", ["secret-key-7\n", "  secret-key-7 \r\n"])
def test_line_break_of_a_mounted_secret_is_no_part_of_it(
    start_gateway: StartGateway, teacher: BackendThread, key: str
) -> None:
    gateway = start_gateway(environ={"TEACHER_KEY": key}, teacher='api_key_env = "TEACHER_KEY"')
    gateway.post({**PLAIN, "model": "teacher"})
    assert teacher.state.received[-1].header("authorization") == b"Bearer secret-key-7"


@pytest.mark.parametrize("key", ["a\r\nx-evil: 1", " ", "schl\u00fcssel", "two words"])
def test_key_that_no_header_can_hold_is_refused_by_the_name_of_its_variable(
    start_gateway: StartGateway, key: str
) -> None:
    with pytest.raises(ValueError, match=r"teacher\.api_key_env.*TEACHER_KEY") as caught:
        start_gateway(environ={"TEACHER_KEY": key}, teacher='api_key_env = "TEACHER_KEY"')
    assert key.strip() == "" or key not in str(caught.value)


def test_time_to_first_token_is_never_negative(gateway: RunningGateway) -> None:
    for _ in range(50):
        gateway.post(STREAM)
    assert all(record.ttft_s is not None and record.ttft_s >= 0 for record in gateway.records())
