"""Every row of the table of faults, played against a real gateway process."""

from __future__ import annotations

import pytest

from loadtests.faults.cases import CASES
from loadtests.faults.judging import Case
from loadtests.faults.play import Player

pytestmark = pytest.mark.system

NOT_YET: dict[str, str] = {}
"""Rows that fail today; one that passes must leave this list."""


def parameters() -> list[object]:
    """Those of one setting together: a process serves them all."""
    return [
        pytest.param(
            case,
            id=case.name,
            marks=[pytest.mark.xfail(strict=True, reason=NOT_YET[case.name])] if case.name in NOT_YET else [],
        )
        for case in sorted(CASES, key=lambda case: (case.setting, case.ends_process))
    ]


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("case", parameters())
async def test_gateway_does_what_it_must_when(case: Case, playing: Player) -> None:
    cell = await playing.play(case)
    assert cell.outcome == "pass", f"{case.must}; seen: {cell.saw}"
