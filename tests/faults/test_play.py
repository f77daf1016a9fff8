"""When a case is played again, and how the command refuses what it cannot do."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

from loadtests.faults.__main__ import main
from loadtests.faults.cases import CASES
from loadtests.faults.judging import Case, Untouched, Verdict
from loadtests.faults.play import HELD_UP_S, MAX_PLAYS, Player
from loadtests.faults.systems.locum import Locum


class Scripted(Player):
    """Judges by a script: True passes, False fails, `held up` fails while the event loop stands still."""

    def __init__(self, folder: Path, script: list[bool | str]) -> None:
        super().__init__(Locum(), folder)
        self.script = script
        self.plays = 0

    async def _judged(self, case: Case) -> Verdict:
        step = self.script[self.plays]
        self.plays += 1
        if step == "untouched":
            raise Untouched
        if step == "held up":
            await asyncio.sleep(0)
            time.sleep(HELD_UP_S * 2)  # noqa: ASYNC251 - the loop is to stand still
            await asyncio.sleep(0.1)
        return Verdict(step is True, str(step))


@pytest.mark.parametrize(
    ("script", "plays", "outcome"),
    [
        ([True], 1, "pass"),
        ([False], 1, "fail"),
        (["held up", True], 2, "pass"),
        (["held up", False], 2, "fail"),
        (["untouched", True], 2, "pass"),
        (["held up"] * MAX_PLAYS, MAX_PLAYS, "fail"),
        (["untouched"] * MAX_PLAYS, MAX_PLAYS, "fail"),
    ],
)
async def test_case_is_played_again_only_when_its_failure_says_nothing(
    tmp_path: Path, script: list[bool | str], plays: int, outcome: str
) -> None:
    playing = Scripted(tmp_path, script)
    cell = await playing.play(CASES[0])
    assert (playing.plays, cell.outcome) == (plays, outcome)


def test_command_refuses_a_page_of_a_part_of_the_table() -> None:
    done = CliRunner().invoke(main, ["--page", "x.md", "--system", "locum"])
    assert done.exit_code == 2
    assert "--page" in done.output
