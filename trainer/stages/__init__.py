"""The stages of `locum train run`, in order; each is imported when it is needed."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import cast

from trainer.stage import Stage, StageError

STAGE_NAMES = (
    "export",
    "consent",
    "quality",
    "dedupe",
    "decontaminate",
    "split",
    "logprobs",
    "train",
    "quantize",
    "evaluate",
    "gate",
    "recalibrate",
    "bundle",
)


def load(names: Sequence[str] = STAGE_NAMES) -> list[Stage]:
    """The stages of these names. Raises: StageError: a module is not installed."""
    stages: list[Stage] = []
    for name in names:
        module_name = f"{__name__}.{name}"
        try:
            module = importlib.import_module(module_name)
        except ModuleNotFoundError as exc:
            if exc.name == module_name:
                raise StageError(f"the stage {name!r} is not part of this installation") from exc
            raise StageError(f"the stage {name!r} needs {exc.name}: pip install 'locum[loop]'") from exc
        stages.append(cast(Stage, module.STAGE))
    return stages
