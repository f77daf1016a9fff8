"""Embeddings by a sentence-transformers model in this process: in one thread, in small batches, in turn.

A batch is all that a long request can put before a short one. torch is only imported by `load`.
"""

from __future__ import annotations

import asyncio
import logging
import time
from array import array
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, NamedTuple

from router.config.embeddings import EmbeddingsConfig
from router.embeddings.request import EmbeddingRequest, TooLong, answer_of
from router.encoder import Vector, load_transformer
from router.errors import BackendBroken, BackendTimeout, InvalidRequest, LocumError, Overloaded
from router.http_client import Headers
from router.resilience.deadline import Deadline
from router.resilience.pool import Pool

if TYPE_CHECKING:
    from router.telemetry.embeddings import EmbeddingTrace

logger = logging.getLogger(__name__)

OVERLOADED_RETRY_S = 1
JSON = ((b"content-type", b"application/json"),)


class Embedded(NamedTuple):
    vectors: list[Vector]
    tokens: int


class WindowExceeded(Exception):
    """A text of a batch is longer than the model's window. Args: its place, its tokens, the window."""


EmbedTexts = Callable[[list[str]], Embedded]
"""Embeds a batch; blocking, called from one thread only. Raises: WindowExceeded."""


class Answered(NamedTuple):
    """A whole answer for the client."""

    status: int
    body: bytes
    tokens: int | None
    headers: tuple[tuple[bytes, bytes], ...] = JSON


class LocalModel:
    """Answers requests; all methods belong to one event loop."""

    pools: Sequence[Pool] = ()

    def __init__(self, embed: EmbedTexts, config: EmbeddingsConfig) -> None:
        self._embed = embed
        self._config = config
        self._queued = 0
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="embeddings")

    async def __aenter__(self) -> LocalModel:
        """The model runs once, so that the first request does not pay for its lazy initialisation."""
        await asyncio.get_running_loop().run_in_executor(self._thread, self._embed, ["warm up"])
        return self

    async def __aexit__(self, *_: object) -> None:
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def answer(
        self, request: EmbeddingRequest, headers: Headers, deadline: Deadline, trace: EmbeddingTrace | None = None
    ) -> Answered:
        """Raises: InvalidRequest, Overloaded, BackendBroken, BackendTimeout."""
        started_s = time.monotonic()
        cause: str | None = "cancelled"
        try:
            answered = await self._within_time(request, deadline)
            cause = None
            return answered
        except LocumError as error:
            cause = error.code
            raise
        finally:
            if trace is not None:
                trace.computed(self._config.model, started_s, cause)

    async def _within_time(self, request: EmbeddingRequest, deadline: Deadline) -> Answered:
        try:
            async with asyncio.timeout(deadline.cut(self._config.request_timeout_s)):
                return await self._answer(request)
        except TimeoutError as exc:
            raise BackendTimeout("Not answered within embeddings.request_timeout_s.", cause="timeout") from exc

    async def _answer(self, request: EmbeddingRequest) -> Answered:
        if request.dimensions is not None:
            raise InvalidRequest("dimensions cannot be chosen: the model has one size.", param="dimensions")
        texts = request.texts()
        if self._queued + len(texts) > self._config.max_queued_texts:
            raise Overloaded("Too many texts wait to be embedded.", retry_after_s=OVERLOADED_RETRY_S)
        self._queued += len(texts)
        try:
            vectors, tokens = await self._all(texts)
        finally:
            self._queued -= len(texts)
        model = self._config.model
        return Answered(200, answer_of(vectors, model=model, encoding=request.encoding, tokens=tokens), tokens)

    async def _all(self, texts: list[str]) -> Embedded:
        loop = asyncio.get_running_loop()
        vectors: list[Vector] = []
        tokens = 0
        step = self._config.max_batch_texts
        for start in range(0, len(texts), step):
            batch = texts[start : start + step]
            try:
                done = await loop.run_in_executor(self._thread, self._embed, batch)
            except WindowExceeded as exc:
                place, found_tokens, window_tokens = exc.args
                raise TooLong(start + place, found_tokens, window_tokens) from exc
            except (RuntimeError, ValueError, MemoryError) as exc:  # what torch and tokenizers raise
                logger.warning("the embedding model failed on a batch of %d texts", len(batch), exc_info=True)
                raise BackendBroken("The embedding model failed.", cause="server_error") from exc
            vectors += done.vectors
            tokens += done.tokens
        return Embedded(vectors, tokens)


def load(config: EmbeddingsConfig) -> EmbedTexts:
    """The blocking embedding function; takes seconds. Raises: EncoderUnavailable."""
    model = load_transformer(config.model, threads=config.threads, key="embeddings.model")
    window_tokens = model.max_seq_length

    def embed(texts: list[str]) -> Embedded:
        counts = [len(ids) for ids in model.tokenizer(texts, truncation=False, verbose=False)["input_ids"]]
        if window_tokens is not None:
            for place, count in enumerate(counts):
                if count > window_tokens and not config.truncate:
                    raise WindowExceeded(place, count, window_tokens)
            counts = [min(count, window_tokens) for count in counts]
        matrix = model.encode(
            texts,
            batch_size=config.max_batch_texts,
            normalize_embeddings=True,
            convert_to_numpy=True,
            show_progress_bar=False,
        )
        return Embedded([array("f", row.astype("float32").tobytes()) for row in matrix], sum(counts))

    return embed
