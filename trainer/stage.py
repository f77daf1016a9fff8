"""What a stage of `locum train run` is: the contract between the pipeline and the stages in `trainer/stages/`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from trainer.recipe import Recipe

Json = None | bool | int | float | str | list["Json"] | dict[str, "Json"]
Summary = dict[str, Json]
"""What a stage reports: counts and figures, shown by `status`, the funnel and the manifest."""
Progress = Callable[[int, int | None, str], None]
"""(done, total or None when unknown, unit or what is under way); the pipeline adds the ETA. Cheap to call often."""


class StageError(Exception):
    """A stage cannot go on. The message names the field or file and the fix; what was done is kept for a resume."""


@dataclass(frozen=True)
class StageContext:
    """What a stage gets to see."""

    recipe: Recipe
    folder: Path
    """Where to write. An interrupted run finds here what it left: resume from it. The pipeline renames the folder when
    the stage returns, so nobody sees a half-written one."""
    inputs: Mapping[str, Path]
    """The finished folder of every stage in `needs`."""
    summaries: Mapping[str, Summary]
    """The summary of every stage in `needs`."""
    progress: Progress


class Stage(Protocol):
    """One step. Stateless: everything is in the context."""

    name: str
    needs: tuple[str, ...]
    """Earlier stages whose output it reads; their content addresses are part of its own."""
    version: int
    """To be raised when the same input gives another output."""

    def key(self, recipe: Recipe) -> Json:
        """What of the recipe, and which hashes of files outside, its output depends on. Raises: StageError."""
        ...

    def run(self, context: StageContext) -> Summary:
        """Do the work. Raises: StageError, OSError (a full disk is reported by the pipeline)."""
        ...
