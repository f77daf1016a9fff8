"""The end of a request: who is told, and that nobody who looks on can spoil it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from policies.record import DecisionRecord
from router.dialects.chat import CHAT
from router.generations import Generation
from router.metrics import Metrics
from router.outcome import Observer, Outcomes
from router.recorder import Recorder
from router.request_state import RequestState
from router.resilience.pool import Pool
from router.traffic_log import TrafficLog


class Log:
    def __init__(self, *, writes: bool = True) -> None:
        self.payloads: list[bytes] = []
        self._writes = writes

    async def append(self, payload: bytes) -> bool:
        self.payloads.append(payload)
        return self._writes


def outcomes(log: Log, *observers: Observer) -> Outcomes:
    teacher = SimpleNamespace(price=None, config=SimpleNamespace(model="teacher"))
    kept = cast(TrafficLog, log)
    recorder = Recorder(teacher=cast(Pool, teacher), capture="full", distillation="denied", log=kept)
    return Outcomes(recorder, Metrics(), kept, observers=observers)


def state() -> RequestState:
    generation = cast(Generation, SimpleNamespace(bundle_id="student"))
    return RequestState("d" * 32, 0.0, dialect=CHAT, generation=generation)


async def test_observers_are_told_once_the_record_is_written(caplog: pytest.LogCaptureFixture) -> None:
    log, told = Log(), list[str]()

    def broken(*_: Any) -> None:
        raise RuntimeError("a bug")

    def observe(state: RequestState, record: DecisionRecord) -> None:
        assert log.payloads
        told.append(record.decision_id)

    ended = state()
    settling = outcomes(log, broken, observe)
    await settling.settle(ended, 1.0)
    await settling.settle(ended, 1.0)
    assert told == ["d" * 32]
    assert "an observer of answered requests failed" in caplog.text


async def test_observers_are_not_told_of_what_the_log_did_not_take() -> None:
    told: list[RequestState] = []
    log = Log(writes=False)
    await outcomes(log, lambda state, record: told.append(state)).settle(state(), 1.0)
    assert log.payloads
    assert not told
