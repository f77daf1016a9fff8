"""Blue/green when the pointer moves on before a change has ended."""

from __future__ import annotations

import asyncio
import dataclasses
from pathlib import Path

import pytest

from serving.supervisor import State
from tests.serving.switching import POLL_S, Setup


@pytest.fixture
async def setup(tmp_path: Path) -> Setup:
    return Setup(tmp_path)


async def test_switch_ends_at_the_last_one_when_the_pointer_moves_quickly(setup: Setup) -> None:
    setup.behaviours[setup.b] = ("silent",)
    setup.registry.promote(setup.a)
    async with setup.switch:
        await setup.reaches("serving", setup.a)
        for bundle_id in (setup.b, setup.c, setup.b, setup.a, setup.b, setup.c):
            setup.registry.promote(bundle_id)
            await asyncio.sleep(POLL_S * 2)
        await setup.reaches("serving", setup.c)
        assert len(setup.running()) == 1
    assert setup.gateway.ids[-1] == setup.c
    assert setup.b not in setup.gateway.ids
    assert setup.running() == []


async def test_loading_student_is_given_up_when_it_is_rolled_back(setup: Setup) -> None:
    setup.behaviours[setup.b] = ("silent",)
    setup.registry.promote(setup.a)
    async with setup.switch:
        await setup.reaches("serving", setup.a)
        setup.registry.promote(setup.b)
        await setup.until(lambda state: state.phase == "starting" and state.wanted == setup.b)
        await setup.until(lambda state: "loading weights" in state.message)
        setup.registry.rollback()
        await setup.reaches("serving", setup.a)
        assert setup.running() == [setup.settings.port]
    assert setup.gateway.ids == [setup.a]


async def test_switch_goes_on_when_the_pointer_is_damaged_while_a_load_is_given_up(setup: Setup) -> None:
    setup.behaviours[setup.a] = ("silent",)
    setup.registry.promote(setup.a)
    async with setup.switch:
        await setup.until(lambda state: state.phase == "starting" and bool(setup.running()))
        setup.registry.promote(setup.b)
        async with asyncio.timeout(20):
            while setup.processes[0][1].state is State.STARTING:  # noqa: ASYNC110 - it has no event
                await asyncio.sleep(0)
        (setup.registry.root / "current.json").write_text("{")
        state = await setup.until(lambda state: state.phase == "failed")
        assert "promote a bundle again" in state.message
        (setup.registry.root / "current.json").unlink()
        setup.registry.promote(setup.c)
        await setup.reaches("serving", setup.c)
    assert setup.gateway.ids == [setup.c]


async def test_newer_pointer_waits_when_an_install_has_begun(setup: Setup) -> None:
    setup.registry.promote(setup.a)
    async with setup.switch:
        await setup.reaches("serving", setup.a)
        setup.gateway.drained.clear()
        setup.registry.promote(setup.b)
        await setup.until(lambda state: state.phase == "installing")
        setup.registry.promote(setup.c)
        await asyncio.sleep(POLL_S * 5)
        assert setup.gateway.ids == [setup.a, setup.b]
        setup.gateway.drained.set()
        await setup.reaches("serving", setup.c)
    assert setup.gateway.ids == [setup.a, setup.b, setup.c]


async def test_candidate_that_never_served_is_ended_at_once_when_it_is_given_up(setup: Setup) -> None:
    """It is ready, so its process would get the time of running requests; it has none but ours."""
    setup.timing = dataclasses.replace(setup.timing, shutdown_timeout_s=600.0)
    setup.behaviours[setup.b] = ("stubborn",)
    setup.registry.promote(setup.a)
    async with setup.switch:
        await setup.reaches("serving", setup.a)
        setup.warmth.clear()
        setup.registry.promote(setup.b)
        await setup.until(lambda state: state.phase == "warming")
        setup.registry.rollback()
        await setup.reaches("serving", setup.a)
        assert setup.running() == [setup.settings.port]
    assert setup.gateway.ids == [setup.a]
