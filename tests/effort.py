"""How long property tests search, and simulations draw: as long as they should in CI, shorter where somebody waits."""

from __future__ import annotations

import os

SHARE = 4


def examples(full: int) -> int:
    """`full` where the variable `CI` is set, else a quarter of it. A failure that was found once is tried first again."""
    return full if os.environ.get("CI") else max(1, full // SHARE)
