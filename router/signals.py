"""Takes the measurements that policies ask for: off the event loop, within a budget, never twice."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable

import msgspec

from policies.base import RequestFeatures, Signal
from router.encoder import Encoder
from router.tokenizer import PromptTokenizer

logger = logging.getLogger(__name__)

OFFLOAD_BYTES = 8192
"""Prompts up to this size are tokenized on the event loop: that takes about as long as handing them to a thread."""


class SignalSource:
    """Providers of signals; the ones that are None deliver nothing."""

    def __init__(self, *, tokenizer: PromptTokenizer | None, encoder: Encoder | None, budget_s: float) -> None:
        self._tokenizer = tokenizer
        self._encoder = encoder
        self._budget_s = budget_s

    async def measure(self, signal: Signal, features: RequestFeatures, texts: Iterable[str]) -> RequestFeatures:
        """Features with the signal in them, or with the signal listed as unavailable. Never raises for a provider.

        Args:
            texts: every text of the prompt; consumed only for PROMPT_TOKENS.
        """
        signals = features.signals
        try:
            value = await self._value(signal, features, texts)
        except Exception:  # a broken provider must not fail the request; the vote shows it
            logger.warning("signal %s could not be measured", signal.value, exc_info=True)
            value = None
        if value is None:
            updated = msgspec.structs.replace(signals, unavailable=(*signals.unavailable, signal))
        else:
            updated = msgspec.structs.replace(signals, **{signal.value: value})
        return msgspec.structs.replace(features, signals=updated)

    async def _value(
        self, signal: Signal, features: RequestFeatures, texts: Iterable[str]
    ) -> int | tuple[float, ...] | None:
        if signal is Signal.PROMPT_TOKENS:
            return await self._count(features, list(texts))
        if self._encoder is None:
            return None
        if signal is Signal.CHUNK_SIMILARITIES:
            chunks = [chunk.text for chunk in features.chunks]
            return await self._encoder.similarities(features.last_user_turn, chunks, self._budget_s)
        return await self._encoder.embedding(features.last_user_turn, self._budget_s)

    async def _count(self, features: RequestFeatures, texts: list[str]) -> int | None:
        tokenizer = self._tokenizer
        if tokenizer is None:
            return None
        if features.prompt_bytes <= OFFLOAD_BYTES:
            return sum(map(tokenizer.count, texts))
        async with asyncio.timeout(self._budget_s):
            return await asyncio.to_thread(lambda: sum(map(tokenizer.count, texts)))
