"""Which threshold of a replayed sweep: the cheapest whose loss of quality is known to be small."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

MAX_LOSS = 0.01
"""One point, which the upper end of the interval must not exceed."""
SHARES = tuple(number / 20 for number in range(1, 20))
DIGITS = 5

Report = dict[str, Any]
"""As `POST /admin/replay` gives it."""


@dataclass(frozen=True)
class Choice:
    """What to do with the threshold. `value` None: leave it."""

    value: float | None
    report: Report
    """What replay predicts for it, or for the threshold in force."""
    why: str


def values_to_try(scores: Iterable[float]) -> list[float]:
    """Thresholds that would leave 5, 10, ... 95 % of these drafts to the teacher.

    Args:
        scores: P(the draft is wrong), as the cascade gave it.
    """
    ordered = sorted(scores)
    if not ordered:
        return []
    places = [min(len(ordered) - 1, round((1 - share) * len(ordered))) for share in SHARES]
    # Rounded up: a threshold below the score that it was read off would leave that very draft to the teacher.
    return sorted({math.ceil(ordered[place] * 10**DIGITS) / 10**DIGITS for place in places})


def cheapest(sweep: Sequence[dict[str, Any]], baseline: Report, max_loss: float = MAX_LOSS) -> Choice:
    """
    Args:
        sweep: of the answer of `POST /admin/replay`: `value` and `report` of each threshold.
        baseline: the report of the document in force.
    """
    told = [each for each in sweep if each["report"]["quality_loss"] and each["report"]["cost_usd_per_request"]]
    if not told:
        return Choice(None, baseline, "too few labels: replay cannot tell the quality of any threshold")
    sure = [each for each in told if each["report"]["quality_loss"]["high"] <= max_loss]
    cost = _usd(baseline)
    cheaper = [each for each in sure if cost is None or _usd(each["report"]) < cost]
    limit = f"{100 * max_loss:g} point{'' if max_loss == 0.01 else 's'}"
    if cheaper:
        best = min(cheaper, key=lambda each: _usd(each["report"]))
        why = f"the cheapest of {len(sweep)} whose loss stays below {limit} at 95 %"
        return Choice(best["value"], best["report"], why)
    hopeful = any(
        each["report"]["quality_loss"]["value"] <= max_loss for each in told if _usd(each["report"]) < (cost or 0)
    )
    if hopeful:
        return Choice(
            None, baseline, f"too few labels: a cheaper threshold may lose less than {limit}, none surely does"
        )
    return Choice(None, baseline, f"every cheaper threshold loses more than {limit}")


def _usd(report: Report) -> Any:
    cost = report["cost_usd_per_request"]
    return None if cost is None else cost["value"]
