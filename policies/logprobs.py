"""The mean log probability of an answer: one definition for the gateway, tuning and evaluation.

A cascade compares what it measures now with what its calibrator was fitted on: a difference in how the mean is taken
would shift every score.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

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
    if tokens and finish_reason not in CUT_OFF:
        last = tokens[-1]
        spelled = last.token.encode("utf-8", "replace") if last.bytes is None else bytes(last.bytes)
        if not spelled or not (text or "").encode("utf-8", "replace").endswith(spelled):
            tokens = tokens[:-1]
    return sum(token.logprob for token in tokens) / len(tokens) if tokens else None


def mean_logprob_of(entries: object, text: str | None, finish_reason: str | None) -> float | None:
    """The same from decoded JSON. Raises: ValueError: it is no list of entries."""
    return mean_logprob(msgspec.convert(entries or [], list[TokenLogprob]), text, finish_reason)
