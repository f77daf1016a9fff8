"""What the log probabilities of an answer say: one definition for the gateway, tuning and evaluation.

A cascade compares what it measures now with what its calibrator, or its model, was fitted on: a difference in how the
mean is taken would shift every score.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from math import exp

import msgspec

from policies.draft_signals import PREFIX_TOKENS, DraftSignals

MAX_TOKEN_CHARS = 1024
"""No vocabulary has longer tokens: so much of a text's end is enough to look for one."""
CUT_OFF = (None, "length")
"""Finish reasons of an answer whose last token is no stop token."""
LOWEST = -100.0
"""Nats. Where a backend means "impossible" it writes -9999 or less, which would drown everything else."""
MAX_KEPT_TOKENS = 32_768
"""The quantile is that of so many tokens at the beginning."""
LOW_QUANTILE = 0.1


class Alternative(msgspec.Struct, gc=False):
    """One of the most likely tokens at a place."""

    logprob: float | None = None
    """Nats; None where a backend has no number for it."""


class TokenLogprob(msgspec.Struct, gc=False):
    """One entry of a chat completion's `logprobs.content`."""

    logprob: float
    """Nats."""
    token: str = ""
    bytes: list[int] | None = None
    top_logprobs: list[Alternative] | None = None
    """Most likely first, as backends send them; nothing here depends on their order."""


def mean_logprob(tokens: Sequence[TokenLogprob], text: str | None, finish_reason: str | None) -> float | None:
    """Over the answer's tokens without its stop token, nats; None when there are none.

    Raises: ValueError: as `is_stop_token`.
    """
    if tokens and is_stop_token(tokens[-1], text or "", finish_reason):
        tokens = tokens[:-1]
    return sum(token.logprob for token in tokens) / len(tokens) if tokens else None


def is_stop_token(last: TokenLogprob, text: str, finish_reason: str | None) -> bool:
    """Whether the last token of an answer is its stop token.

    It is when the answer ended by itself and the token is no part of its text: vLLM lists it, OpenAI does not, and what
    stands at the end of the text tells which it is.
    Raises:
        ValueError: its `bytes` are none.
    """
    if finish_reason in CUT_OFF:
        return False
    spelled = last.token.encode("utf-8", "replace") if last.bytes is None else bytes(last.bytes)
    return not spelled or not text.encode("utf-8", "replace").endswith(spelled)


def measured(tokens: Sequence[TokenLogprob], text: str | None, finish_reason: str | None) -> DraftSignals:
    """The signals of a whole answer's tokens. Raises: ValueError: as `mean_logprob`."""
    running = RunningSignals()
    running.add(tokens, text or "")
    return running.signals(finish_reason)


class _Spread:
    """How the tokens so far are spread, but for the mean."""

    __slots__ = ("_entropies", "_entropy", "_logprobs", "_margin", "_margins", "_min", "_min_margin")

    def __init__(self) -> None:
        self._logprobs: list[float] = []
        self._min = math.inf
        self._margin, self._margins, self._min_margin = 0.0, 0, math.inf
        self._entropy, self._entropies = 0.0, 0

    def add(self, token: TokenLogprob) -> None:
        logprob = max(token.logprob, LOWEST)
        self._min = min(self._min, logprob)
        if len(self._logprobs) < MAX_KEPT_TOKENS:
            self._logprobs.append(logprob)
        if token.top_logprobs:
            self._add(token.top_logprobs)

    def _add(self, alternatives: Sequence[Alternative]) -> None:
        best = second = -math.inf
        told = entropy = 0.0
        for each in alternatives:
            stated = each.logprob
            if stated is None:
                continue
            if stated > second:
                if stated > best:
                    best, second = stated, best
                else:
                    second = stated
            if LOWEST < stated < 0.0:  # below it has no share, and at 0 no entropy
                share = exp(stated)
                told += share
                entropy -= share * stated
            elif stated >= 0.0:
                told += 1.0
        if best == -math.inf:
            return
        rest = 1.0 - told  # all others as one outcome; above 1 in sum is rounding
        self._entropy += entropy - rest * math.log(rest) if rest > 0.0 else entropy
        self._entropies += 1
        if second != -math.inf:
            margin = max(best, LOWEST) - max(second, LOWEST)
            self._margin += margin
            self._margins += 1
            self._min_margin = min(self._min_margin, margin)

    def signals(
        self, mean: float | None, tokens: int, last: TokenLogprob | None, prefix_means: tuple[float, ...]
    ) -> DraftSignals:
        """With a last token that has not been added; what is known so far stays as it is."""
        if last is not None:
            ended = _Spread()
            for name in _Spread.__slots__:
                setattr(ended, name, getattr(self, name))
            ended._logprobs = self._logprobs.copy()
            ended.add(last)
            return ended.signals(mean, tokens, None, prefix_means)
        self._logprobs.sort()  # nearly in order already where it is asked for again
        return DraftSignals(
            mean_logprob=mean,
            min_logprob=self._min if self._logprobs else None,
            logprob_q10=_quantile(self._logprobs, LOW_QUANTILE),
            mean_margin=self._margin / self._margins if self._margins else None,
            min_margin=self._min_margin if self._margins else None,
            mean_entropy=self._entropy / self._entropies if self._entropies else None,
            tokens=tokens or None,
            prefix_means=prefix_means,
        )


class RunningSignals:
    """The signals of a stream: of what has been read of it so far, without keeping its texts."""

    __slots__ = ("_last", "_prefix_means", "_spread", "_sum", "_tail", "tokens")

    def __init__(self) -> None:
        self.tokens = 0
        self._sum = 0.0
        """Without the last token, which may turn out to be the stop token."""
        self._last: TokenLogprob | None = None
        self._tail = ""
        self._spread = _Spread()
        self._prefix_means: list[float] = []

    def add(self, tokens: Sequence[TokenLogprob], text: str) -> None:
        """The next tokens, and the text that they add to the answer."""
        for before, token in enumerate(tokens, start=self.tokens):
            if self._last is not None:
                self._sum += self._last.logprob
                self._spread.add(self._last)
                if before in PREFIX_TOKENS:
                    self._prefix_means.append(self._sum / before)
            self._last = token
        self.tokens += len(tokens)
        if text:
            self._tail = (self._tail + text)[-MAX_TOKEN_CHARS:]

    def mean(self, finish_reason: str | None) -> float | None:
        """`mean_logprob`, nats; None without tokens. Raises: ValueError: as `mean_logprob`."""
        if self._last is None:
            return None
        if not is_stop_token(self._last, self._tail, finish_reason):
            return (self._sum + self._last.logprob) / self.tokens
        return self._sum / (self.tokens - 1) if self.tokens > 1 else None

    def signals(self, finish_reason: str | None) -> DraftSignals:
        """Raises: ValueError: as `mean_logprob`."""
        last = self._last
        if last is not None and is_stop_token(last, self._tail, finish_reason):
            last = None
        mean, prefix_means = self.mean(finish_reason), tuple(self._prefix_means)
        if last is not None and mean is not None and self.tokens in PREFIX_TOKENS:
            prefix_means += (mean,)
        return self._spread.signals(mean, self.tokens, last, prefix_means)


def mean_logprob_of(entries: object, text: str | None, finish_reason: str | None) -> float | None:
    """`mean_logprob` from decoded JSON. Raises: ValueError: it is no list of entries."""
    return mean_logprob(msgspec.convert(entries or [], list[TokenLogprob]), text, finish_reason)


def _quantile(ordered: Sequence[float], share: float) -> float | None:
    """Between the two nearest values, linearly."""
    if not ordered:
        return None
    place = share * (len(ordered) - 1)
    below = math.floor(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (place - below) * (ordered[above] - ordered[below])
