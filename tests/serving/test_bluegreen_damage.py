"""Blue/green with bundles whose files are not what their manifest says: nothing is ever started from them."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from policies.bundle import Bundle
from serving.promotion import describe_status, status_of
from serving.registry import Registry
from serving.verdicts import Stopped
from tests.serving.switching import Setup


@pytest.fixture
async def setup(tmp_path: Path) -> Setup:
    return Setup(tmp_path)


def damage(setup: Setup, bundle_id: str) -> None:
    os.truncate(setup.registry.root / bundle_id / "model" / "model.safetensors", 20)


def started(setup: Setup) -> list[str]:
    return [Path(options.model).parent.name for options, _ in setup.processes]


async def test_previous_bundle_serves_when_the_current_one_is_damaged_at_the_start(
    setup: Setup, caplog: pytest.LogCaptureFixture
) -> None:
    setup.registry.promote(setup.a)
    setup.registry.promote(setup.b)
    damage(setup, setup.b)
    async with setup.switch:
        state = await setup.reaches("failed", setup.a)
        assert "model.safetensors (20 bytes) has sha256" in state.message
        assert f"{setup.a} serves instead" in state.message
        shown = "\n".join(describe_status(status_of(setup.registry)))
        assert "truncated or was changed" in shown
        assert f"serves {setup.a}" in shown
    assert started(setup) == setup.gateway.ids == [setup.a]
    assert any(f"{setup.b} does not serve" in each.message for each in caplog.records if each.levelname == "ERROR")


async def test_nothing_is_started_when_the_previous_bundle_is_damaged_too(setup: Setup) -> None:
    setup.registry.promote(setup.a)
    setup.registry.promote(setup.b)
    damage(setup, setup.a)
    damage(setup, setup.b)
    async with setup.switch:
        state = await setup.until(lambda state: f"nor does {setup.a}" in state.message)
        assert (state.phase, state.serving, state.base_url) == ("failed", None, None)
        assert started(setup) == setup.gateway.ids == []
        setup.registry.promote(setup.c)
        await setup.reaches("serving", setup.c)


async def test_old_student_keeps_serving_when_the_new_bundle_is_damaged_after_its_promotion(setup: Setup) -> None:
    setup.registry.promote(setup.a)
    async with setup.switch:
        await setup.reaches("serving", setup.a)
        setup.registry.promote(setup.b)
        damage(setup, setup.b)
        await setup.reaches("failed", setup.a)
    assert started(setup) == [setup.a]


async def test_verification_is_shown_and_given_up_when_the_pointer_moves_on(setup: Setup) -> None:
    class Slow(Registry):
        def verified(self, bundle_id: str, *, stop: threading.Event | None = None) -> Bundle:
            if bundle_id == setup.b and stop is not None:
                assert stop.wait(20)
                raise Stopped
            return super().verified(bundle_id, stop=stop)

    setup.registry = Slow(setup.registry.root)
    setup.registry.promote(setup.a)
    async with setup.another():
        await setup.reaches("serving", setup.a)
        setup.registry.promote(setup.b)
        state = await setup.until(lambda state: state.phase == "verifying")
        assert (state.wanted, state.serving) == (setup.b, setup.a)
        setup.registry.rollback()
        await setup.reaches("serving", setup.a)
    assert started(setup) == [setup.a]
