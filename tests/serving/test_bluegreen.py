"""Blue/green: every way from one bundle to the next, with simulated processes."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from serving.errors import LaunchError
from serving.options import VllmSettings
from serving.supervisor import State
from serving.switch_state import has_owner
from tests.serving.bundles import added
from tests.serving.switching import Setup


@pytest.fixture
async def setup(tmp_path: Path) -> Setup:
    return Setup(tmp_path)


async def test_switch_waits_for_the_first_promotion(setup: Setup) -> None:
    async with setup.switch:
        state = await setup.reaches("empty", None)
        assert "locum student promote" in state.message
        assert setup.processes == []
        setup.registry.promote(setup.a)
        state = await setup.reaches("serving", setup.a)
        assert state.process == "ready"
        assert state.base_url == f"http://127.0.0.1:{setup.settings.port}/v1"
    assert setup.gateway.installed == [(setup.a, setup.registry.root / setup.a, state.base_url)]
    assert setup.running() == []


async def test_no_process_is_started_when_only_the_threshold_changes(setup: Setup) -> None:
    tuned = setup.registry.derive(setup.a, calibrator=None, cascade_threshold=0.25).bundle_id
    setup.registry.promote(setup.a)
    async with setup.switch:
        before = await setup.reaches("serving", setup.a)
        setup.registry.promote(tuned)
        after = await setup.reaches("serving", tuned)
        assert after.base_url == before.base_url
        assert len(setup.processes) == 1
        assert setup.running() == [setup.settings.port]
        setup.registry.promote(setup.b)
        await setup.reaches("serving", setup.b)
    assert setup.gateway.ids == [setup.a, tuned, setup.b]
    assert setup.running() == []


@pytest.mark.parametrize("phase", ["starting", "installing", "serving"])
async def test_no_child_is_left_when_the_gateway_stops(setup: Setup, phase: str) -> None:
    setup.registry.promote(setup.a)
    async with setup.switch:
        await setup.reaches("serving", setup.a)
        assert has_owner(setup.registry.root)
        if phase != "serving":
            setup.behaviours[setup.b] = ("silent",) if phase == "starting" else ()
            setup.gateway.drained.clear()
            setup.registry.promote(setup.b)
        await setup.until(lambda state: state.phase == phase)
    assert setup.running() == []
    assert all(process.state in (State.STOPPED, State.FAILED) for _, process in setup.processes)
    assert setup.state is not None
    assert setup.state.phase == "stopped"
    assert not has_owner(setup.registry.root)


async def test_second_gateway_is_refused_when_one_serves_the_registry(setup: Setup) -> None:
    async with setup.switch:
        await setup.reaches("empty", None)
        with pytest.raises(LaunchError, match=rf"another gateway \(process {os.getpid()}\) serves"):
            await setup.another().__aenter__()
    async with setup.another():
        pass


async def test_window_of_the_configuration_wins_over_the_bundles(setup: Setup) -> None:
    wide = added(setup.registry, "w", context_window_tokens=512)
    setup.registry.promote(wide)
    async with setup.switch:
        await setup.reaches("serving", wide)
    assert setup.processes[0][0].context_window_tokens == 512
    setup.settings = VllmSettings(port=setup.settings.port, context_window_tokens=256)
    async with setup.another():
        await setup.reaches("serving", wide)
    assert setup.processes[1][0].context_window_tokens == 256
