"""What a part of the results page is. They are listed in `sections.py`; each stands beside what it measures."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeAlias

Found: TypeAlias = Mapping[str, Any]
"""JSON: what was measured. Kept, so that a page can be written again without measuring."""

Note: TypeAlias = Callable[[str], None]
"""Says how far a measurement is."""


class Section(Protocol):
    """One part: a line `{{ NAME }}` of the template stands for it.

    Measuring and writing are apart: what is measured is kept under a hash of the files and the code that it depends on,
    and measured again only when one of them changed.
    """

    name: str
    """In snake_case."""
    files: Sequence[str]
    """What it reads, relative to the data folder; () for a simulation. All are named on the page with their hashes."""
    code: Sequence[str]
    """Modules or packages (`trainer.routing.measures`) whose change makes the result stale, its own among them."""

    def measure(self, data: Path, note: Note) -> Found:
        """The figures. May take long; deterministic but for timings."""
        ...

    def write(self, found: Found, pictures: Path) -> Sequence[str]:
        """Lines of Markdown, without a heading (the template has it). Pictures are written into the folder
        `pictures` as `routing-*.png`, and linked by their name alone."""
        ...
