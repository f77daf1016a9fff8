"""The life of a drawn request, with models and graders that a test holds in its hands."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, cast

import msgspec

from policies.base import Route
from policies.record import DecisionRecord, FeedbackRecord, Grade, ShadowRecord
from router.answers import Meaning
from router.chat import ChatRequest
from router.config.quality import ShadowConfig
from router.metrics import Metrics
from router.quality.asking import Asked
from router.quality.graders import Graded
from router.quality.pair import Pair
from router.quality.recent import RecentFeedback
from router.quality.shadow import Shadows
from router.request_state import RequestState
from router.traffic_log import TrafficLog
from tests.traffic_records import decision, decision_id

BODY = b'{"model": "auto", "messages": [{"role": "user", "content": "Q?"}]}'
ANSWER = Asked("ok", "student", Meaning(None, "stop", "theirs"), 0.01, 0.5)
Ask = Callable[[str], Awaitable[Asked]]


async def at_once(decision_id: str) -> Asked:
    return ANSWER


@dataclass
class Models:
    """Answers as a test says."""

    how: Ask = at_once
    asked: list[str] = field(default_factory=list)

    async def ask(self, record: DecisionRecord, request: ChatRequest, route: Route) -> Asked:
        self.asked.append(record.decision_id)
        return await self.how(record.decision_id)


@dataclass
class Graders:
    pairs: list[Pair] = field(default_factory=list)
    failure: Exception | None = None

    async def grade(self, pair: Pair) -> Graded:
        self.pairs.append(pair)
        if self.failure is not None:
            raise self.failure
        return Graded((Grade(grader="test", student=0.5, teacher=1.0),))


class Log:
    def __init__(self) -> None:
        self.records: list[ShadowRecord] = []
        self._more = asyncio.Event()

    async def append(self, payload: bytes) -> bool:
        self.records.append(msgspec.json.decode(payload, type=ShadowRecord))
        self._more.set()
        return True

    async def reached(self, count: int) -> None:
        while len(self.records) < count:
            self._more.clear()
            await self._more.wait()


@dataclass
class Bench:
    """`Shadows` and all that is around it."""

    config: ShadowConfig
    max_queue_chars: int
    models: Models = field(default_factory=Models)
    graders: Graders = field(default_factory=Graders)
    log: Log = field(default_factory=Log)
    recent: RecentFeedback = field(default_factory=RecentFeedback)
    told: list[ShadowRecord] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.shadows = Shadows(
            self.config,
            models=self.models,
            graders=self.graders,
            log=cast(TrafficLog, self.log),
            metrics=Metrics(),
            recent=self.recent,
            max_queue_chars=self.max_queue_chars,
        )
        self.shadows.observers.append(self.told.append)

    def offer(self, number: int, **fields: Any) -> None:
        record = decision(number, **{"route": "student", "completion": "mine", **fields})
        state = SimpleNamespace(
            request=ChatRequest.parse(BODY, ()),
            tenant=SimpleNamespace(routes=frozenset({"student", "teacher"})),
        )
        self.shadows.offer(cast(RequestState, state), record)

    @property
    def statuses(self) -> dict[str, str]:
        return {record.decision_id: record.status for record in self.log.records}


def bench(max_queue_chars: int = 10_000, **options: Any) -> Bench:
    return Bench(ShadowConfig(student_share=1.0, teacher_share=1.0, **options), max_queue_chars)


def run(scenario: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(cast(Any, scenario()))


def test_answer_is_graded_written_and_told() -> None:
    it = bench()

    async def scenario() -> None:
        it.offer(1)
        assert not it.log.records  # nothing happens in the client's turn of the loop
        await it.shadows.drain()

    run(scenario)
    (record,) = it.log.records
    assert (record.status, record.completion, record.cost_usd) == ("ok", "theirs", 0.01)
    assert record.grades == (Grade(grader="test", student=0.5, teacher=1.0),)
    assert it.told == [record]
    (pair,) = it.graders.pairs
    assert (pair.student, pair.teacher, pair.label) == ("mine", "theirs", None)


def test_answers_change_places_when_the_student_is_asked_and_labels_come_along() -> None:
    it = bench()
    it.recent.add(FeedbackRecord(schema=1, decision_id=decision_id(1), created_s=0.0, label="right"))
    it.recent.add(FeedbackRecord(schema=1, decision_id=decision_id(1), created_s=0.0, label="wrong", tenant="other"))

    async def scenario() -> None:
        it.offer(1, route="teacher")
        await it.shadows.drain()

    run(scenario)
    (pair,) = it.graders.pairs
    assert (pair.student, pair.teacher, pair.label) == ("theirs", "mine", "right")


def test_calls_at_once_and_waiting_ones_are_bounded_and_every_draw_leaves_a_record() -> None:
    it = bench(max_concurrency=2, max_queue=3, drain_timeout_s=0.01)
    gate = asyncio.Event()
    under_way = most = 0

    async def slowly(_: str) -> Asked:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        await gate.wait()
        under_way -= 1
        return ANSWER

    it.models.how = slowly

    async def scenario() -> None:
        for number in range(8):
            it.offer(number)
        await asyncio.sleep(0)
        assert len(it.models.asked) == 2
        gate.set()
        await it.log.reached(8)

    run(scenario)
    assert most == 2
    assert sorted(it.statuses.values()) == ["ok"] * 5 + ["skipped_queue"] * 3
    assert [it.statuses[decision_id(number)] for number in (5, 6, 7)] == ["skipped_queue"] * 3


def test_requests_too_large_to_wait_are_skipped() -> None:
    it = bench(max_concurrency=1, drain_timeout_s=0.01, max_queue_chars=len(BODY) + 1)
    it.models.how = lambda _: asyncio.sleep(3600, ANSWER)

    async def scenario() -> None:
        for number in range(3):
            it.offer(number)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert it.statuses == {decision_id(2): "skipped_queue"}
        await it.shadows.drain()

    run(scenario)
    assert it.statuses == {
        decision_id(0): "timeout",
        decision_id(1): "skipped_shutdown",
        decision_id(2): "skipped_queue",
    }


def test_drain_lets_what_is_quick_enough_end_and_cuts_off_the_rest() -> None:
    it = bench(max_concurrency=2, drain_timeout_s=0.05)
    hanging = asyncio.Event()
    it.models.how = lambda name: hanging.wait() if name == decision_id(1) else asyncio.sleep(0.01, ANSWER)  # type: ignore[assignment,return-value]

    async def scenario() -> None:
        for number in range(3):
            it.offer(number)
        await asyncio.sleep(0)
        await it.shadows.drain()
        it.offer(4)  # from now on nothing is drawn
        await it.shadows.drain()

    run(scenario)
    assert it.statuses == {decision_id(0): "ok", decision_id(1): "timeout", decision_id(2): "skipped_shutdown"}


def test_answer_that_was_paid_for_is_kept_when_its_grading_is_cut_off_or_fails() -> None:
    it = bench(drain_timeout_s=0.01)
    it.graders.grade = lambda pair: asyncio.sleep(3600, Graded())  # type: ignore[assignment,method-assign]
    broken = bench()
    broken.graders.failure = RuntimeError("a bug")

    async def scenario() -> None:
        for each in (it, broken):
            each.offer(1)
            await asyncio.sleep(0)
            await each.shadows.drain()

    run(scenario)
    for each in (it, broken):
        (record,) = each.log.records
        assert (record.status, record.completion, record.grades, record.cost_usd) == ("ok", "theirs", (), 0.01)


def test_failure_inside_is_an_error_and_the_next_request_is_looked_after() -> None:
    it = bench(max_concurrency=1)

    async def broken(name: str) -> Asked:
        if name == decision_id(1):
            raise RuntimeError("a bug")
        return ANSWER

    it.models.how = broken

    async def scenario() -> None:
        it.offer(1)
        it.offer(2)
        await it.log.reached(2)

    run(scenario)
    assert it.statuses == {decision_id(1): "error", decision_id(2): "ok"}


def test_recent_feedback_is_bounded_and_counts_a_score_once() -> None:
    recent = RecentFeedback(max_decisions=2)

    def scored(number: int, score: float | None = 0.5, label: str | None = None) -> bool:
        return recent.add(
            FeedbackRecord(schema=1, decision_id=decision_id(number), created_s=0.0, score=score, label=label)
        )

    assert [scored(1), scored(1), scored(2), scored(3, None, "x"), scored(1)] == [True, False, True, False, False]
    assert scored(4)
    assert scored(1)  # forgotten
    for number in (5, 6):
        scored(number, None, "x")
    assert recent.label_of(decision(3)) is None
    assert recent.label_of(decision(6)) == "x"
    assert recent.label_of(decision(6, tenant="other")) is None
