"""Lists to repeat: what goes wrong in these answers goes wrong late, and cannot be mended.

The student loses its place or begins to go round in circles; the beginning is a copy like any other. How long a list
is, is drawn with it.
"""

from __future__ import annotations

import random
from collections.abc import Callable

Example = tuple[str, str]
"""Question and right answer."""


def numbers(draw: random.Random) -> Example:
    """One or two digits each."""
    return _copied("list", [str(draw.randint(1, 99)) for _ in range(draw.randint(4, 16))])


def long_numbers(draw: random.Random) -> Example:
    """Four digits each."""
    return _copied("list", [str(draw.randint(1000, 9999)) for _ in range(draw.randint(5, 26))])


def times(draw: random.Random) -> Example:
    """Times of a day."""
    return _copied("list of times", [f"{draw.randint(0, 23):02}:{draw.randint(0, 59):02}" for _ in _items(draw)])


def prices(draw: random.Random) -> Example:
    """Amounts in dollars."""
    return _copied("list of prices", [f"${draw.randint(1, 99)}.{draw.randint(0, 99):02}" for _ in _items(draw)])


def _items(draw: random.Random) -> range:
    return range(draw.randint(4, 22))


def _copied(what: str, items: list[str]) -> Example:
    listed = ", ".join(items)
    return f"Repeat this {what}: {listed}", listed


KINDS: dict[str, Callable[[random.Random], Example]] = {
    "numbers": numbers,
    "long_numbers": long_numbers,
    "times": times,
    "prices": prices,
}
