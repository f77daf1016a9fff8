"""Reads the tokens' logprobs out of a chat stream on its way, and cuts them out again where the client asked for none.

It stands where the frames are cut out of the byte stream: behind it a stream looks as if nothing had been asked for.
"""

from __future__ import annotations

import json
from typing import Any

import msgspec

from policies.logprobs import RunningMean, TokenLogprob
from router.additions import without_in_chunk
from router.sse import FrameSplitter, frames_of, payload


class _Logprobs(msgspec.Struct):
    content: list[TokenLogprob] | None = None


class _Choice(msgspec.Struct):
    delta: dict[str, Any] | None = None
    logprobs: _Logprobs | msgspec.UnsetType | None = msgspec.UNSET


class _Chunk(msgspec.Struct):
    choices: list[_Choice] = []


_decode = msgspec.json.Decoder(_Chunk).decode


class LogprobTap(FrameSplitter):
    """For a stream with one choice.

    Attributes:
        tokens: generated so far; where the backend tells no logprobs an event is a token, as backends send them.
    """

    def __init__(self, *, hidden: bool) -> None:
        """
        Args:
            hidden: the router asked for the logprobs and the client did not.
        """
        super().__init__()
        self.tokens = 0
        self._hidden = hidden
        self._spells_nulls = False
        self._mean = RunningMean()

    def feed(self, data: bytes) -> bytes:
        block = super().feed(data)
        if not block:
            return block
        return b"".join([self._passed(frame, counts=True) for frame in frames_of(block)])

    def rest(self) -> bytes:
        return self._passed(super().rest(), counts=False)  # it may be asked for twice

    def mean_logprob(self, finish_reason: str | None) -> float | None:
        """Over the tokens so far without the stop token, nats; None when the backend told none."""
        try:
            return self._mean.value(finish_reason)
        except ValueError:  # "bytes" that are none
            return None

    def _passed(self, frame: bytes, *, counts: bool) -> bytes:
        """The frame as the client may see it."""
        data = payload(frame)
        if data is None or b'"choices"' not in data:
            return frame
        choices = _choices(data)
        for choice in choices[:1] if counts else ():
            self._count(choice)
        if not self._hidden:
            return frame
        told = [choice.logprobs for choice in choices]
        self._spells_nulls = self._spells_nulls or None in told
        if not any(isinstance(each, _Logprobs) for each in told):
            return frame
        try:
            return _with_data(frame, data, without_in_chunk(data, spells_nulls=self._spells_nulls))
        except (ValueError, RecursionError):
            return frame

    def _count(self, choice: _Choice) -> None:
        tokens = choice.logprobs.content if isinstance(choice.logprobs, _Logprobs) else None
        delta = choice.delta or {}
        if tokens:
            self.tokens += len(tokens)
            text = delta.get("content")
            self._mean.add(tokens, text if isinstance(text, str) else "")
        elif any(value for key, value in delta.items() if key != "role"):
            self.tokens += 1


def _choices(data: bytes) -> list[_Choice]:
    """Empty for what is no chunk of a chat."""
    try:
        return _decode(data).choices
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        pass
    try:  # for what only a lenient parser takes, such as a lone surrogate
        return msgspec.convert(json.loads(data), _Chunk).choices
    except (ValueError, RecursionError):
        return []


def _with_data(frame: bytes, data: bytes, new: bytes) -> bytes:
    """The frame with other data. JSON that is spread over several lines comes back in one."""
    if data in frame:
        return frame.replace(data, new, 1)
    lines = frame.splitlines(keepends=True)
    first = next(line for line in lines if line.startswith(b"data:"))
    end = first[len(first.rstrip(b"\r\n")) :]
    kept = [line for line in lines if not line.startswith(b"data:")]
    kept.insert(lines.index(first), b"data: " + new.replace(b"\n", b" ") + end)
    return b"".join(kept)
