"""The student's stream while it is a draft: read, judged by its beginning, and held back until somebody decides."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Protocol

import msgspec

from policies.base import RequestFeatures
from policies.drafts.validity import Answer as DraftAnswer
from policies.record import Draft, Usage
from policies.window import CommitWindow
from router.backends import Answer, Backend
from router.continuation import identity_of
from router.dialects.base import Dialect, Outgoing, Translation
from router.draft_answers import answer_of_stream
from router.errors import BackendBroken, BackendTimeout, BackendUnreachable
from router.exchange import Exchange
from router.logprob_tap import LogprobTap
from router.metrics import Metrics
from router.request_state import RequestState
from router.sse import DONE_FRAME, FrameTooLarge, frames_of, is_whole, payload
from router.streaming import Stream

MAX_HELD_BYTES = 2**20
"""A window of many tokens, or of long frames, closes here."""


class Watch(Protocol):
    """Looks at the stream behind its window; see `router/late_alarm.py`."""

    recent: deque[float]
    """Logprobs of the last tokens; the tap fills it."""

    def rings(self, block: bytes, tokens: int) -> bool:
        """Whether this block, which nobody has got yet, is the one too many."""

    async def end(
        self, stream: DraftStream, block: bytes, exchange: Exchange, state: RequestState, metrics: Metrics
    ) -> bytes:
        """What happens instead of the rest. Returns: the last bytes. Raises: BackendError."""


class _Rang(Exception):
    """A late alarm, before this block."""

    def __init__(self, block: bytes) -> None:
        super().__init__()
        self.block = block


class DraftStream(Stream):
    """`peek`, `hold` as often as wanted, then either `relay` or nothing more. It has one choice."""

    def __init__(
        self, backend: Backend, answer: Answer, asked: Outgoing, dialect: Dialect, *, hidden: bool, capture: bool
    ) -> None:
        """
        Args:
            hidden: the logprobs are ours alone.
        """
        self._tap = LogprobTap(hidden=hidden)
        super().__init__(backend, answer, asked, dialect, choices=1, capture=capture, splitter=self._tap)
        self._finish_reason: str | None = None
        self._usage: Usage | None = None
        self._ended = False
        self._began_s: float | None = None
        self._watch: Watch | None = None
        self.identity: dict[str, Any] = {}
        """How its chunks name it, once it is watched."""

    async def hold(self, window: CommitWindow) -> None:
        """Go on behind the first event until the window closes. What was read waits for `relay`.

        Raises:
            BackendError: it cannot become an answer any more; nothing of it was sent.
        """
        if self._began_s is None:
            self._began_s = time.monotonic()
            self._look_at(self._peeked)
        held, held_bytes = [self._peeked], len(self._peeked)
        with suppress(TimeoutError):
            async with asyncio.timeout(window.time_s - self.held_s):
                while not self._ended and self._tap.tokens < window.tokens and held_bytes < MAX_HELD_BYTES:
                    block = await self._next_block_in_time()
                    if block is None:
                        self._end()
                    else:
                        self._look_at(block)
                        held.append(block)
                        held_bytes += len(block)
        self._peeked = b"".join(held)

    @property
    def held_s(self) -> float:
        """Since the first event."""
        return 0.0 if self._began_s is None else time.monotonic() - self._began_s

    @property
    def is_whole(self) -> bool:
        """Whether the answer has ended within the window."""
        return self._ended or self._finish_reason is not None

    @property
    def is_full(self) -> bool:
        """Whether no more can be held back."""
        return self.is_whole or len(self._peeked) >= MAX_HELD_BYTES

    @property
    def tokens(self) -> int:
        return self._tap.tokens

    @property
    def is_text(self) -> bool:
        """Whether the answer so far is nothing but text."""
        return not self._tap.other_than_text

    def cancel(self, draft: Draft, features: RequestFeatures) -> Draft:
        """Give the stream up, now: the backend stops. Returns: the draft with what it had cost until then."""
        draft = self.thrown_away(draft, features)
        self._answer.close()
        return draft

    def draft(self, features: RequestFeatures, *, extendable: bool = False) -> Draft:
        """What there is to be judged, now."""
        text = self._reader.text_of(self._peeked)
        draft = Draft(
            text=None if not text and self._tap.other_than_text else text,
            mean_logprob=self._tap.mean_logprob(self._finish_reason),
            tokens=self._usage.completion_tokens if self._usage else self._tap.tokens,
            finish_reason=self._finish_reason,
            prefix=not self.is_whole,
            extendable=extendable,
            signals=self._tap.signals(self._finish_reason),
        )
        return self.counted(draft, features)

    def answer(self, draft: Draft) -> DraftAnswer:
        """The same, as far as validity checks look at it."""
        return answer_of_stream(draft, self._peeked, other_than_text=self._tap.other_than_text)

    def thrown_away(self, draft: Draft, features: RequestFeatures) -> Draft:
        """The draft before it is given up: what the student wrote while the teacher was asked was paid for as well."""
        with suppress(FrameTooLarge, BackendBroken):
            self._look_at(self._splitter.feed(self._answer.unread()))
        return self.counted(draft, features)

    def counted(self, draft: Draft, features: RequestFeatures) -> Draft:
        """The draft with what has been read of the stream until now."""
        usage = self._usage or Usage(
            prompt_tokens=features.signals.prompt_tokens or features.approx_prompt_tokens,
            completion_tokens=self._tap.tokens,
        )
        price = self._backend.price
        cost_usd = price.cost_usd(usage) if price else None
        return msgspec.structs.replace(draft, usage=usage, cost_usd=cost_usd)

    def record_text(self, state: RequestState) -> None:
        super().record_text(state)
        draft = state.draft
        if draft is None:
            return
        late = draft.window.late if draft.window is not None else None
        if late is None or late.action == "none":
            state.mean_logprob = self._tap.mean_logprob(state.finish_reason)
        if draft.signals is not None and draft.prefix:
            # Behind the window more of them have become known, which is what a score of prefixes is fitted on.
            means = self._tap.signals(state.finish_reason).prefix_means
            signals = msgspec.structs.replace(draft.signals, prefix_means=means)
            state.draft = msgspec.structs.replace(draft, signals=signals)

    # Behind the window

    def watch(self, watch: Watch | None, *, keep_text: bool) -> None:
        """Have the stream looked at while it is passed on; with None no longer.

        Args:
            keep_text: somebody may have to go on from what the client has read.
        """
        self._watch = watch
        self.identity = self.identity or identity_of(self._peeked)
        self._tap.recent = watch.recent if watch is not None else None
        if keep_text and self._captured is None:
            self._captured = []  # whether the record may keep it is decided where that is written

    def text_so_far(self) -> str | None:
        """What the client has; None: it is not text alone, or too much."""
        if self._captured is None:
            return None
        seen = b"".join(self._captured)
        if b'"reasoning' in seen and any(_reasons(data) for data in map(payload, frames_of(seen)) if data):
            return None
        return self._reader.text_of(seen)

    def ended_by(self, chunks: Sequence[dict[str, Any]]) -> bytes:
        """The last bytes for the client, where the gateway ends the answer by these chunks itself."""
        if self._translation is not None:
            return b"".join([self._translation.feed(chunk) for chunk in chunks]) + self._translation.end()
        encode = msgspec.json.encode
        return b"".join([b"data: " + encode(chunk) + b"\n\n" for chunk in chunks]) + DONE_FRAME

    @property
    def translation(self) -> Translation | None:
        """That the client's stream has begun with."""
        return self._translation

    async def _next_block(self) -> bytes | None:
        block = await super()._next_block()
        if block is not None and self._watch is not None and self._watch.rings(block, self._tap.tokens):
            raise _Rang(block)
        return block

    async def _relay_events(self, exchange: Exchange, state: RequestState, metrics: Metrics) -> bytes:
        try:
            return await super()._relay_events(exchange, state, metrics)
        except _Rang as rang:
            assert self._watch is not None  # noqa: S101 - it rang
            return await self._watch.end(self, rang.block, exchange, state, metrics)

    async def go_on(self, block: bytes, exchange: Exchange, state: RequestState, metrics: Metrics) -> bytes:
        """As if nothing had rung. Returns: the last bytes. Raises: BackendError."""
        self.watch(None, keep_text=False)
        self._peeked, first_s = block, state.first_event_s
        try:
            return await super()._relay_events(exchange, state, metrics)
        finally:
            state.first_event_s = first_s

    async def follow(self, other: Stream, exchange: Exchange, state: RequestState, metrics: Metrics) -> bytes:
        """Pass on another stream, whose text continues this one's. Returns: the last bytes. Raises: BackendError."""
        self._unsent, first_s = [], state.first_event_s
        try:
            return await other._relay_events(exchange, state, metrics)
        finally:
            state.first_event_s = first_s
            self._unsent = other._unsent
            if self._captured is not None and other._captured is not None:
                self._captured += other._captured
            else:
                self._captured = None

    async def _next_block_in_time(self) -> bytes | None:
        limit_s = self._backend.config.idle_timeout_s
        try:
            async with asyncio.timeout(limit_s):
                return await self._next_block()
        except TimeoutError as exc:
            raise BackendTimeout(f"the {self._backend.route} sent nothing for {limit_s:g} s", cause="timeout") from exc

    def _look_at(self, block: bytes) -> None:
        """Raises: BackendBroken for an error event."""
        for delta in map(self._reader.read, frames_of(block)):
            if delta.error is not None:
                raise BackendBroken("an error event came before anything was sent", cause="stream_error")
            self._finish_reason = delta.finish_reason or self._finish_reason
            self._usage = delta.usage or self._usage
            if delta.done:
                self._ended = True
                return

    def _end(self) -> None:
        """The body has ended. Raises: BackendError: too early."""
        rest = self._splitter.rest().rstrip() + b"\n\n"
        if is_whole(payload(rest) or b""):
            self._look_at(rest)
        self._ended = True
        if self._finish_reason is None:
            raise BackendUnreachable(
                f"the {self._backend.route}'s stream ended before it was finished", cause="disconnected"
            )


def _reasons(data: bytes) -> bool:
    """Whether a chunk holds reasoning, as several servers name it."""
    try:
        choices = _reasoning_decoder.decode(data).choices
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False
    return any(each.delta and (each.delta.reasoning or each.delta.reasoning_content) for each in choices or ())


class _ReasoningDelta(msgspec.Struct, gc=False):
    reasoning: object = None
    reasoning_content: object = None


class _ReasoningChoice(msgspec.Struct, gc=False):
    delta: _ReasoningDelta | None = None


class _ReasoningChunk(msgspec.Struct, gc=False):
    choices: list[_ReasoningChoice] | None = None


_reasoning_decoder = msgspec.json.Decoder(_ReasoningChunk)
