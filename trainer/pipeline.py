"""Runs the stages of a recipe in order, each at most once for the same input, and goes on after any kind of death.

A stage's content address is the hash of its name, its version, what of the recipe it depends on, and the addresses of
the stages that it reads. What is finished under its address is taken as it is; what an interrupted run left under it
is handed to the stage again.
"""

from __future__ import annotations

import errno
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol, runtime_checkable

from trainer import run_folder
from trainer.recipe import Recipe
from trainer.reporting import Reporter
from trainer.run_folder import StageRecord
from trainer.stage import Stage, StageContext, StageError, Summary

State = Literal["finished", "interrupted", "pending", "damaged", "blocked"]
DISK_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})


class StageFailed(StageError):
    """A stage of the run could not go on; the message begins with its name."""


@runtime_checkable
class PinsInput(Protocol):
    """A stage that reads what may change while a run goes on, and therefore writes down what it is going to read."""

    def pin(self, recipe: Recipe, folder: Path, *, renew: bool) -> None:
        """Write the pin into the run's folder; a pin that is there stays unless `renew`. Raises: StageError."""
        ...


@dataclass(frozen=True)
class Planned:
    """One stage of a recipe, and where its output belongs."""

    stage: Stage
    address: str | None
    """None when it cannot be told; `problem` says why."""
    folder: Path | None
    problem: str | None = None


@dataclass(frozen=True)
class StageStatus:
    name: str
    state: State
    address: str | None
    folder: Path | None
    record: StageRecord | None
    problem: str | None = None


class Pipeline:
    """The stages of one recipe. Nothing is read or written before a method is called."""

    def __init__(self, recipe: Recipe, stages: Sequence[Stage], *, now: Callable[[], float] = time.time) -> None:
        self.recipe = recipe
        self.folder = run_folder.run_folder_of(recipe)
        self._stages = list(stages)
        self._now = now

    def plan(self) -> list[Planned]:
        """Every stage with its content address. A stage whose address cannot be told blocks those that need it."""
        planned: dict[str, Planned] = {}
        for stage in self._stages:
            planned[stage.name] = self._plan_one(stage, planned)
        return list(planned.values())

    def run(
        self,
        reporter: Reporter,
        *,
        start: str | None = None,
        end: str | None = None,
        after: Callable[[str], None] = lambda stage: None,
    ) -> dict[str, StageRecord]:
        """Run what is not finished, up to `end`; from `start` on, run again what is.

        Args:
            after: called with the name of each stage when its output is there.
        Returns:
            The records of all stages up to `end`, by name.
        Raises:
            Busy: another run works in the folder.
            StageError: an input is missing or wrong; nothing was run.
            StageFailed: a stage could not go on, or the disk is full.
        """
        last = self._index(end) if end is not None else len(self._stages) - 1
        first = self._index(start) if start is not None else None
        if first is not None and first > last:
            raise StageError(f"--from {start} comes after --to {end}")
        with run_folder.exclusive(Path(self.recipe.work_dir)):
            self.folder.mkdir(parents=True, exist_ok=True)
            for index, stage in enumerate(self._stages[: last + 1]):
                if isinstance(stage, PinsInput):
                    stage.pin(self.recipe, self.folder, renew=first is not None and first <= index)
            plan = self.plan()
            for each in plan[: last + 1]:
                if each.problem is not None:
                    raise StageError(f"{each.stage.name}: {each.problem}")
            if first is not None:
                for each in plan[first:]:
                    if each.folder is not None:
                        run_folder.discard(each.folder)
            return self._run(plan[: last + 1], reporter, after)

    def status(self) -> list[StageStatus]:
        """How far the recipe, as it is now, has got."""
        return [self._status_of(each) for each in self.plan()]

    def finished(self) -> list[tuple[Path, StageRecord | None]]:
        """All finished outputs below the run's folder, of earlier versions of the recipe as well.

        The record is None where it cannot be read.
        """
        found: list[tuple[Path, StageRecord | None]] = []
        for stage in self._stages:
            for path in sorted((self.folder / stage.name).glob("*")):
                if not path.is_dir() or path.name.endswith(run_folder.PARTIAL):
                    continue
                try:
                    found.append((path, run_folder.read_record(path)))
                except StageError:
                    found.append((path, None))
        return found

    def _index(self, name: str) -> int:
        for index, stage in enumerate(self._stages):
            if stage.name == name:
                return index
        raise StageError(f"{name!r} is no stage; stages: {', '.join(stage.name for stage in self._stages)}")

    def _plan_one(self, stage: Stage, planned: Mapping[str, Planned]) -> Planned:
        inputs: dict[str, str] = {}
        for need in stage.needs:
            address = planned[need].address
            if address is None:
                return Planned(stage, None, None, f"waits for {need}")
            inputs[need] = address
        try:
            key = stage.key(self.recipe)
        except (StageError, OSError) as exc:
            return Planned(stage, None, None, str(exc))
        address = run_folder.content_address(stage.name, stage.version, key, inputs)
        return Planned(stage, address, run_folder.stage_folder(self.folder, stage.name, address))

    def _status_of(self, planned: Planned) -> StageStatus:
        name, folder = planned.stage.name, planned.folder
        if folder is None:
            return StageStatus(name, "blocked", None, None, None, planned.problem)
        try:
            record = run_folder.read_record(folder)
        except StageError as exc:
            return StageStatus(name, "damaged", planned.address, folder, None, str(exc))
        if record is not None:
            problems = run_folder.damage(folder, record, rehash=False)
            state: State = "damaged" if problems else "finished"
            return StageStatus(name, state, planned.address, folder, record, problems[0] if problems else None)
        interrupted = run_folder.partial_of(folder).exists()
        return StageStatus(name, "interrupted" if interrupted else "pending", planned.address, folder, None)

    def _run(self, plan: Sequence[Planned], reporter: Reporter, after: Callable[[str], None]) -> dict[str, StageRecord]:
        records: dict[str, StageRecord] = {}
        folders: dict[str, Path] = {}
        for index, each in enumerate(plan):
            name = each.stage.name
            assert each.folder is not None and each.address is not None  # noqa: S101 - `run` has refused others
            folders[name] = each.folder
            record = self._take_finished(each.folder)
            if record is None:
                reporter.started(name, index + 1, len(plan), resumed=run_folder.partial_of(each.folder).exists())
                record = self._run_one(each, folders, records, reporter)
                reporter.finished(name, record.seconds, describe(record.summary))
            else:
                reporter.note(f"[{index + 1}/{len(plan)}] {name}: finished before ({describe(record.summary)})")
            for kind, lines in (("ALARM", alarms(record.summary)), ("WARNING", warnings(record.summary))):
                for line in lines:
                    reporter.note(f"{kind} {name}: {line}")
            records[name] = record
            for path in run_folder.remove_abandoned(each.folder):
                reporter.note(f"{name}: removed {path.name}, which an interrupted run of another recipe had left")
            after(name)
        return records

    def _take_finished(self, folder: Path) -> StageRecord | None:
        record = run_folder.read_record(folder)
        if record is None:
            return None
        if problems := run_folder.damage(folder, record, rehash=False):
            raise StageFailed(f"{record.stage}: {problems[0]}; run again with --from {record.stage}")
        return record

    def _run_one(
        self, planned: Planned, folders: Mapping[str, Path], records: Mapping[str, StageRecord], reporter: Reporter
    ) -> StageRecord:
        stage, folder, address = planned.stage, planned.folder, planned.address
        assert folder is not None and address is not None  # noqa: S101 - as above
        partial = run_folder.partial_of(folder)
        resumed = partial.exists()
        try:
            partial.mkdir(parents=True, exist_ok=True)
            if (record := run_folder.read_record(partial)) is not None:  # killed between the last two steps
                run_folder.finish(partial, folder, record)
                return record
            run_folder.remove_torn(partial)
            start_s = time.monotonic()
            context = StageContext(
                recipe=self.recipe,
                folder=partial,
                inputs={need: folders[need] for need in stage.needs},
                summaries={need: records[need].summary for need in stage.needs},
                progress=reporter.progress,
            )
            summary = stage.run(context)
            record = StageRecord(
                stage=stage.name, version=stage.version, address=address,
                inputs={need: records[need].address for need in stage.needs}, summary=summary,
                seconds=round(time.monotonic() - start_s, 3), resumed=resumed, finished_s=self._now(),
                files=run_folder.hash_files(partial),
            )  # fmt: skip
            run_folder.finish(partial, folder, record)
        except StageError as exc:
            raise StageFailed(f"{stage.name}: {exc}") from exc
        except OSError as exc:
            raise StageFailed(f"{stage.name}: {self._explain(exc)}") from exc
        return record

    def _explain(self, exc: OSError) -> str:
        if exc.errno not in DISK_FULL and "No space left" not in str(exc):
            return f"{exc}"
        free_bytes = shutil.disk_usage(self.folder).free
        return (
            f"the disk of {self.folder} is full ({free_bytes / 1e6:.0f} MB free): free space and run the same command "
            "again; what is done is kept"
        )


def describe(summary: Summary) -> str:
    """One line about a stage's result."""
    rows_in, rows_out = summary.get("rows_in"), summary.get("rows_out")
    if rows_in is not None and rows_out is not None:
        return f"{rows_in} -> {rows_out} rows"
    if (verdict := summary.get("verdict")) is not None:
        count = len(warnings(summary))
        return str(verdict).upper() + (f" with {count} warning{'s' if count > 1 else ''}" if count else "")
    if (bundle_id := summary.get("bundle_id")) is not None:
        return f"bundle {bundle_id}"
    return "done"


def alarms(summary: Summary) -> list[str]:
    """What a stage wants a person to look at: the list `alarms` of its summary."""
    return _lines(summary, "alarms")


def warnings(summary: Summary) -> list[str]:
    """What a stage's result leaves open: the list `warnings` of its summary."""
    return _lines(summary, "warnings")


def _lines(summary: Summary, name: str) -> list[str]:
    found = summary.get(name)
    return [str(each) for each in found] if isinstance(found, list) else []
