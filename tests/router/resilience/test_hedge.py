"""Of two attempts the first answer counts, and the other attempt ends at once."""

from __future__ import annotations

import asyncio

import pytest

from router.config.resilience import HedgingConfig
from router.errors import BackendRefused
from router.resilience.hedge import MIN_SAMPLES, SlowerThan, race

FAILED = BackendRefused("failed", cause="server_error")
SECOND_FAILED = BackendRefused("failed too", cause="timeout")


class Backend:
    """Answers when the test says so."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.asked = asyncio.Event()
        self.ended: asyncio.Future[Exception | None] = asyncio.get_running_loop().create_future()
        self.cancelling = asyncio.Event()
        self.cancelled = False
        self.goodbye_s = 0.0

    async def call(self) -> str:
        self.asked.set()
        try:
            error = await asyncio.shield(self.ended)
        except asyncio.CancelledError:
            self.cancelling.set()
            await asyncio.sleep(self.goodbye_s)
            self.cancelled = True
            raise
        if error is not None:
            raise error
        return self.name


class Race:
    """A race of two backends, its hedge starting at once."""

    def __init__(self, *, may_hedge: bool = True) -> None:
        self.first, self.second = Backend("first"), Backend("second")
        self.discarded: list[str] = []
        self.outcomes: list[str] = []
        self.may_hedge = may_hedge

    def start(self, delay_s: float = 0.0) -> asyncio.Task[str]:
        return asyncio.ensure_future(
            race(
                self.first.call(),
                lambda: self.second.call() if self.may_hedge else None,
                delay_s=delay_s,
                discard=self.discarded.append,
                count=self.outcomes.append,
            )
        )  # type: ignore[return-value]


async def test_no_second_attempt_is_made_when_the_first_is_quick() -> None:
    run = Race()
    run.first.ended.set_result(None)
    assert await run.start(delay_s=30.0) == "first"
    assert not run.second.asked.is_set()
    assert run.outcomes == []


async def test_second_attempt_wins_and_the_first_is_cancelled() -> None:
    run = Race()
    answer = run.start()
    await run.second.asked.wait()
    run.second.ended.set_result(None)
    assert await answer == "second"
    assert (run.first.cancelled, run.outcomes) == (True, ["won"])


async def test_first_attempt_wins_and_the_second_is_cancelled() -> None:
    run = Race()
    answer = run.start()
    await run.second.asked.wait()
    run.first.ended.set_result(None)
    assert await answer == "first"
    assert (run.second.cancelled, run.outcomes) == (True, ["lost"])


async def test_other_attempt_goes_on_when_one_fails() -> None:
    run = Race()
    answer = run.start()
    await run.second.asked.wait()
    run.first.ended.set_result(FAILED)
    await asyncio.sleep(0)
    assert not answer.done()
    run.second.ended.set_result(None)
    assert await answer == "second"


async def test_error_is_the_first_attempts_when_both_fail() -> None:
    run = Race()
    answer = run.start()
    await run.second.asked.wait()
    run.second.ended.set_result(SECOND_FAILED)
    run.first.ended.set_result(FAILED)
    with pytest.raises(BackendRefused) as caught:
        await answer
    assert caught.value is FAILED
    assert run.outcomes == ["failed"]


async def test_answer_that_nobody_needs_is_discarded_when_both_come_at_once() -> None:
    run = Race()
    answer = run.start()
    await run.second.asked.wait()
    run.first.ended.set_result(None)
    run.second.ended.set_result(None)
    assert await answer == "first"
    assert run.discarded == ["second"]


async def test_answer_is_discarded_when_the_client_leaves_while_the_slower_attempt_is_being_ended() -> None:
    run = Race()
    run.second.goodbye_s = 0.01
    answer = run.start()
    await run.second.asked.wait()
    run.first.ended.set_result(None)
    await run.second.cancelling.wait()
    answer.cancel()
    with pytest.raises(asyncio.CancelledError):
        await answer
    assert run.discarded == ["first"]


async def test_both_attempts_end_when_their_request_is_cancelled_twice() -> None:
    run = Race()
    run.first.goodbye_s = run.second.goodbye_s = 0.01
    answer = run.start()
    await run.second.asked.wait()
    answer.cancel()
    goodbyes = [asyncio.ensure_future(each.cancelling.wait()) for each in (run.first, run.second)]
    await asyncio.wait(goodbyes, return_when=asyncio.FIRST_COMPLETED)
    answer.cancel()
    with pytest.raises(asyncio.CancelledError):
        await answer
    assert all(goodbye.done() for goodbye in goodbyes)


async def test_both_attempts_are_cancelled_when_the_client_leaves() -> None:
    run = Race()
    answer = run.start()
    await run.second.asked.wait()
    answer.cancel()
    with pytest.raises(asyncio.CancelledError):
        await answer
    assert run.first.cancelled
    assert run.second.cancelled
    assert run.outcomes == []


async def test_first_attempt_goes_on_alone_when_no_hedge_is_allowed() -> None:
    run = Race(may_hedge=False)
    answer = run.start()
    await run.first.asked.wait()
    run.first.ended.set_result(None)
    assert await answer == "first"
    assert run.outcomes == []


@pytest.mark.parametrize(
    ("times", "expected"),
    [
        ([1.0] * (MIN_SAMPLES - 1), None),
        ([number / 100 for number in range(1, 101)], 0.96),
        ([9.0] * 500 + [0.5] * 200, 0.5),  # the latest count
        ([0.001] * 50, 0.1),  # never before min_delay_s
    ],
)
def test_slow_is_what_takes_longer_than_most_of_the_latest(times: list[float], expected: float | None) -> None:
    known = SlowerThan(HedgingConfig(quantile=0.95, min_delay_s=0.1))

    for seconds in times:
        known.add(seconds)
    assert known.delay_s() == expected
