"""Puts the parts into the template."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from trainer.routing.results.datasets import DATA_SETS
from trainer.routing.results.kept import sha256_of

TEMPLATE = Path(__file__).with_name("page.md")
PLACE = re.compile(r"^\{\{ ([a-z0-9_]+) \}\}$", re.MULTILINE)


def filled(template: str, parts: Mapping[str, Sequence[str]]) -> str:
    """The template with each `{{ NAME }}` line replaced.

    Raises:
        ValueError: a part has no place, or a place no part.
    """
    places = set(PLACE.findall(template))
    if unplaced := sorted(set(parts) - places):
        raise ValueError(f"{TEMPLATE.name}: has no line {{{{ {unplaced[0]} }}}}")
    if empty := sorted(places - set(parts)):
        raise ValueError(f"{TEMPLATE.name}: nothing is called {empty[0]!r}")
    text = PLACE.sub(lambda found: "\n".join(parts[found[1]]).strip(), template)
    return re.sub(r"\n{3,}", "\n\n", text).rstrip() + "\n"


def data_table(data: Path, names: Sequence[str]) -> list[str]:
    """Each file that was read."""
    lines = ["| file | what | source | licence | sha256 |", "|---|---|---|---|---|"]
    for name in names:
        known = DATA_SETS[name]
        lines.append(f"| `{name}` | {known.what} | {known.source} | {known.licence} | `{sha256_of(data / name)}` |")
    return lines
