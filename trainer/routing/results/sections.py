"""The parts of the results page, in the order in which they are measured. Add yours as one line."""

from __future__ import annotations

import importlib
from collections.abc import Sequence

from trainer.routing.results.section import Section

SECTIONS = (
    "trainer.routing.results.prompts:PromptResults",
    "trainer.routing.results.targets:TargetResults",
    "trainer.routing.results.cascade:CascadeResults",
    "trainer.tune.results:GuaranteeResults",
    "trainer.budget.results:BudgetResults",
)  # fmt: skip


def load(names: Sequence[str] = SECTIONS) -> list[Section]:
    """Each part, made without arguments."""
    made: list[Section] = []
    for name in names:
        module, _, attribute = name.partition(":")
        made.append(getattr(importlib.import_module(module), attribute)())
    return made
