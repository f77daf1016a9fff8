"""What thresholds do: windows that grow, and the late alarm behind a window.

A threshold that is reported on the answers that it was chosen on looks better than it is. So the prompts are cut into
two halves by lot, and each half is judged by curves and thresholds of the other one.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence

import msgspec
import numpy as np

from policies.intervals import Estimate, proportion
from trainer.window.collect import Row
from trainer.window.scores import Scores, fitted

SHARE = 0.2
"""Of the answers: what a window escalates in all that is reported here."""
BANDS = (0.0, 0.1, 0.2, 0.3)
GROWING = ((16, 64), (32, 64), (32, 128))
ALARM_WINDOWS = (16, 32)
ALARM_TOKENS = 32
ALARMS = (0.6, 0.7, 0.8, 0.9, 0.95)
MAX_RIGHT_STOPPED = 0.01
"""Of the right answers behind a window: what an alarm may stop where its threshold is chosen."""


class Growth(msgspec.Struct, frozen=True, kw_only=True):
    """A window that doubles while the score is within a band around the threshold."""

    tokens: int
    max_tokens: int
    band: float
    mean_tokens: float
    escalated: float
    wrong_found: float
    right_lost: float
    """Of the right answers: escalated."""


class Alarm(msgspec.Struct, frozen=True, kw_only=True):
    """What a late alarm would have done behind a window that has escalated `SHARE`."""

    window_tokens: int
    threshold: float
    wrong_stopped: Estimate | None
    right_stopped: Estimate | None
    median_token: float | None
    """At which it rang."""


class Stopped(msgspec.Struct, frozen=True, kw_only=True):
    """Counts of what an alarm did behind a window."""

    committed_wrong: int
    committed_right: int
    wrong: int
    right: int
    places: list[int]
    """Tokens at which it rang."""


class Half:
    """The answers of one half, scored and escalated by what the other half taught."""

    def __init__(self, taught_by: Sequence[Row], rows: Sequence[Row]) -> None:
        """Raises: ValueError: of those that it is taught by, all are right or all are wrong."""
        self.scores = Scores(rows, [fitted(taught_by)] * len(rows))
        self._known = Scores.cross_fitted(taught_by)

    def cut(self, tokens: int) -> float:
        """Score above which a window escalates `SHARE` of the half that teaches."""
        return float(np.quantile(self._known.at(tokens), 1 - SHARE))

    def stopped(self, window: int, threshold: float) -> Stopped:
        """By a late alarm, among the answers of this half."""
        return _stopped(self.scores, window, self.cut(window), threshold)

    def chosen(self, window: int) -> float | None:
        """The lowest threshold of an alarm that spares right answers where it is taught; None: none of them does."""
        for threshold in ALARMS:
            there = _stopped(self._known, window, self.cut(window), threshold)
            if there.right <= MAX_RIGHT_STOPPED * there.committed_right:
                return threshold
        return None


def halves(rows: Sequence[Row], seed: int = 0) -> tuple[Half, Half]:
    """By lot, so that kinds that take turns are in both. Raises: ValueError: one half has one outcome only."""
    order = sorted(range(len(rows)), key=lambda place: rows[place].task_id)
    random.Random(seed).shuffle(order)  # noqa: S311 - a reproducible split, no secret
    one, other = ([rows[place] for place in sorted(order[start::2])] for start in (0, 1))
    return Half(one, other), Half(other, one)


def alarms(parts: Sequence[Half]) -> list[Alarm]:
    """Every window and threshold, over the answers of all parts."""
    found = []
    for window, threshold in itertools.product(ALARM_WINDOWS, ALARMS):
        each = [part.stopped(window, threshold) for part in parts]
        places = [place for one in each for place in one.places]
        found.append(
            Alarm(
                window_tokens=window, threshold=threshold,
                wrong_stopped=_share(sum(one.wrong for one in each), sum(one.committed_wrong for one in each)),
                right_stopped=_share(sum(one.right for one in each), sum(one.committed_right for one in each)),
                median_token=float(np.median(places)) if places else None,
            )
        )  # fmt: skip
    return found


def _share(count: int, n: int) -> Estimate | None:
    return proportion(count, n) if n else None


def _stopped(scores: Scores, window: int, cut: float, threshold: float) -> Stopped:
    committed = scores.at(window) <= cut
    rang = [_rings(scores, place, window, threshold) if committed[place] else None for place in range(len(committed))]
    stopped = np.array([each is not None for each in rang])
    return Stopped(
        committed_wrong=int((committed & scores.wrong).sum()),
        committed_right=int((committed & ~scores.wrong).sum()),
        wrong=int((stopped & scores.wrong).sum()),
        right=int((stopped & ~scores.wrong).sum()),
        places=[each for each in rang if each is not None],
    )


def _rings(scores: Scores, place: int, window: int, threshold: float) -> int | None:
    """The token at which the last ones are too uncertain, behind the window and before the end."""
    logprobs = np.asarray(scores.rows[place].logprobs)
    sums = np.concatenate([[0.0], np.cumsum(logprobs)])
    for end in range(window + ALARM_TOKENS, len(logprobs)):
        if scores.of_last(place, float(sums[end] - sums[end - ALARM_TOKENS]) / ALARM_TOKENS) > threshold:
            return end
    return None


def growths(parts: Sequence[Half]) -> list[Growth]:
    """Every window that grows and every band, over the answers of all parts."""
    wrong = np.concatenate([part.scores.wrong for part in parts])
    lengths = np.array([len(row.logprobs) for part in parts for row in part.scores.rows])
    found = []
    for tokens, largest in GROWING:
        sizes = [tokens]
        while sizes[-1] < largest:
            sizes.append(2 * sizes[-1])
        at = {size: np.concatenate([part.scores.at(size) for part in parts]) for size in sizes}
        cut = np.concatenate([np.full(len(part.scores.rows), part.cut(tokens)) for part in parts])
        for band in BANDS:
            final, held = at[tokens].copy(), np.full(len(wrong), float(tokens))
            open_ = np.ones(len(wrong), np.bool_)
            for size, wider in itertools.pairwise(sizes):
                open_ &= (np.abs(at[size] - cut) <= band) & (band > 0.0)
                final[open_], held[open_] = at[wider][open_], wider
            escalated = final > cut
            found.append(
                Growth(
                    tokens=tokens, max_tokens=largest, band=band, mean_tokens=float(np.minimum(held, lengths).mean()),
                    escalated=float(escalated.mean()), wrong_found=float(escalated[wrong].mean()),
                    right_lost=float(escalated[~wrong].mean()),
                )
            )  # fmt: skip
    return found
