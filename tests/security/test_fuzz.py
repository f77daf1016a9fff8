"""Whatever comes from clients: an answer in the dialect's form, never our own 500, never a hang."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadtests.fake_backend import BackendThread
from tests.security.attacks import BODY, CHAT, connect, everything
from tests.security.fuzzing import (
    JSON,
    STREAMING,
    VALID,
    Target,
    check_error,
    fuzz,
    places,
    put,
    running,
)

pytestmark = pytest.mark.timeout(900)


@pytest.fixture(scope="module")
def between_good_backends(
    student: BackendThread, teacher: BackendThread, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Target]:
    gateway = running(student.base_url, teacher.base_url, tmp_path_factory.mktemp("traffic"))
    gateway.start()
    yield Target(gateway, None)
    gateway.stop()


@st.composite
def requests(draw: st.DrawFn) -> tuple[str, bytes]:
    """A valid request with one to three of its parts replaced, for some endpoint."""
    path = draw(st.sampled_from(sorted(VALID)))
    body: Any = VALID[path] if path not in STREAMING else {**VALID[path], "stream": draw(st.booleans())}
    for _ in range(draw(st.integers(1, 3))):
        if not isinstance(body, dict | list):
            break
        body = put(body, draw(st.sampled_from(list(places(body)))), draw(JSON))
    data = json.dumps(body).encode()
    if draw(st.integers(0, 9)) == 0:  # and now and then broken as a text
        at = draw(st.integers(0, len(data)))
        data = data[:at] + draw(st.binary(max_size=3)) + data[at + draw(st.integers(0, 2)) :]
    return path, data


@fuzz
@given(request=requests())
def test_no_request_causes_an_error_of_ours(
    between_good_backends: Target, complaints: list[str], request: tuple[str, bytes]
) -> None:
    path, data = request
    answer = between_good_backends.http.post(path, content=data)
    assert answer.status_code < 500 or answer.status_code == 503, answer.text
    assert "internal_error" not in answer.text
    if answer.status_code >= 400:
        check_error(path, answer)


@st.composite
def broken_heads(draw: st.DrawFn) -> bytes:
    """A valid request as bytes, with some of its head replaced."""
    head = (
        CHAT
        + b"host: gateway\r\ncontent-type: application/json\r\nx-router-session: a\r\ncontent-length: %d\r\n\r\n"
        % len(BODY)
    )
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(head)))
        piece = draw(
            st.binary(max_size=3)
            | st.sampled_from(
                [
                    b"\r",
                    b"\n",
                    b"\r\n",
                    b"\x00",
                    b":",
                    b" ",
                    b"\t",
                    b"\r\n ",
                    b"\r\n\r\n",
                    b"content-length: 3\r\n",
                    b"\xff",
                ]
            )
        )
        head = head[:at] + piece + head[at + draw(st.integers(0, 3)) :]
    return head + BODY


@fuzz
@given(sent=broken_heads())
def test_no_bytes_on_a_connection_cause_an_error_of_ours(
    between_good_backends: Target, complaints: list[str], sent: bytes
) -> None:
    with connect(between_good_backends.gateway, timeout_s=15) as client:
        client.sendall(sent)
        client.shutdown(1)
        said = everything(client)  # ends: a connection that is left open would be a hang
    assert said == b"" or said.startswith(b"HTTP/1.1 "), said[:200]
    assert b"HTTP/1.1 5" not in said
