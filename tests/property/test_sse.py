"""Frames survive any cut of the byte stream, and reading them never raises."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from router.sse import ChatStreamReader, FrameSplitter, delta_text, frames_of, is_ordinary, payload, text_of

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
        got += frames_of(splitter.feed(data[position : position + cut]))
        position += cut
    assert got == frames
    assert splitter.rest() == b""


@given(st.lists(st.binary(max_size=80), max_size=8), st.booleans())
def test_splitter_and_reader_take_any_bytes(chunks: list[bytes], hide_usage: bool) -> None:
    splitter, reader = FrameSplitter(), ChatStreamReader(hide_usage)
    seen = b""
    for chunk in chunks:
        block = splitter.feed(chunk)
        assert b"".join(frames_of(block)) == block
        for frame in frames_of(block):
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
    delta = ChatStreamReader(hide_usage).read(frame)
    if not hide_usage:
        assert delta.frame == frame
    assert isinstance(delta.commits, bool)


@given(st.lists(texts.filter(lambda text: text.strip() == text and text), min_size=1, max_size=4))
def test_payload_joins_the_data_lines_of_a_frame(lines: list[str]) -> None:
    frame = b"".join(b"data: " + line.encode() + b"\n" for line in lines) + b"\n"
    expected = b"\n".join(line.encode() for line in lines)
    assert payload(frame) == expected


@given(
    st.lists(json_values | st.just("[DONE]"), min_size=1, max_size=4),
    st.sampled_from([(",", ":"), (", ", ": "), (" ,", " : ")]),
    line_ends,
    st.booleans(),
)
def test_ordinary_blocks_hold_nothing_that_the_reader_would_act_on(
    values: list[object], separators: tuple[str, str], end: bytes, hide_usage: bool
) -> None:
    texts = ["[DONE]" if value == "[DONE]" else json.dumps(value, separators=separators) for value in values]
    frames = [b"data: " + text.encode() + end + end for text in texts]
    reader = ChatStreamReader(hide_usage)
    if is_ordinary(b"".join(frames)):
        for frame in frames:
            delta = reader.read(frame)
            assert (delta.frame, delta.done, delta.error, delta.finish_reason, delta.usage) == (frame, *NOTHING)


NOTHING = (False, None, None, None)


def plain_text(chunk: object) -> str:
    """The reference: what the content of the first choice is, by the letter."""
    match chunk:
        case {"choices": [{"delta": {"content": str(content)}}, *_]}:
            return content
    return ""


chunks = st.fixed_dictionaries(
    {},
    optional={
        "choices": json_values
        | st.lists(
            json_values
            | st.fixed_dictionaries(
                {}, optional={"delta": json_values | st.fixed_dictionaries({"content": json_values}), "x": json_values}
            ),
            max_size=3,
        ),
        "x": json_values,
    },
)


@given(st.lists(chunks | json_values, max_size=4))
def test_text_is_the_content_of_the_first_choice_whatever_the_types_are(values: list[object]) -> None:
    block = b"".join(b"data: " + json.dumps(value).encode() + b"\n\n" for value in values)
    expected = "".join(map(plain_text, values))
    assert text_of(block) == expected
    assert text_of(b": comment\n\n" + block) == expected
    assert text_of(block.replace(b"\n", b"\r\n")) == expected
    assert [delta_text(json.dumps(value).encode()) for value in values] == list(map(plain_text, values))
