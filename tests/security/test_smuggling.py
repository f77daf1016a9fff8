"""Requests that two servers could read in two ways are refused, and the connection with them (RFC 9112, 6 and 11.2)."""

from __future__ import annotations

import pytest

from loadtests.fake_backend import BackendThread
from tests.contract.conftest import RunningGateway, chats
from tests.security.attacks import BODY, CHAT, END, chunked, said

N = len(BODY)
SMUGGLED = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % N + BODY
"""Must never be taken for a request where it is the body of another one, or its rest."""


def post(*headers: bytes, body: bytes = BODY, line: bytes = CHAT) -> bytes:
    return line + b"".join(header + b"\r\n" for header in headers) + b"\r\n" + body


LENGTH = b"content-length: %d" % N
HOST = b"host: gateway"
CHUNKED = b"transfer-encoding: chunked"

FRAMING = {
    "length_and_chunks": post(HOST, b"content-length: 5", CHUNKED, body=b"0\r\n\r\n" + SMUGGLED),
    "chunks_and_length": post(HOST, CHUNKED, LENGTH, body=chunked()),
    "unknown_coding": post(HOST, b"transfer-encoding: xchunked", body=chunked()),
    "two_codings": post(HOST, b"transfer-encoding: gzip, chunked", body=chunked()),
    "chunked_not_last": post(HOST, b"transfer-encoding: chunked, identity", body=chunked()),
    "coding_twice": post(HOST, CHUNKED, CHUNKED, body=chunked()),
    "second_coding_wins": post(HOST, CHUNKED, b"transfer-encoding: identity", body=chunked()),
    "identity": post(HOST, b"transfer-encoding: identity", LENGTH),
    "vertical_tab": post(HOST, b"transfer-encoding: \x0bchunked", body=chunked()),
    "blank_before_colon": post(HOST, b"transfer-encoding : chunked", body=chunked()),
    "quoted": post(HOST, b'transfer-encoding: "chunked"', body=chunked()),
    "folded": post(HOST, b"transfer-encoding:\r\n chunked", body=chunked()),
    "http_1_0_chunks": post(CHUNKED, body=chunked(), line=CHAT.replace(b"1.1", b"1.0")),
    "two_lengths": post(HOST, LENGTH, b"content-length: 5"),
    "same_length_twice": post(HOST, LENGTH, LENGTH),
    "list_of_lengths": post(HOST, b"content-length: %d, %d" % (N, N)),
    "plus": post(HOST, b"content-length: +%d" % N),
    "minus": post(HOST, b"content-length: -1"),
    "hex": post(HOST, b"content-length: 0x%x" % N),
    "no_number": post(HOST, b"content-length: "),
    "blank_in_number": post(HOST, b"content-length: %d 1" % N),
    "nul_behind_number": post(HOST, LENGTH + b"\x00"),
    "number_too_large": post(HOST, b"content-length: 99999999999999999999999"),
    "chunk_too_large": post(HOST, CHUNKED, body=chunked(size=b"1ffffffffffffffff0")),
    "chunk_hex_prefix": post(HOST, CHUNKED, body=chunked(size=b"0x%x" % N)),
    "chunk_negative": post(HOST, CHUNKED, body=chunked(size=b"-1")),
    "chunk_blanks": post(HOST, CHUNKED, body=chunked(size=b"%x  " % N)),
    "chunk_without_size": post(HOST, CHUNKED, body=chunked(size=b"")),
    "chunk_longer_than_said": post(HOST, CHUNKED, body=chunked(size=b"%x" % (N - 2))),
    "length_as_trailer": post(HOST, CHUNKED, body=chunked(end=b"0\r\ncontent-length: 5\r\n\r\n")),
    "chunk_bare_lf": post(HOST, CHUNKED, body=b"%x\n%b\n0\n\n" % (N, BODY)),
    "chunk_extension_with_lf": post(HOST, CHUNKED, body=chunked(size=b"%x;a\nb" % N)),
}
LINES = {
    "bare_lf": post(HOST, LENGTH, body=b"").replace(b"\r\n", b"\n") + BODY,
    "one_bare_lf": CHAT + b"host: x\n" + LENGTH + b"\r\n\r\n" + BODY,
    "bare_lf_ends_head": CHAT + HOST + b"\r\n" + LENGTH + b"\r\n\n" + BODY,
    "bare_cr": CHAT + b"host: x\r" + LENGTH + b"\r\n\r\n" + BODY,
    "cr_in_value": post(HOST, b"x-a: b\rtransfer-encoding: chunked", LENGTH),
    "fold": post(HOST, b"x-a: b\r\n content-length: 5", LENGTH),
    "fold_with_tab": post(HOST, b"x-a: b\r\n\tc", LENGTH),
    "fold_first": CHAT + b" host: x\r\n" + LENGTH + b"\r\n\r\n" + BODY,
    "nul_in_value": post(HOST, b"x-a: b\x00c", LENGTH),
    "nul_in_name": post(HOST, b"x-\x00a: b", LENGTH),
    "no_name": post(HOST, b": b", LENGTH),
    "no_colon": post(HOST, b"xyz", LENGTH),
    "no_host": post(LENGTH),
    "two_hosts": post(HOST, b"host: other", LENGTH),
    "http_0_9": b"GET /healthz\r\n\r\n",
    "http_1_2": post(HOST, LENGTH, line=CHAT.replace(b"1.1", b"1.2")),
    "http_2_preface": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "lower_case_method": post(HOST, LENGTH, line=CHAT.replace(b"POST", b"post")),
    "authority_as_target": b"GET evil.example:80 HTTP/1.1\r\nhost: x\r\n\r\n",
    "raw_bytes_in_path": b"GET /v1/models/\xff\xfe HTTP/1.1\r\nhost: x\r\n\r\n",
}


@pytest.mark.parametrize("sent", [*FRAMING.values(), *LINES.values()], ids=[*FRAMING, *LINES])
def test_ambiguous_request_is_refused_with_its_connection(
    target: RunningGateway, student: BackendThread, sent: bytes
) -> None:
    before = chats(student)
    answers = said(target, sent + SMUGGLED)
    assert [answer.status for answer in answers] == [400]
    assert answers[0].json()["error"]["code"] == "invalid_http"
    assert b"connection: close" in answers[0].head.lower()
    assert chats(student) == before


ONE_REQUEST = {
    "chunks": post(HOST, CHUNKED, body=chunked()),
    "chunks_in_capitals": post(HOST, b"Transfer-Encoding:\tCHUNKED", body=chunked()),
    "chunk_extension": post(HOST, CHUNKED, body=chunked(size=b"%x;name=value" % N)),
    "trailers": post(HOST, CHUNKED, body=chunked(end=b"0\r\nhost: other\r\nx-router-route: teacher\r\n\r\n")),
    "underscores": post(HOST, b"transfer_encoding: chunked", b"content_length: 3", LENGTH),
    "expects_nothing_known": post(HOST, b"expect: 200-maybe", LENGTH),
    "absolute_target": post(HOST, LENGTH, line=CHAT.replace(b"/v1", b"http://evil.example/v1")),
}


@pytest.mark.parametrize("sent", ONE_REQUEST.values(), ids=ONE_REQUEST)
def test_clear_request_is_exactly_one_request(target: RunningGateway, student: BackendThread, sent: bytes) -> None:
    before = chats(student)
    answers = said(target, sent + END)
    assert [answer.status for answer in answers] == [200, 200]
    assert chats(student) == before + 1
    assert student.state.received[-1].body == BODY


@pytest.mark.parametrize("framing", [b"content-length: %d" % len(SMUGGLED), CHUNKED])
@pytest.mark.parametrize("path", [b"/healthz", b"/v1/models", b"/metrics", b"/no-such-path"])
def test_body_of_a_request_that_takes_none_is_not_the_next_request(
    target: RunningGateway, student: BackendThread, path: bytes, framing: bytes
) -> None:
    before = chats(student)
    body = SMUGGLED if framing != CHUNKED else chunked(SMUGGLED)
    answers = said(target, b"GET " + path + b" HTTP/1.1\r\nhost: x\r\n" + framing + b"\r\n\r\n" + body + END)
    assert len(answers) == 2
    assert chats(student) == before


def test_body_that_was_refused_unread_is_not_the_next_request(target: RunningGateway, student: BackendThread) -> None:
    before = chats(student)
    head = CHAT + b"host: x\r\ncontent-encoding: gzip\r\ncontent-length: %d\r\n\r\n" % len(SMUGGLED)
    assert [answer.status for answer in said(target, head + SMUGGLED + END)] == [415, 200]
    assert chats(student) == before


def test_nothing_is_served_behind_a_request_that_closes_the_connection(
    target: RunningGateway, student: BackendThread
) -> None:
    before = chats(student)
    assert len(said(target, post(HOST, b"connection: close", LENGTH) + SMUGGLED)) == 1
    assert chats(student) == before + 1


@pytest.mark.parametrize(
    "target_form", [b"http://169.254.169.254/latest/meta-data", b"//evil.example/v1/models", b"*", b"/../etc/passwd"]
)
def test_target_is_only_ever_a_path_of_ours(target: RunningGateway, target_form: bytes) -> None:
    """The gateway is no forward proxy: whatever host a request names, nothing is fetched from there."""
    answers = said(target, b"GET " + target_form + b" HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
    assert [answer.status for answer in answers] == [404]
    assert answers[0].json()["error"]["code"] == "not_found"
