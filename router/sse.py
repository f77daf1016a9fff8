"""Server-sent events as bytes: they are looked at and passed on, never re-encoded.

A *frame* is one event with the blank line that ends it, a *block* is the whole frames that arrived together. Most
blocks are nothing but text on its way to the client: `is_ordinary` recognises them without cutting them apart.
"""

from __future__ import annotations

import contextlib
import re
from typing import Any, NamedTuple

import msgspec

from policies.record import Usage
from router.body import JsonBody
from router.errors import InvalidRequest

MAX_FRAME_BYTES = 16 * 2**20
MAX_FINGERPRINT_CHARS = 256
SEAM_BYTES = 3
"""A blank line of up to four bytes may begin in one piece and end in the next."""
MAX_COUNT = 2**53
"""A backend that claims more tokens counts nothing: metrics, prices and the log's columns could not hold the number."""

_blank_line = re.compile(rb"\r\n\r\n|\n\n|\r\r|\n\r\n|\r\n\n").search
_finish_reason = re.compile(rb'"finish_reason"\s*:\s*"([^"\\]{1,64})"').search
_null_usage = re.compile(rb',\s*"usage"\s*:\s*null|"usage"\s*:\s*null\s*,\s*')
_decode = msgspec.json.Decoder().decode

DONE_FRAME = b"data: [DONE]\n\n"


class FrameTooLarge(ValueError):
    """A backend sends an event that never ends."""


class FrameSplitter:
    """Cuts a byte stream where frames end. Holds at most one open frame, in the pieces in which it came: joining them
    only where it ends keeps the cost of a long one linear, and of one that never ends as well."""

    passes_whole_frames = True
    """Whether `feed` gives frames with the usual line ends back as they are, where nothing is `open`."""

    def __init__(self) -> None:
        self.open: list[bytes] = []
        self._open_bytes = 0
        self._tail = b""

    def feed(self, data: bytes) -> bytes:
        """The block of frames that `data` completes; empty when it completes none.

        Raises:
            FrameTooLarge: the open frame exceeds MAX_FRAME_BYTES.
        """
        if self.open:
            if not _holds_blank_line(self._tail + data):
                self._keep(data)
                return b""
            data = b"".join((*self.open, data))
            self.open.clear()
            self._open_bytes, self._tail = 0, b""
        if b"\r" in data:
            end = len(data) - len(_split_any(data)[1])
        elif data.endswith(b"\n\n"):  # the usual case: whole frames, and the usual line end
            return data
        else:
            end = data.rfind(b"\n\n") + 2 if b"\n\n" in data else 0
        if end < len(data):
            self._keep(data[end:])
        return data[:end]

    def rest(self) -> bytes:
        """What was received after the last complete frame."""
        return b"".join(self.open)

    def _keep(self, data: bytes) -> None:
        self.open.append(data)
        self._open_bytes += len(data)
        if self._open_bytes > MAX_FRAME_BYTES:
            raise FrameTooLarge
        tail = data if len(data) >= SEAM_BYTES else self._tail + data
        self._tail = tail[-SEAM_BYTES:]


def _holds_blank_line(data: bytes) -> bool:
    """Whether a frame may end here. `data` begins with the end of what was there before."""
    return _blank_line(data) is not None if b"\r" in data else b"\n\n" in data


def frames_of(block: bytes) -> list[bytes]:
    """The frames of a block, each with its blank line. Surplus newlines stay with a neighbour."""
    if b"\r" in block:
        frames, rest = _split_any(block)
    else:
        parts = block.split(b"\n\n")
        rest = parts.pop()
        frames = [part + b"\n\n" for part in parts]
    return [*frames, rest] if rest else frames


def _split_any(data: bytes) -> tuple[list[bytes], bytes]:
    """Frames with any line ends, and the open rest. At the end of the data some blank lines may still grow."""
    frames = []
    start = 0
    while (blank := _blank_line(data, start)) is not None:
        if blank.end() == len(data) and blank.group() in (b"\r\r", b"\n\r"):
            break
        frames.append(data[start : blank.end()])
        start = blank.end()
    return frames, data[start:]


def is_ordinary(block: bytes) -> bool:
    """Whether a block (or a frame) is only text for the client: no end, no finish reason, no usage, no error.

    True is certain. A look-alike, such as a text that speaks of `[DONE]`, makes it False and costs a closer look.
    """
    if b'"usage"' in block or b'"error"' in block or b"[DONE]" in block:
        return False
    open_choices = block.count(b'"finish_reason"')
    if not open_choices or open_choices == block.count(b'"finish_reason":null'):
        return True
    return open_choices == block.count(b'"finish_reason": null')


def payload(frame: bytes) -> bytes | None:
    """The data of a frame; None for comments and frames without data."""
    if frame.startswith(b"data:") and frame.count(b"\n") <= 2 and b"\r" not in frame:
        return frame[5:].strip()
    lines = [line[5:].strip() for line in frame.splitlines() if line.startswith(b"data:")]
    return b"\n".join(lines) if lines else None


class Delta(NamedTuple):
    """What one frame of a chat stream means to the router."""

    frame: bytes | None
    """What the client gets; None when the frame was only ours."""
    done: bool = False
    error: str | None = None
    """The backend's error message, when the frame is an error."""
    finish_reason: str | None = None
    finished: frozenset[int] = frozenset()
    """Indexes of the choices that end here; there are several when the client asked for `n` > 1."""
    usage: Usage | None = None
    fingerprint: str | None = None
    """What the backend says about itself; read where the answer ends."""
    data: bytes | None = None

    @property
    def commits(self) -> bool:
        """Whether the answer begins or ends here: not a comment, and not the chunk that only names the role."""
        if self.done or self.error is not None:
            return True
        return self.data is not None and not only_names_the_role(self.data)


class ChatStreamReader:
    """Reads the frames of one stream of chat completions, or of completions, which name their text otherwise.

    Args:
        hide_usage: the router asked for usage and the client did not: the usage frame, and the field `usage` in
            other frames, are cut out.
    """

    ending: bytes | None = DONE_FRAME

    def __init__(self, hide_usage: bool) -> None:
        self._hide_usage = hide_usage

    is_ordinary = staticmethod(is_ordinary)

    def text_of(self, block: bytes) -> str:
        return text_of(block)

    def read(self, frame: bytes) -> Delta:
        data = payload(frame)
        if data is None:
            return Delta(frame)
        if data == b"[DONE]":
            return Delta(frame, done=True)
        if b'"error"' in data:
            message = _error_message(data)
            if message is not None:
                return Delta(frame, error=message)
        found = _finish_reason(data)
        if found is None and b'"usage"' not in data:
            return Delta(frame, data=data)
        chunk = _object(data)
        return Delta(
            self._shown(frame, data, chunk) if b'"usage"' in data else frame,
            finish_reason=found[1].decode("ascii", "replace") if found else None,
            finished=_finished(chunk) if found else frozenset(),
            usage=usage_of(chunk),
            fingerprint=fingerprint_of(chunk.get("model"), chunk.get("system_fingerprint")),
            data=data,
        )

    def _shown(self, frame: bytes, data: bytes, chunk: dict[str, Any]) -> bytes | None:
        """The frame for a client that did not ask for usage."""
        if not self._hide_usage:
            return frame
        if chunk.get("usage") is None:
            return _null_usage.sub(b"", frame, count=1)
        if not chunk.get("choices"):
            return None
        try:
            return frame.replace(data, JsonBody.parse(data).splice(remove=["usage"]), 1)
        except InvalidRequest:
            return frame


def is_whole(data: bytes) -> bool:
    """Whether the data of a frame that nothing ended has nevertheless arrived completely."""
    return data == b"[DONE]" or bool(_object(data))


def _finished(chunk: dict[str, Any]) -> frozenset[int]:
    choices = chunk.get("choices")
    return frozenset(
        choice["index"] if isinstance(choice.get("index"), int) else 0
        for choice in (choices if isinstance(choices, list) else ())
        if isinstance(choice, dict) and choice.get("finish_reason") is not None
    )


def usage_of(answer: dict[str, Any]) -> Usage | None:
    """The `usage` object of an answer or a chunk; None when it is missing or not one."""
    usage = answer.get("usage")
    if not isinstance(usage, dict):
        return None
    counts: list[Any] = [usage.get("prompt_tokens"), usage.get("completion_tokens")]
    if not all(map(is_count, counts)):
        return None
    completion_tokens, reasoning_tokens = counts[1], _detail(usage, "completion_tokens_details", "reasoning_tokens")
    if reasoning_tokens and usage.get("total_tokens") == sum(counts) + reasoning_tokens:
        completion_tokens += reasoning_tokens  # some APIs, xAI's among them, count reasoning beside the completion
    return Usage(
        prompt_tokens=counts[0],
        completion_tokens=completion_tokens,
        cached_tokens=_detail(usage, "prompt_tokens_details", "cached_tokens"),
        reasoning_tokens=reasoning_tokens,
        cache_write_tokens=_detail(usage, "prompt_tokens_details", "cache_write_tokens"),
    )


class _TextDelta(msgspec.Struct, gc=False):
    content: str | None = None


class _TextChoice(msgspec.Struct, gc=False):
    delta: _TextDelta | None = None


class _TextChunk(msgspec.Struct, gc=False):
    choices: list[_TextChoice] | None = None


_text_decoder = msgspec.json.Decoder(_TextChunk)


def delta_text(data: bytes) -> str:
    """The content that a frame's data adds to the first choice."""
    if b'"content"' not in data:
        return ""
    try:
        return _chunk_text(_text_decoder.decode(data))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return _odd_delta_text(data)


def _chunk_text(chunk: _TextChunk) -> str:
    choices = chunk.choices
    return choices[0].delta.content or "" if choices and choices[0].delta else ""


def _odd_delta_text(data: bytes) -> str:
    """The same for a chunk with unusual types somewhere, such as a content of parts in another choice."""
    choices = _object(data).get("choices")
    if not isinstance(choices, list) or not choices or not isinstance(choices[0], dict):
        return ""
    delta = choices[0].get("delta")
    content = delta.get("content") if isinstance(delta, dict) else None
    return content if isinstance(content, str) else ""


def fingerprint_of(model: object, system_fingerprint: object) -> str | None:
    """`<model>` or `<model> <system_fingerprint>`; None when the backend states neither."""
    stated = model if isinstance(model, str) else ""
    if isinstance(system_fingerprint, str):
        stated = f"{stated} {system_fingerprint}"
    return stated.strip()[:MAX_FINGERPRINT_CHARS] or None


def text_of(block: bytes) -> str:
    """The content that a block adds to the first choice."""
    separators = block.count(b"\n\ndata: ")
    if block.startswith(b"data: ") and block.count(b"\n") == 2 * (separators + 1):  # one line of JSON a frame
        with contextlib.suppress(msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            chunks = _text_decoder.decode_lines(block[6:].replace(b"\n\ndata: ", b"\n"))
            return "".join([c.choices[0].delta.content or "" for c in chunks if c.choices and c.choices[0].delta])
    return "".join(delta_text(data) for data in map(payload, frames_of(block)) if data is not None)


def _detail(usage: dict[str, Any], group: str, key: str) -> int:
    details = usage.get(group)
    value: Any = details.get(key) if isinstance(details, dict) else None
    return int(value) if is_count(value) else 0


def is_count(value: Any) -> bool:
    """Whether a backend's value is a number of tokens, or of seconds since the epoch."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MAX_COUNT


def only_names_the_role(data: bytes) -> bool:
    """Whether a chunk says nothing but whose turn it is: vLLM sends one before its first token, other servers before
    the prefill."""
    choices = _object(data).get("choices")
    if not isinstance(choices, list) or not choices:
        return False
    return all(
        isinstance(choice, dict)
        and choice.get("finish_reason") is None
        and isinstance(choice.get("delta"), dict)
        and not any(value for key, value in choice["delta"].items() if key != "role")
        for choice in choices
    )


def _error_message(data: bytes) -> str | None:
    chunk = _object(data)
    error = chunk.get("error")
    if not error:
        return None
    message = error.get("message") if isinstance(error, dict) else error
    return str(message)


def _object(data: bytes) -> dict[str, Any]:
    try:
        value = _decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}
