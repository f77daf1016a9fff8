"""The bound on the time of a block."""

from __future__ import annotations

import asyncio

import pytest

from router.time_limit import TimeLimit


async def forever() -> None:
    await asyncio.Event().wait()


async def test_block_ends_in_a_timeout_when_it_takes_too_long() -> None:
    with pytest.raises(TimeoutError), TimeLimit(0.0):
        await forever()
    task = asyncio.current_task()
    assert task is not None and task.cancelling() == 0


async def test_inner_limit_ends_only_its_own_block() -> None:
    with TimeLimit(60.0):
        with pytest.raises(TimeoutError), TimeLimit(0.0):
            await forever()
        await asyncio.sleep(0)


async def test_outer_limit_is_told_apart_when_the_inner_one_is_later() -> None:
    with pytest.raises(TimeoutError) as outer, TimeLimit(0.0):
        try:
            with TimeLimit(60.0):
                await forever()
        except TimeoutError:
            pytest.fail("the inner limit has not passed")
    assert isinstance(outer.value.__cause__, asyncio.CancelledError)


async def test_cancellation_from_outside_stays_one() -> None:
    async def bounded() -> None:
        with TimeLimit(60.0):
            await forever()

    task = asyncio.create_task(bounded())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_cancellation_from_outside_stays_one_when_the_time_is_over_as_well() -> None:
    async def bounded() -> None:
        with TimeLimit(0.0):
            await forever()

    task = asyncio.create_task(bounded())
    await asyncio.sleep(0)
    asyncio.get_running_loop().call_soon(task.cancel)
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_limit_holds_from_its_new_moment_when_it_is_moved() -> None:
    loop = asyncio.get_running_loop()
    with TimeLimit(0.0) as limit:
        limit.move_to(loop.time() + 60.0)
        await asyncio.sleep(0.02)  # the timer fires and goes to sleep again
    with pytest.raises(TimeoutError), TimeLimit(60.0) as limit:
        limit.move_to(loop.time())
        await forever()
