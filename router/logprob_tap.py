"""Reads the tokens' logprobs out of a chat stream on its way, and cuts them out again where the client asked for none.

It stands where the frames are cut out of the byte stream: behind it a stream looks as if nothing had been asked for.
"""

from __future__ import annotations

import json
from collections import deque
from typing import Any

import msgspec

from policies.draft_signals import NO_DRAFT_SIGNALS, DraftSignals
from policies.drafts.logprobs import RunningSignals, TokenLogprob
from router.additions import without_in_chunk
from router.answers import OTHER_THAN_TEXT
from router.sse import FrameSplitter, frames_of, payload


class _Logprobs(msgspec.Struct):
    content: list[TokenLogprob] | None = None


class _Choice(msgspec.Struct):
    delta: dict[str, Any] | None = None
    logprobs: msgspec.Raw = msgspec.Raw(b"")
    """As they stand in the chunk; empty when they do not."""
    finish_reason: Any = None


class _Chunk(msgspec.Struct):
    choices: list[_Choice] = []


_decode = msgspec.json.Decoder(_Chunk).decode
_decode_logprobs = msgspec.json.Decoder(_Logprobs).decode
_NULL = b"null"


class LogprobTap(FrameSplitter):
    """For a stream with one choice.

    Attributes:
        tokens: generated so far; where the backend tells no logprobs an event is a token, as backends send them.
        other_than_text: whether the answer so far holds such.
    """

    passes_whole_frames = False

    def __init__(self, *, hidden: bool) -> None:
        """
        Args:
            hidden: the router asked for the logprobs and the client did not.
        """
        super().__init__()
        self.tokens = 0
        self.other_than_text = False
        self.recent: deque[float] | None = None
        """Gets the logprobs of the tokens, where somebody looks at the last ones."""
        self._hidden = hidden
        self._spells_nulls: bool | None = None
        """Whether the backend spells absent members; None: it has not shown yet."""
        self._running = RunningSignals()

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
            return self._running.mean(finish_reason)
        except ValueError:  # "bytes" that are none
            return None

    def signals(self, finish_reason: str | None) -> DraftSignals:
        """What the tokens so far say, the stop token apart; empty when the backend told no logprobs."""
        try:
            return self._running.signals(finish_reason)
        except ValueError:
            return NO_DRAFT_SIGNALS

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
        told = [bytes(choice.logprobs) for choice in choices]
        if _NULL in told:
            self._spells_nulls = True
        if not any(each not in (b"", _NULL) for each in told):
            return frame
        if all(choice.delta == {} and choice.finish_reason is None for choice in choices):
            return b""  # vLLM sends tokens that its parsers hold back for the sake of their logprobs alone
        try:
            return _with_data(frame, data, self._cut(data, told))
        except (ValueError, RecursionError):
            return frame

    def _cut(self, data: bytes, told: list[bytes]) -> bytes:
        """The chunk without logprobs. Raises: ValueError, RecursionError."""
        if (
            len(told) == 1 and self._spells_nulls is not None
        ):  # nearly every chunk; the walk below takes ten times longer
            head, found, tail = data.partition(b'"logprobs":' + told[0])
            if found and b"logprobs" not in head and b"logprobs" not in tail:
                if self._spells_nulls:
                    return head + b'"logprobs":null' + tail
                if tail[:1] == b",":
                    return head + tail[1:]
                if head[-1:] == b",":
                    return head[:-1] + tail
        cut, self._spells_nulls = without_in_chunk(data, spells_nulls=self._spells_nulls is True)
        return cut

    def _count(self, choice: _Choice) -> None:
        tokens = _entries(choice.logprobs)
        delta = choice.delta or {}
        self.other_than_text = self.other_than_text or any(map(delta.get, OTHER_THAN_TEXT))
        if tokens:
            self.tokens += len(tokens)
            text = delta.get("content")
            self._running.add(tokens, text if isinstance(text, str) else "")
            if self.recent is not None:
                self.recent.extend(token.logprob for token in tokens)
        elif any(value for key, value in delta.items() if key != "role"):
            self.tokens += 1


def _choices(data: bytes) -> list[_Choice]:
    """Empty for what is no chunk of a chat."""
    try:
        return _decode(data).choices
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        pass
    try:  # for what only a lenient parser takes, such as a lone surrogate
        found = json.loads(data)["choices"]
        return [_choice(each) for each in found if isinstance(each, dict)] if isinstance(found, list) else []
    except (ValueError, RecursionError, LookupError, TypeError):
        return []


def _choice(choice: dict[str, Any]) -> _Choice:
    delta = choice.get("delta")
    logprobs = json.dumps(choice["logprobs"]).encode() if "logprobs" in choice else b""
    return _Choice(delta if isinstance(delta, dict) else None, msgspec.Raw(logprobs), choice.get("finish_reason"))


def _entries(logprobs: msgspec.Raw) -> list[TokenLogprob]:
    try:
        return _decode_logprobs(logprobs).content or []
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):  # none, or in no form that we know
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
