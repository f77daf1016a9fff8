"""The log behind an engine: what is written, when, and that nothing is written as it came."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from policies.record import DecisionRecord, encode
from policies.traffic.reader import read
from router.config import LogConfig
from router.config.scrub import ScrubConfig
from router.metrics import Metrics
from router.scrub.engine import AT_ONCE_BYTES, BuiltInEngine, TooMuchWork
from router.scrub.findings import Engine, Finding
from router.scrub.spool import ScrubbedLog
from tests.traffic_records import decision, judgement

ADDRESS = "ann@example.org"
LARGE = "x " * AT_ONCE_BYTES


class HeldEngine:
    """Searches when it is told to."""

    kinds = frozenset({"email"})
    at_once_bytes = AT_ONCE_BYTES

    def __init__(self) -> None:
        self.began, self.may_go_on = threading.Event(), threading.Event()
        self._engine = BuiltInEngine(["email"], {})

    def find(self, data: bytes) -> list[Finding]:
        self.began.set()
        assert self.may_go_on.wait(20)
        return self._engine.find(data)


class BrokenEngine:
    kinds = frozenset({"email"})
    at_once_bytes = AT_ONCE_BYTES

    def __init__(self, error: type[Exception]) -> None:
        self._error = error

    def find(self, data: bytes) -> list[Finding]:
        raise self._error


class Running:
    def __init__(self, folder: Path, engine: Engine, timeout_s: float) -> None:
        self.folder, self.metrics = folder, Metrics()
        scrub = ScrubConfig(enabled=("email",), timeout_s=timeout_s)
        config = LogConfig(dir=str(folder), write_timeout_s=timeout_s + 20, scrub=scrub)
        self.log = ScrubbedLog(config, self.metrics, engine)

    def count(self, name: str) -> float:
        lines = self.metrics.render().decode().splitlines()
        return sum(float(line.split()[-1]) for line in lines if line.startswith(name))

    def written(self) -> bytes:
        return b"".join(path.read_bytes() for path in self.folder.glob("*.seg"))


Start = Callable[..., "asyncio.Future[Running]"]


@asynccontextmanager
async def running(folder: Path, engine: Engine | None = None, *, timeout_s: float = 20.0) -> AsyncIterator[Running]:
    made = Running(folder, engine or BuiltInEngine(["email"], {}), timeout_s)
    await made.log.start()
    try:
        yield made
    finally:
        await made.log.stop()


@pytest.mark.parametrize("text", [ADDRESS, ADDRESS + LARGE], ids=["at once", "on the thread"])
async def test_record_is_written_with_placeholders(tmp_path: Path, text: str) -> None:
    async with running(tmp_path) as log:
        assert await log.log.append(encode(decision(1, completion=text)))
        assert await log.log.append(encode(decision(2, completion="nothing")))
        assert log.count('router_scrubbed_total{kind="email"}') == 1
    assert ADDRESS.encode() not in log.written()
    first, second = read(tmp_path)
    assert isinstance(first, DecisionRecord)
    assert (first.completion or "").startswith("[EMAIL_1]")
    assert second == decision(2, completion="nothing")


async def test_record_is_written_without_texts_when_scrubbing_takes_too_long(tmp_path: Path) -> None:
    engine = HeldEngine()
    async with running(tmp_path, engine, timeout_s=0.01) as log:
        try:
            assert await log.log.append(encode(decision(1, completion=ADDRESS + LARGE, tags={"who": ADDRESS})))
        finally:
            engine.may_go_on.set()
        assert log.count('router_scrub_failures_total{cause="timeout"}') == 1
    [record] = read(tmp_path)
    assert isinstance(record, DecisionRecord)
    assert (record.completion, record.request, record.tags, record.capture) == (None, None, {}, "metadata")
    assert ADDRESS.encode() not in log.written()


@pytest.mark.parametrize(("error", "cause"), [(TooMuchWork, "too_much"), (ValueError, "error")])
async def test_record_is_written_without_texts_when_the_engine_fails(
    tmp_path: Path, error: type[Exception], cause: str
) -> None:
    async with running(tmp_path, BrokenEngine(error)) as log:
        assert await log.log.append(encode(decision(1, completion=ADDRESS)))
        assert await log.log.append(encode(decision(2, completion=ADDRESS + LARGE)))
        assert log.count(f'router_scrub_failures_total{{cause="{cause}"}}') == 2
    assert len(list(read(tmp_path))) == 2
    assert ADDRESS.encode() not in log.written()


async def test_judgement_is_refused_when_its_words_cannot_be_scrubbed(tmp_path: Path) -> None:
    async with running(tmp_path, BrokenEngine(ValueError)) as log:
        assert not await log.log.append(encode(judgement(1, score=1.0, correction=ADDRESS)))
    assert list(read(tmp_path)) == []


async def test_record_is_written_when_its_request_is_cancelled_while_it_is_scrubbed(tmp_path: Path) -> None:
    engine = HeldEngine()
    async with running(tmp_path, engine) as log:
        request = asyncio.create_task(log.log.append(encode(decision(1, completion=ADDRESS + LARGE))))
        await asyncio.to_thread(engine.began.wait, 20)
        request.cancel()
        with pytest.raises(asyncio.CancelledError):
            await request
        engine.may_go_on.set()
    assert len(list(read(tmp_path))) == 1  # stop() has waited for it
    assert ADDRESS.encode() not in log.written()


async def test_event_loop_turns_while_a_large_record_is_scrubbed(tmp_path: Path) -> None:
    engine = HeldEngine()
    async with running(tmp_path, engine) as log:
        request = asyncio.create_task(log.log.append(encode(decision(1, completion=LARGE))))
        await asyncio.to_thread(engine.began.wait, 20)
        engine.may_go_on.set()  # the loop got here while the engine was held
        assert await request


def test_scrubbing_and_writing_together_have_the_time_of_writing_alone(tmp_path: Path) -> None:
    config = LogConfig(dir=str(tmp_path), write_timeout_s=0.05, scrub=ScrubConfig(enabled=("email",), timeout_s=0.02))
    log = ScrubbedLog(config, Metrics(), BuiltInEngine(["email"], {}))
    assert log._config.write_timeout_s == pytest.approx(0.03)
    with pytest.raises(ValueError, match=r"below log\.write_timeout_s"):
        LogConfig(write_timeout_s=0.05, scrub=ScrubConfig(enabled=("email",), timeout_s=0.05))
    assert ScrubConfig().is_on is False
