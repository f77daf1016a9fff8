"""One `locum serve` process between two fake backends, kept from case to case."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from loadtests.faults.play import Player, player
from loadtests.faults.systems.locum import Locum


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def playing(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Player]:
    system = Locum()
    folder: Path = tmp_path_factory.mktemp("faults")
    system.install(folder)
    async with player(system, folder) as running:
        yield running
