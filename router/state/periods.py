"""Calendar windows of budgets, in UTC."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import NamedTuple

from router.state.base import Period

DAY_S = 86_400


class Window(NamedTuple):
    """One day or month."""

    number: int
    """Days since 1970-01-01, or months since 1970-01."""
    end_s: float
    """Epoch time at which the next one begins."""


def window_at(now_s: float, period: Period) -> Window:
    """The window that an epoch time is in."""
    if period == "day":
        day = int(now_s // DAY_S)
        return Window(day, (day + 1) * DAY_S)
    now = datetime.fromtimestamp(now_s, UTC)
    month = (now.year - 1970) * 12 + now.month - 1
    years, index = divmod(month + 1, 12)
    return Window(month, datetime(1970 + years, index + 1, 1, tzinfo=UTC).timestamp())
