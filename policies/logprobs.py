"""The mean log probability of an answer: one definition for the gateway, tuning and evaluation.

A cascade compares what it measures now with what its calibrator was fitted on: a difference in how the mean is taken
would shift every score.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

MAX_TOKEN_CHARS = 1024
"""No vocabulary has longer tokens: so much of a text's end is enough to look for one."""
CUT_OFF = (None, "length")
"""Finish reasons of an answer whose last token is no stop token."""


class TokenLogprob(msgspec.Struct, gc=False):
    """One entry of a chat completion's `logprobs.content`."""

    logprob: float
    """Nats."""
    token: str = ""
    bytes: list[int] | None = None


def mean_logprob(tokens: Sequence[TokenLogprob], text: str | None, finish_reason: str | None) -> float | None:
    """Over the answer's tokens without its stop token, nats; None when there are none.

    The stop token is the last one of an answer that ended by itself and that is no part of its text: vLLM lists it,
    OpenAI does not, and what stands at the end of the text tells which it is.
    Raises:
        ValueError: the last token's `bytes` are none.
    """
    if tokens and _is_stop(tokens[-1], text or "", finish_reason):
        tokens = tokens[:-1]
    return sum(token.logprob for token in tokens) / len(tokens) if tokens else None


def _is_stop(last: TokenLogprob, text: str, finish_reason: str | None) -> bool:
    """Raises: ValueError."""
    if finish_reason in CUT_OFF:
        return False
    spelled = last.token.encode("utf-8", "replace") if last.bytes is None else bytes(last.bytes)
    return not spelled or not text.encode("utf-8", "replace").endswith(spelled)


class RunningMean:
    """`mean_logprob` of a stream: of what has been read of it so far, without keeping it."""

    __slots__ = ("_last", "_sum", "_tail", "tokens")

    def __init__(self) -> None:
        self.tokens = 0
        self._sum = 0.0
        """Without the last token, which may turn out to be the stop token."""
        self._last: TokenLogprob | None = None
        self._tail = ""

    def add(self, tokens: Sequence[TokenLogprob], text: str) -> None:
        """The next tokens, and the text that they add to the answer."""
        for token in tokens:
            if self._last is not None:
                self._sum += self._last.logprob
            self._last = token
        self.tokens += len(tokens)
        if text:
            self._tail = (self._tail + text)[-MAX_TOKEN_CHARS:]

    def value(self, finish_reason: str | None) -> float | None:
        """Nats; None without tokens. Raises: ValueError: as `mean_logprob`."""
        if self._last is None:
            return None
        if not _is_stop(self._last, self._tail, finish_reason):
            return (self._sum + self._last.logprob) / self.tokens
        return self._sum / (self.tokens - 1) if self.tokens > 1 else None


def mean_logprob_of(entries: object, text: str | None, finish_reason: str | None) -> float | None:
    """The same from decoded JSON. Raises: ValueError: it is no list of entries."""
    return mean_logprob(msgspec.convert(entries or [], list[TokenLogprob]), text, finish_reason)
