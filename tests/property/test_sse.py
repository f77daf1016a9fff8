"""Frames survive any cut of the byte stream, and reading them never raises."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from router.sse import ChatStreamReader, FrameSplitter, payload

line_ends = st.sampled_from([b"\n", b"\r\n"])
texts = st.text(alphabet=st.characters(exclude_characters="\r\n", codec="utf-8"), max_size=30)


@st.composite
def streams(draw: st.DrawFn) -> list[bytes]:
    end = draw(line_ends)
    kinds = st.sampled_from([b"data: ", b"data:", b": ", b"event: x" + end + b"data: "])
    return [draw(kinds) + draw(texts).encode() + end + end for _ in range(draw(st.integers(0, 8)))]


@given(streams(), st.lists(st.integers(1, 40), max_size=40))
def test_splitter_gives_the_same_frames_however_the_bytes_arrive(frames: list[bytes], cuts: list[int]) -> None:
    data = b"".join(frames)
    splitter = FrameSplitter()
    got: list[bytes] = []
    position = 0
    for cut in [*cuts, len(data) + 1]:
        got += splitter.feed(data[position : position + cut])
        position += cut
    assert got == frames
    assert splitter.rest() == b""


@given(st.lists(st.binary(max_size=80), max_size=8), st.booleans())
def test_splitter_and_reader_take_any_bytes(chunks: list[bytes], hide_usage: bool) -> None:
    splitter, reader = FrameSplitter(), ChatStreamReader(hide_usage=hide_usage)
    seen = b""
    for chunk in chunks:
        for frame in splitter.feed(chunk):
            seen += frame
            reader.read(frame)
    assert seen + splitter.rest() == b"".join(chunks)


keys = st.sampled_from(["usage", "choices", "error", "delta", "finish_reason", "content", "prompt_tokens", "x"])
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=4),
)


@given(json_values, st.booleans())
def test_reader_takes_any_json(value: object, hide_usage: bool) -> None:
    frame = b"data: " + json.dumps(value).encode() + b"\n\n"
    delta = ChatStreamReader(hide_usage=hide_usage).read(frame)
    if not hide_usage:
        assert delta.frame == frame
    assert isinstance(delta.commits, bool)


@given(st.lists(texts.filter(lambda text: text.strip() == text and text), min_size=1, max_size=4))
def test_payload_joins_the_data_lines_of_a_frame(lines: list[str]) -> None:
    frame = b"".join(b"data: " + line.encode() + b"\n" for line in lines) + b"\n"
    expected = b"\n".join(line.encode() for line in lines)
    assert payload(frame) == expected
