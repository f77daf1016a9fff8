"""Blue/green when something does not start, dies, or cannot be taken: what serves goes on."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from serving.errors import LaunchError
from serving.options import VllmOptions
from serving.supervisor import Observer, State, Supervisor
from tests.serving.processes import until
from tests.serving.switching import Setup


@pytest.fixture
async def setup(tmp_path: Path) -> Setup:
    return Setup(tmp_path)


@pytest.mark.parametrize(
    ("behaviour", "reason"),
    [("exit=1", "never ready in 2 starts"), ("exit=2", "does not accept"), ("mute", "answered with 500")],
)
async def test_old_student_keeps_serving_when_the_new_one_does_not_start(
    setup: Setup, behaviour: str, reason: str
) -> None:
    setup.behaviours[setup.b] = (behaviour,)
    setup.registry.promote(setup.a)
    async with setup.switch:
        first = await setup.reaches("serving", setup.a)
        setup.registry.promote(setup.b)
        state = await setup.reaches("failed", setup.a)
        assert setup.b in state.message
        assert re.search(reason, state.message), state.message
        assert state.base_url == first.base_url
        assert setup.running() == [setup.settings.port]
        setup.registry.promote(setup.c)
        await setup.reaches("serving", setup.c)
    assert setup.gateway.ids == [setup.a, setup.c]


async def test_state_has_the_log_when_the_new_student_fails(setup: Setup) -> None:
    setup.behaviours[setup.a] = ("exit=1",)
    setup.registry.promote(setup.a)
    async with setup.switch:
        state = await setup.reaches("failed", None)
        assert "RuntimeError: no weights" in state.log_tail
        setup.behaviours.clear()
        setup.registry.promote(setup.a)
        await setup.reaches("serving", setup.a)


async def test_old_student_keeps_serving_when_the_gateway_cannot_take_the_new_one(setup: Setup) -> None:
    setup.registry.promote(setup.a)
    async with setup.switch:
        await setup.reaches("serving", setup.a)
        setup.gateway.trouble = ValueError("a calibrator without points")
        setup.registry.promote(setup.b)
        state = await setup.reaches("failed", setup.a)
        assert "a calibrator without points" in state.message
        assert setup.running() == [setup.settings.port]


async def test_old_student_keeps_serving_when_the_model_or_the_port_cannot_be_used(setup: Setup) -> None:
    def refuse(options: VllmOptions, observer: Observer) -> Supervisor:
        raise LaunchError("port: taken")

    setup.registry.promote(setup.a)
    async with setup.switch:
        await setup.reaches("serving", setup.a)
        setup.switch._launch = refuse
        setup.registry.promote(setup.b)
        assert "port: taken" in (await setup.reaches("failed", setup.a)).message
        (setup.registry.root / "current.json").write_text("{")
        state = await setup.until(lambda state: "current.json is damaged" in state.message)
        assert (state.phase, state.serving) == ("failed", setup.a)


async def test_serving_student_is_restarted_when_it_crashes(setup: Setup) -> None:
    setup.registry.promote(setup.a)
    async with setup.switch:
        state = await setup.reaches("serving", setup.a)
        process = setup.processes[0][1]
        pid = process.pid
        setup.crash(state.base_url)
        await setup.until(lambda state: process.pid not in (None, pid) and state.process == "ready")
    assert setup.gateway.ids == [setup.a]


async def test_promoting_again_retries_when_the_student_has_died_for_good(setup: Setup) -> None:
    setup.registry.promote(setup.a)
    async with setup.switch:
        state = await setup.reaches("serving", setup.a)
        process = setup.processes[0][1]
        first = process.pid
        setup.crash(state.base_url)
        await until(lambda: process.pid not in (None, first) and process.state is State.READY)
        setup.crash(state.base_url)
        state = await setup.reaches("failed", None)
        assert "ValueError: the engine has run out of luck" in state.log_tail
        setup.registry.promote(setup.a)
        await setup.reaches("serving", setup.a)
    assert setup.running() == []


async def test_last_good_student_serves_when_a_restarted_gateway_finds_one_that_does_not_start(setup: Setup) -> None:
    setup.behaviours[setup.b] = ("exit=2",)
    setup.registry.promote(setup.a)
    async with setup.switch:
        await setup.reaches("serving", setup.a)
        setup.registry.promote(setup.b)
        await setup.reaches("failed", setup.a)
    state = await setup.reaches("stopped", setup.a)
    assert state.process is None
    async with setup.another():
        state = await setup.reaches("failed", setup.a)
        assert f"{setup.b} does not serve" in state.message
        assert f"{setup.a} serves instead" in state.message
