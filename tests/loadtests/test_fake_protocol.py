"""The fake backend on raw sockets: HTTP framing, pipelining, and the faults a client library would hide."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from loadtests.fake_backend import BackendThread

from .conftest import RawConnection, Wait, chat_request

Connect = Callable[[], RawConnection]


def test_pipelined_requests_are_answered_in_order_when_sent_at_once(connect: Connect) -> None:
    connection = connect()
    models = ["fake-delay-0.1-tokens-1", "fake-tokens-2", "fake-tokens-3-delay-0.05", "fake-tokens-4"]
    connection.send(b"".join(chat_request(model) for model in models))
    answers = [json.loads(connection.read_response()[1]) for _ in models]
    assert [answer["model"] for answer in answers] == models
    assert [answer["usage"]["completion_tokens"] for answer in answers] == [1, 2, 3, 4]


def test_requests_beyond_the_pipeline_bound_are_answered_when_sent_at_once(connect: Connect) -> None:
    connection = connect()
    connection.send(chat_request("fake-delay-0.05") + chat_request() * 400)
    for _ in range(401):
        assert connection.read_response()[0].startswith(b"HTTP/1.1 200 OK")


def test_delayed_answers_go_out_at_once_when_hurried(backend: BackendThread, connect: Connect, wait_for: Wait) -> None:
    """The socket's own timeout is 10 s."""
    early, late = connect(), connect()
    early.send(chat_request("fake-delay-600"))
    wait_for(lambda: backend.state.in_flight == 1)
    backend.state.hurry()
    assert early.read_response()[0].startswith(b"HTTP/1.1 200 OK")
    late.send(chat_request("fake-delay-600"))
    assert late.read_response()[0].startswith(b"HTTP/1.1 200 OK")


def test_request_is_read_when_it_comes_byte_by_byte(connect: Connect) -> None:
    connection = connect()
    for byte in chat_request():
        connection.send(bytes([byte]))
    assert connection.read_response()[0].startswith(b"HTTP/1.1 200 OK")


def test_chunked_body_is_joined_when_sent_in_pieces(backend: BackendThread, connect: Connect) -> None:
    body = b'{"model":"student","messages":[{"role":"user","content":"hi"}]}'
    pieces = [body[:5], body[5:30], body[30:]]
    encoded = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"
    connection = connect()
    head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    connection.send((head + encoded) * 2)
    for _ in range(2):
        assert connection.read_response()[0].startswith(b"HTTP/1.1 200 OK")
    assert [entry.body for entry in backend.state.received] == [body, body]


def test_expect_continue_is_granted_when_the_client_waits(connect: Connect) -> None:
    head, _, body = chat_request().partition(b"\r\n\r\n")
    connection = connect()
    connection.send(head + b"\r\nExpect: 100-continue\r\n\r\n")
    assert connection.read_until(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
    connection.send(body)
    assert connection.read_response()[0].startswith(b"HTTP/1.1 200 OK")


def test_connection_is_closed_when_the_client_says_so(connect: Connect) -> None:
    connection = connect()
    connection.send(chat_request().replace(b"host: x", b"connection: close"))
    assert b"connection: close" in connection.read_to_end()


def test_bad_http_is_refused_when_sent(connect: Connect) -> None:
    connection = connect()
    connection.send(b"NONSENSE\r\n\r\n")
    assert connection.read_to_end().startswith(b"HTTP/1.1 400 Bad Request")


def test_stream_bytes_are_vllms_when_fixed(connect: Connect) -> None:
    connection = connect()
    connection.send(chat_request("fake-fixed-tokens-1", stream=True, stream_options={"include_usage": True}))
    connection.read_until(b"\r\n\r\n")
    common = (
        'data: {"id":"chatcmpl-fixed","object":"chat.completion.chunk","created":1700000000,'
        '"model":"fake-fixed-tokens-1","choices":['
    )
    events = [
        '{"index":0,"delta":{"role":"assistant","content":""},"logprobs":null,"finish_reason":null}],'
        '"prompt_token_ids":null,"prompt_text":null}',
        '{"index":0,"delta":{"content":"The"},"logprobs":null,"finish_reason":null,"token_ids":null}]}',
        '{"index":0,"delta":{"content":""},"logprobs":null,"finish_reason":"stop","stop_reason":null,"token_ids":null}]}',
        '],"usage":{"prompt_tokens":8,"total_tokens":9,"completion_tokens":1}}',
    ]
    for event in (*(common + event for event in events), "data: [DONE]"):
        payload = f"{event}\n\n".encode()
        expected = b"%x\r\n%b\r\n" % (len(payload), payload)
        assert connection.read_until(b"\n\n\r\n") == expected
    assert connection.read_until(b"0\r\n\r\n") == b"0\r\n\r\n"


@pytest.mark.parametrize("stream", [False, True])
def test_connection_is_reset_before_any_byte_when_told(connect: Connect, stream: bool) -> None:
    connection = connect()
    connection.send(chat_request("fault-reset", stream=stream))
    with pytest.raises(ConnectionResetError):
        connection.read_to_end()
    assert connection.received == b""


def test_connection_is_closed_before_any_byte_when_told(connect: Connect) -> None:
    connection = connect()
    connection.send(chat_request("fault-close"))
    assert connection.read_to_end() == b""


def test_stream_is_reset_after_its_chunks_when_told(backend: BackendThread, connect: Connect, wait_for: Wait) -> None:
    connection = connect()
    connection.send(chat_request(content="[[fault-reset-mid-3]]", stream=True))
    with pytest.raises(ConnectionResetError):
        connection.read_to_end()
    assert connection.received.count(b'"delta":{"content":') == 3
    wait_for(lambda: backend.state.in_flight == 0 and backend.state.connections == 0)
    assert (backend.state.faulted, backend.state.aborted) == (1, 0)


def test_stream_ends_without_its_last_chunk_when_truncated(connect: Connect) -> None:
    connection = connect()
    connection.send(chat_request("fault-truncate-3", stream=True))
    received = connection.read_to_end()
    assert received.count(b'"delta":{"content":') == 3
    assert not received.endswith(b"0\r\n\r\n")


def test_stream_ends_with_its_last_chunk_when_cut(connect: Connect) -> None:
    connection = connect()
    connection.send(chat_request("fault-cut-3", stream=True).replace(b"host: x", b"connection: close"))
    received = connection.read_to_end()
    assert received.count(b'"delta":{"content":') == 3
    assert received.endswith(b"0\r\n\r\n")
    assert b"[DONE]" not in received


@pytest.mark.parametrize("fault", ["fault-truncate-3", "fault-reset-mid-3"])
def test_plain_body_stops_halfway_when_told(connect: Connect, fault: str) -> None:
    connection = connect()
    connection.send(chat_request(fault))
    try:
        connection.read_to_end()
    except ConnectionResetError:
        assert "reset" in fault
    head, _, body = connection.received.partition(b"\r\n\r\n")
    promised = int(head.split(b"content-length: ")[1].split(b"\r\n")[0])
    assert 0 < len(body) < promised


@pytest.mark.parametrize(("fault", "marker"), [("fault-hang", b""), ("fault-hang-mid-3", b" brown")])
def test_backend_sees_the_client_leave_when_it_hangs(
    backend: BackendThread, connect: Connect, wait_for: Wait, fault: str, marker: bytes
) -> None:
    connection = connect()
    connection.send(chat_request(fault, stream=True))
    wait_for(lambda: backend.state.in_flight == 1)
    if marker:
        connection.read_until(marker)
    connection.close()
    wait_for(lambda: backend.state.aborted == 1)
    assert backend.state.in_flight == 0


def test_stream_lacks_done_when_told(connect: Connect) -> None:
    connection = connect()
    connection.send(chat_request("fault-no-done", stream=True))
    received = connection.read_until(b"0\r\n\r\n")
    assert b'"finish_reason":"stop"' in received
    assert b"[DONE]" not in received


def test_error_frame_is_followed_by_done_when_told(connect: Connect) -> None:
    connection = connect()
    connection.send(chat_request("fault-error-frame-mid-2", stream=True))
    received = connection.read_until(b"0\r\n\r\n")
    assert received.count(b'"delta":{"content":') == 2
    assert received.index(b'data: {"error":{') < received.index(b"data: [DONE]")


def test_headers_come_line_by_line_when_slow(connect: Connect) -> None:
    connection = connect()
    connection.send(chat_request("fault-slow-headers-0.05"))
    first = connection.read_until(b"\r\n")
    assert first == b"HTTP/1.1 200 OK\r\n"
    assert b"\r\n\r\n" not in connection.received
    assert connection.read_response()[1].startswith(b"{")


def test_body_is_not_json_when_garbage(connect: Connect) -> None:
    connection = connect()
    connection.send(chat_request("fault-garbage"))
    head, body = connection.read_response()
    assert head.startswith(b"HTTP/1.1 200 OK")
    with pytest.raises(UnicodeDecodeError):
        json.loads(body)


def test_stream_lines_end_in_crlf_when_told(connect: Connect) -> None:
    connection = connect()
    connection.send(chat_request("fake-crlf-heartbeat-tokens-1", stream=True))
    received = connection.read_until(b"0\r\n\r\n")
    assert received.count(b": heartbeat\r\n\r\n") == 4
    assert b"\n\n" not in received


def test_recorded_answer_equals_the_wire_when_pieces_are_odd(backend: BackendThread, connect: Connect) -> None:
    connection = connect()
    connection.send(chat_request("fake-odd-tokens-6", stream=True))
    wire = connection.read_until(b"\r\n0\r\n\r\n").partition(b"\r\n\r\n")[2]
    joined = b""
    while (size := int(wire[: wire.index(b"\r\n")], 16)) != 0:
        start = wire.index(b"\r\n") + 2
        joined, wire = joined + wire[start : start + size], wire[start + size + 2 :]
    assert joined == b"".join(backend.state.received[-1].response)
    assert joined.endswith(b"data: [DONE]\r\n\r\n")
