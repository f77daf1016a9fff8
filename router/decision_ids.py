"""Decision ids: 32 hexadecimal digits that name a request, and that say what of it may be kept.

    <24 random digits> <capture level> <7 digits of a counter>

Feedback comes hours after its request, and perhaps to another process: with the level in the id, its texts are kept off
the disk for a request that was captured below `full`, without a memory of requests. An id that a client alters is the
id of no record.
"""

from __future__ import annotations

import secrets

from policies.record import CaptureLevel

PREFIX_DIGITS = 24
IDS_A_PREFIX = 16**7
DIGIT_OF: dict[CaptureLevel, str] = {"full": "0", "metadata": "1", "none": "2"}
_LEVEL_OF = {digit: level for level, digit in DIGIT_OF.items()}


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
        return f"{self._prefix}{DIGIT_OF['metadata']}{self._count - 1:07x}"


def with_level(decision_id: str, level: CaptureLevel) -> str:
    """The id of a request that is captured at this level."""
    return f"{decision_id[:PREFIX_DIGITS]}{DIGIT_OF[level]}{decision_id[PREFIX_DIGITS + 1 :]}"


def level_of(decision_id: str) -> CaptureLevel:
    """The capture level that an id states; `full` when it states none: it belongs to no record then."""
    return _LEVEL_OF.get(decision_id[PREFIX_DIGITS], "full")
