"""The student's stream while it is a draft: read, judged by its beginning, and held back until somebody decides."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import msgspec

from policies.base import CommitWindow, RequestFeatures
from policies.record import Draft, Usage
from router.backends import Answer, Backend
from router.dialects.base import Dialect, Outgoing
from router.errors import BackendBroken, BackendTimeout, BackendUnreachable
from router.logprob_tap import LogprobTap
from router.outcome import RequestState
from router.sse import FrameTooLarge, frames_of, is_whole, payload
from router.streaming import Stream

MAX_HELD_BYTES = 2**20
"""A window of many tokens, or of long frames, closes here."""


class DraftStream(Stream):
    """`peek`, `hold`, then either `relay` or nothing more. It has one choice."""

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

    async def hold(self, window: CommitWindow) -> None:
        """Go on behind the first event until the window closes. What was read waits for `relay`.

        Raises:
            BackendError: it cannot become an answer any more; nothing of it was sent.
        """
        held, held_bytes = [self._peeked], len(self._peeked)
        self._look_at(self._peeked)
        with suppress(TimeoutError):
            async with asyncio.timeout(window.time_s):
                while not self._ended and self._tap.tokens < window.tokens and held_bytes < MAX_HELD_BYTES:
                    block = await self._next_block_in_time()
                    if block is None:
                        self._end()
                    else:
                        self._look_at(block)
                        held.append(block)
                        held_bytes += len(block)
        self._peeked = b"".join(held)

    def draft(self, features: RequestFeatures) -> Draft:
        """What there is to be judged, now."""
        whole = self._ended or self._finish_reason is not None
        text = self._reader.text_of(self._peeked)
        draft = Draft(
            text=None if not text and self._tap.other_than_text else text,
            mean_logprob=self._tap.mean_logprob(self._finish_reason),
            tokens=self._usage.completion_tokens if self._usage else self._tap.tokens,
            finish_reason=self._finish_reason,
            prefix=not whole,
        )
        return self._with_cost(draft, features)

    def thrown_away(self, draft: Draft, features: RequestFeatures) -> Draft:
        """The draft before it is given up: what the student wrote while the teacher was asked was paid for as well."""
        with suppress(FrameTooLarge, BackendBroken):
            self._look_at(self._splitter.feed(self._answer.unread()))
        return self._with_cost(draft, features)

    def _with_cost(self, draft: Draft, features: RequestFeatures) -> Draft:
        usage = self._usage or Usage(
            prompt_tokens=features.signals.prompt_tokens or features.approx_prompt_tokens,
            completion_tokens=self._tap.tokens,
        )
        price = self._backend.price
        cost_usd = price.cost_usd(usage) if price else None
        return msgspec.structs.replace(draft, usage=usage, cost_usd=cost_usd)

    def record_text(self, state: RequestState) -> None:
        super().record_text(state)
        state.mean_logprob = self._tap.mean_logprob(state.finish_reason)

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
