"""Blue/green with real child processes (fake_server.py): that the switch and the supervisor fit together."""

from __future__ import annotations

from pathlib import Path

import pytest

from serving.supervisor import State
from tests.serving.switching import RealSetup


@pytest.fixture
async def setup(tmp_path: Path) -> RealSetup:
    return RealSetup(tmp_path)


@pytest.mark.system
async def test_switch_alternates_ports_and_stops_the_old_one_after_the_new_one_is_installed(setup: RealSetup) -> None:
    setup.registry.promote(setup.a)
    async with setup.switch:
        await setup.reaches("serving", setup.a)
        setup.gateway.drained.clear()
        setup.registry.promote(setup.b)
        state = await setup.until(lambda state: state.phase == "installing")
        assert (state.serving, state.wanted) == (setup.a, setup.b)
        assert sorted(setup.running()) == sorted(setup.settings.ports)
        setup.gateway.drained.set()
        await setup.reaches("serving", setup.b)
        assert setup.running() == [setup.settings.ports[1]]
        setup.registry.rollback()
        await setup.reaches("serving", setup.a)
        assert setup.running() == [setup.settings.ports[0]]
    assert setup.gateway.ids == [setup.a, setup.b, setup.a]
    assert setup.running() == []


@pytest.mark.system
async def test_old_student_serves_and_no_child_is_left_when_the_new_one_answers_no_request(setup: RealSetup) -> None:
    setup.behaviours[setup.b] = ("mute",)
    setup.registry.promote(setup.a)
    async with setup.switch:
        await setup.reaches("serving", setup.a)
        setup.registry.promote(setup.b)
        state = await setup.reaches("failed", setup.a)
        assert 'answered with 500: {"error": "no words"}' in state.message
        assert setup.running() == [setup.settings.port]
    assert setup.running() == []
    assert all(process.state is State.STOPPED for _, process in setup.processes)
