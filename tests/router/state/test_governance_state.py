"""The budget's state in every kind of store: binary, changed by several at once, nothing lost."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from policies.base import Quote, RequestFeatures
from policies.governor import DailyBudget
from policies.pacer import Pacer
from router.governance.paced import SharedPacer
from router.state.base import Store
from tests.router.state.conftest import Setup

NOON_S = 20_000 * 86_400.0 + 43_200.0
SEEN = RequestFeatures(prompt_bytes=1, message_count=1, approx_prompt_tokens=10, requested_output_tokens=2048)


def replica(store: Store, name: str, folder: Path) -> SharedPacer:
    pacer = Pacer(DailyBudget(purpose="teacher", tokens=100_000.0, tag="team"), member=name)
    return SharedPacer(pacer, store, name="governance/teacher", file=folder / name, clock=lambda: NOON_S)


async def test_spend_adds_up_when_two_gateways_sync_at_once(shared: Setup, tmp_path: Path) -> None:
    both = [replica(shared.store, "a", tmp_path), replica(shared.other, "b", tmp_path)]
    for number in range(6):
        for each in both:
            quote = Quote(price=0.0, cost=1.0, tokens=900.0 + number)
            each.pacer.wanted(NOON_S, quote, 0.3)
            each.pacer.spent(SEEN, NOON_S, 100, 900, quote)
        await asyncio.gather(*(each.sync() for each in both))
    for each in both:
        await each.sync()
    assert [each.pacer.state.spent for each in both] == [pytest.approx(12.0)] * 2
    assert both[0].pacer.state.lengths.n == pytest.approx(12.0)
