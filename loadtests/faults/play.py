"""Plays cases against one gateway: starts it as each case needs it, and again after a case that it did not survive."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Literal

import msgspec

from loadtests.children import ChildError
from loadtests.faults.judging import Case, Untouched, Verdict
from loadtests.faults.stage import Backends, Stage, running
from loadtests.faults.system import NotApplicable, Setting, System

CASE_TIMEOUT_S = 90.0
MAX_PLAYS = 3
HELD_UP_S = 0.3
LAG_POLL_S = 0.05
Outcome = Literal["pass", "fail", "not_applicable", "not_started"]


class Cell(msgspec.Struct, frozen=True, kw_only=True):
    """How one gateway did in one case."""

    case: str
    outcome: Outcome
    saw: str
    """What the client saw, or why there was nothing to see."""
    elapsed_s: float = 0.0


class Lag:
    """How long this process's event loop was held up at most, while the block ran."""

    def __init__(self) -> None:
        self.longest_s = 0.0

    async def __aenter__(self) -> Lag:
        self._watching = asyncio.create_task(self._watch())
        return self

    async def __aexit__(self, *error: object) -> None:
        self._watching.cancel()

    async def _watch(self) -> None:
        while True:
            before_s = time.monotonic()
            await asyncio.sleep(LAG_POLL_S)
            self.longest_s = max(self.longest_s, time.monotonic() - before_s - LAG_POLL_S)


class Player:
    """Keeps one process running from case to case, for as long as it is well."""

    def __init__(self, system: System, folder: Path) -> None:
        self._system = system
        self._folder = folder
        self._open = contextlib.AsyncExitStack()
        self._stage: Stage | None = None
        self._setting: Setting | None = None

    async def play(self, case: Case) -> Cell:
        """One case. A gateway that keeps away from the upstream after an earlier case gets a new process."""
        started_s = time.monotonic()
        try:
            verdict = await self._replayed(case)
        except NotApplicable as exc:
            return Cell(case=case.name, outcome="not_applicable", saw=str(exc))
        except Untouched:
            verdict = Verdict(False, "the first upstream was never asked")
        except ChildError as exc:
            return Cell(case=case.name, outcome="not_started", saw=_first_line(exc))
        outcome: Outcome = "pass" if verdict.passed else "fail"
        return Cell(case=case.name, outcome=outcome, saw=verdict.saw, elapsed_s=time.monotonic() - started_s)

    async def _replayed(self, case: Case) -> Verdict:
        """A failure counts for nothing while this process, which plays upstream and client, was itself held up: on a
        busy machine a gateway's timeouts would speak of us. Then the case is played again, on a new process."""
        for _ in range(MAX_PLAYS - 1):
            try:
                async with Lag() as lag:
                    verdict = await self._judged(case)
            except Untouched:
                await self.close()
                continue
            if verdict.passed or lag.longest_s < HELD_UP_S:
                return verdict
            await self.close()
        return await self._judged(case)

    async def _judged(self, case: Case) -> Verdict:
        stage = await self._ready(case.setting)
        try:
            async with asyncio.timeout(CASE_TIMEOUT_S):
                verdict = await case.judge(stage, case.upstream)
        except TimeoutError:
            return Verdict(False, f"not over after {CASE_TIMEOUT_S:g} s")
        else:
            _check_heard(stage, case)
            return verdict
        finally:
            if case.ends_process:
                await self.close()

    async def _ready(self, setting: Setting) -> Stage:
        """A gateway in this setting that answers. Raises: ChildError, NotApplicable."""
        if self._stage is not None and self._setting == setting:
            await self._stage.clean()
            if await self._stage.is_well():
                await self._stage.clean()
                return self._stage
        await self.close()
        backends = await self._open.enter_async_context(Backends())
        self._stage = await self._open.enter_async_context(running(self._system, setting, backends, self._folder))
        self._setting = setting
        await self._stage.clean()
        return self._stage

    async def close(self) -> None:
        """End the process and its upstreams."""
        self._stage = None
        await self._open.aclose()
        self._open = contextlib.AsyncExitStack()


@contextlib.asynccontextmanager
async def player(system: System, folder: Path) -> AsyncIterator[Player]:
    """A player that leaves no process behind."""
    playing = Player(system, folder)
    try:
        yield playing
    finally:
        await playing.close()


async def play_all(system: System, cases: Sequence[Case], folder: Path, show: Callable[[Case], None]) -> list[Cell]:
    """Every case, those of one setting together; the cells in the order of the cases."""
    cells: dict[str, Cell] = {}
    async with player(system, folder) as playing:
        for case in sorted(cases, key=lambda case: (case.setting, case.ends_process)):
            show(case)
            cells[case.name] = await playing.play(case)
    return [cells[case.name] for case in cases]


def _check_heard(stage: Stage, case: Case) -> None:
    """Raises: NotApplicable: the upstream could not do what the case is about, for nobody told it."""
    directive = f"[[{case.upstream}]]".encode()
    asked = stage.asked()
    if asked and not any(directive in entry.body for entry in asked):
        raise NotApplicable("not judged: the client's message does not reach the upstream as it is")


def _first_line(error: ChildError) -> str:
    return str(error).partition("\n")[0]
