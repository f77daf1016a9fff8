"""Decision ids: 32 hexadecimal digits that name a request, and that say what of it may be kept and who answered it.

    <24 random digits> <capture level and route> <7 digits of a counter>

Feedback comes hours after its request, and perhaps to another process: with the level in the id, its texts are kept off
the disk for a request that was captured below `full`, and with the route its score is counted for the right model,
without a memory of requests. An id that a client alters is the id of no record.
"""

from __future__ import annotations

import secrets
from itertools import product

from policies.base import Route
from policies.record import CaptureLevel

PREFIX_DIGITS = 24
IDS_A_PREFIX = 16**7
LEVELS: tuple[CaptureLevel, ...] = ("full", "metadata", "none")
ROUTES: tuple[Route | None, ...] = (None, "student", "teacher")
"""None: not known when the id was given out, or not to be counted."""
_MEANINGS = {f"{number:x}": (level, route) for number, (route, level) in enumerate(product(ROUTES, LEVELS))}
_DIGITS = {meaning: digit for digit, meaning in _MEANINGS.items()}


class DecisionIds:
    """Unique ids: 96 random bits, and a counter."""

    def __init__(self, ids_a_prefix: int = IDS_A_PREFIX) -> None:
        self._ids_a_prefix = ids_a_prefix
        self._prefix = secrets.token_hex(PREFIX_DIGITS // 2)
        self._count = 0

    def next(self) -> str:
        """An id for a request whose wishes are not known yet: none of its texts may be kept until they are."""
        if self._count == self._ids_a_prefix:
            self._prefix, self._count = secrets.token_hex(PREFIX_DIGITS // 2), 0
        self._count += 1
        return f"{self._prefix}{_DIGITS['metadata', None]}{self._count - 1:07x}"


def with_level(decision_id: str, level: CaptureLevel) -> str:
    """The id of a request that is captured at this level."""
    return _with_digit(decision_id, _DIGITS[level, route_of(decision_id)])


def with_route(decision_id: str, route: Route | None) -> str:
    """The id of a request that this model answers."""
    return _with_digit(decision_id, _DIGITS[level_of(decision_id), route])


def level_of(decision_id: str) -> CaptureLevel:
    """The capture level that an id states; `full` when it states none: it belongs to no record then."""
    return _MEANINGS.get(decision_id[PREFIX_DIGITS], ("full", None))[0]


def route_of(decision_id: str) -> Route | None:
    """Who answered, as an id states it; None when it does not."""
    return _MEANINGS.get(decision_id[PREFIX_DIGITS], ("full", None))[1]


def _with_digit(decision_id: str, digit: str) -> str:
    return f"{decision_id[:PREFIX_DIGITS]}{digit}{decision_id[PREFIX_DIGITS + 1 :]}"
