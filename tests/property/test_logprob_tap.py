"""What a stream looks like behind the tap: as if nobody had asked for logprobs, whatever stands around them."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.logprob_tap import LogprobTap
from tests.property.test_additions import blanks, texts, values

OURS = {"logprobs", "choices"}
foreign = st.dictionaries(texts.filter(lambda key: key not in OURS), values, max_size=4)
line_ends = st.sampled_from(["\n", "\r\n"])
logprobs = st.floats(-20, 0, allow_subnormal=False)
Frames = list[tuple[str, str]]


def entries(tokens: list[float]) -> str:
    quoted = '"logprobs":{\\"'
    listed = [
        {"token": quoted, "logprob": value, "bytes": [1], "top_logprobs": [{"token": "x", "logprob": None}]}
        for value in tokens
    ]
    return json.dumps({"content": listed})


@st.composite
def streams(draw: st.DrawFn, *, nulls: bool) -> tuple[Frames, list[float]]:
    """Frames as the backend sends them beside those without our logprobs, and the logprobs that they tell.

    Args:
        nulls: the backend spells absent members, as its first chunk shows.
    """
    end = draw(line_ends)
    told: list[float] = []
    frames: Frames = []

    def frame(tokens: list[float] | None) -> None:
        ours = [("logprobs", entries(tokens), "null" if nulls else None)] if tokens else []
        if nulls and not tokens:
            ours = [("logprobs", "null", "null")]
        choice = [(key, json.dumps(value), json.dumps(value)) for key, value in draw(foreign_of_choice).items()]
        choice.insert(draw(st.integers(0, len(choice))), ("finish_reason", "null", "null"))
        for each in ours:
            choice.insert(draw(st.integers(0, len(choice))), each)
        sent, shown = written(choice)
        around = [(key, json.dumps(value), json.dumps(value)) for key, value in draw(foreign_of_chunk).items()]
        around.insert(draw(st.integers(0, len(around))), ("choices", f"[{sent}]", f"[{shown}]"))
        sent, shown = written(around)
        lead = draw(st.sampled_from(["data: ", "data:", f": note{end}data: ", f"event: x{end}data: "]))
        frames.append((f"{lead}{sent}{end}{end}", f"{lead}{shown}{end}{end}"))
        told.extend(tokens or [])

    def written(members: list[tuple[str, str, str | None]]) -> tuple[str, str]:
        gap = draw(st.sampled_from(["", " "]))
        with_ours = ",".join(f"{json.dumps(key)}:{gap}{sent}" for key, sent, _ in members)
        plain = ",".join(f"{json.dumps(key)}:{gap}{shown}" for key, _, shown in members if shown is not None)
        return f"{{{with_ours}}}", f"{{{plain}}}"

    # Where nothing absent is spelled, nothing else is null either.
    clean = foreign if nulls else foreign.map(_without_nulls)
    # A few sets of members for all frames: to draw them anew for each was nine tenths of the time.
    some = st.sampled_from(draw(st.lists(clean, min_size=1, max_size=3)))
    foreign_of_choice, foreign_of_chunk = some, some
    if nulls:
        frame(None)
    for tokens in draw(st.lists(st.lists(logprobs, max_size=3), max_size=5)):
        frame(tokens)
    frames.append((f"data: [DONE]{end}{end}",) * 2)
    return frames, told


def _without_nulls(members: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in members.items() if "null" not in json.dumps(value)}


def passed(frames: Frames, cuts: list[int], tap: LogprobTap) -> bytes:
    data, got, position = "".join(sent for sent, _ in frames).encode(), b"", 0
    for cut in [*cuts, len(data) + 1]:
        got += tap.feed(data[position : position + cut])
        position += cut
    assert tap.rest() == b""
    return got


pieces = st.lists(st.integers(1, 200), max_size=20)


@given(streams(nulls=True) | streams(nulls=False), pieces)
def test_hidden_logprobs_leave_no_trace_however_the_bytes_arrive(
    case: tuple[Frames, list[float]], cuts: list[int]
) -> None:
    frames, told = case
    tap = LogprobTap(hidden=True)
    assert passed(frames, cuts, tap).decode() == "".join(shown for _, shown in frames)
    mean = tap.mean_logprob("length")
    assert mean == (pytest.approx(sum(told) / len(told)) if told else None)


@given(streams(nulls=True) | streams(nulls=False), pieces)
def test_clients_own_logprobs_pass_untouched_and_are_read_all_the_same(
    case: tuple[Frames, list[float]], cuts: list[int]
) -> None:
    frames, told = case
    tap = LogprobTap(hidden=False)
    assert passed(frames, cuts, tap).decode() == "".join(sent for sent, _ in frames)
    assert tap.mean_logprob(None) == (pytest.approx(sum(told) / len(told)) if told else None)


@given(st.lists(st.binary(max_size=80), max_size=8), st.booleans())
def test_tap_takes_any_bytes(chunks: list[bytes], hidden: bool) -> None:
    tap = LogprobTap(hidden=hidden)
    assert b"".join(map(tap.feed, chunks)) + tap.rest() == b"".join(chunks)


@given(st.recursive(values, lambda inner: st.fixed_dictionaries({"choices": st.lists(inner, max_size=2)})), blanks)
def test_tap_takes_any_json(value: object, blank: str) -> None:
    tap = LogprobTap(hidden=True)
    shown = tap.feed(f"data:{blank}{json.dumps({'choices': value, 'logprobs': value})}\n\n".encode())
    # A chunk with nothing in it but our logprobs is left out; of any other the rest stays.
    assert shown == b"" or json.loads(shown.removeprefix(b"data:"))["logprobs"] == value


def test_json_over_several_lines_comes_back_without_logprobs() -> None:
    frame = b'event: x\r\ndata: {"choices":[{"delta":{"content":"a"},\r\ndata: "logprobs":{"content":[{"logprob":-1}]}}]}\r\n\r\n'
    tap = LogprobTap(hidden=True)
    shown = tap.feed(frame)
    assert shown == b'event: x\r\ndata: {"choices":[{"delta":{"content":"a"}}]}\r\n\r\n'
    assert tap.mean_logprob(None) == -1


def test_events_count_as_tokens_where_the_backend_tells_no_logprobs() -> None:
    tap = LogprobTap(hidden=True)
    tap.feed(b'data: {"choices":[{"delta":{"role":"assistant","content":""}}]}\n\n')
    for text in (b"a", b"b"):
        tap.feed(b'data: {"choices":[{"delta":{"content":"%b"}}]}\n\n' % text)
    tap.feed(b'data: {"choices":[],"usage":null}\n\n')
    assert (tap.tokens, tap.mean_logprob("stop")) == (2, None)


def test_chunk_that_is_there_for_its_logprobs_alone_disappears() -> None:
    """vLLM sends such ones for tokens that its parsers hold back; without logprobs there would be no chunk."""
    told = b'"logprobs":{"content":[{"logprob":-3}]}'
    alone = b'data: {"choices":[{"index":0,"delta":{},%b,"finish_reason":null,"token_ids":null}]}\n\n' % told
    last = b'data: {"choices":[{"index":0,"delta":{},%b,"finish_reason":"stop","stop_reason":null}]}\n\n'
    tap = LogprobTap(hidden=True)
    assert tap.feed(alone) == b""
    assert tap.feed(alone + last % told) == last % b'"logprobs":null'
    assert (tap.tokens, tap.mean_logprob("length")) == (3, -3)
    asked_for = LogprobTap(hidden=False)
    assert asked_for.feed(alone) == alone
