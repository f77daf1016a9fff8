"""How much more will come today? A profile of the day, learned over days, times the level of today.

Volumes are counted in windows of five minutes. The level is what the last two hours were, by the profile: their median
over groups of windows, so that a burst of a quarter of an hour is no new level and a step is one within the hour.
Without a profile, on the first day, what has come is taken for the part of a day that it fits (policies/day_shapes.py).
"""

from __future__ import annotations

from statistics import median

import msgspec

from policies.day_shapes import HOURS, expected_day

WINDOW_S = 300
DAY_S = 86_400
WINDOWS = DAY_S // WINDOW_S
RECENT_WINDOWS = 24
GROUP_WINDOWS = 3
PROFILE_WEIGHT = 0.3
"""Of a new day in the profile."""
HORIZON_S = 900.0
"""At least this far is looked ahead: into the next day, when this one is nearly over. Towards an end that is seconds
away everything would be too late or too much."""
PRIOR_PART = 0.02
"""Part of a day's volume that the level of the last half day counts for, beside what the last two hours say."""
BROAD_WINDOWS = WINDOWS // 2
NEARLY_WHOLE = WINDOWS // 8
"""A day that was not seen before this window of it was still seen."""
HOUR_WINDOWS = WINDOWS // HOURS
SMOOTH_WINDOWS = 3
"""To each side: a profile of few days is noisy."""


class Forecast(msgspec.Struct):
    """Volumes of the past, and what follows from them. The unit is the caller's."""

    profile: list[float] = []
    """Of a typical day, one a window; empty: no day has passed yet."""
    volumes: dict[int, float] = {}
    """Of today's windows and yesterday's, by their number since 1970."""
    since: int = 0
    """Number of the window in which counting began."""
    level: float = 1.0
    """The last one that could be told."""

    def add(self, volumes: dict[int, float]) -> None:
        """What came, by window."""
        if not volumes:
            return
        merged = dict(self.volumes)
        for window, volume in volumes.items():
            merged[window] = merged.get(window, 0.0) + volume
        self.volumes = merged
        self.since = self.since or min(volumes)

    def end_day(self, day: int) -> None:
        """Learn from a day that is over, if it was seen from its beginning or nearly."""
        first = day * WINDOWS
        if self.volumes and self.since <= first + NEARLY_WHOLE:
            seen = smoothed([self.volumes.get(first + each, 0.0) for each in range(WINDOWS)])
            weight = PROFILE_WEIGHT if self.profile else 1.0
            before = self.profile or seen
            self.profile = [(1 - weight) * old + weight * new for old, new in zip(before, seen, strict=True)]
        self.volumes = {window: volume for window, volume in self.volumes.items() if window >= first}

    def left(self, now_s: float) -> float:
        """The volume that is expected from now to the end of the day, or of the horizon."""
        end_s = max((now_s // DAY_S + 1) * DAY_S, now_s + HORIZON_S)
        last = int(now_s // WINDOW_S)
        usual = Usual(self.profile or self._supposed(last))
        if not usual.day:  # no window is over yet
            return self.volumes.get(last, 0.0) * (end_s - now_s) / WINDOW_S
        self.level = self._level(last, usual)
        beyond_s = end_s - (now_s // DAY_S + 1) * DAY_S
        rest = usual.whole - usual.until(now_s % DAY_S)
        return self.level * (rest + (usual.until(beyond_s) if beyond_s > 0.0 else 0.0))

    def _supposed(self, last: int) -> list[float]:
        """The profile of a day like the part of one that was seen (policies/day_shapes.py); empty: of none."""
        volumes, seen = [0.0] * HOURS, [0.0] * HOURS
        for window in range(max(self.since, last - WINDOWS), last):
            hour = window % WINDOWS // HOUR_WINDOWS
            volumes[hour] += self.volumes.get(window, 0.0)
            seen[hour] += 1.0 / HOUR_WINDOWS
        # Started at noon, there is the whole day's budget for half of one.
        cautious = self.since <= last // WINDOWS * WINDOWS + NEARLY_WHOLE
        hours = expected_day(volumes, seen, cautious=cautious)
        return [] if hours is None else interpolated(hours)

    def _level(self, last: int, usual: Usual) -> float:
        """Today by a usual day, of the last two hours."""
        first = max(last - RECENT_WINDOWS, self.since)
        middle = self._group_median(last, first, usual)
        if middle is None:
            return 1.0
        # The few requests of a night say little about the day that follows.
        expected, ordinary = usual.windows(first, last - first), PRIOR_PART * usual.whole
        weight = expected / (expected + ordinary)
        return weight * middle + (1.0 - weight) * self._broad_level(last, usual)

    def _broad_level(self, last: int, usual: Usual) -> float:
        """Of the last half day, which an ordinary day is mixed into."""
        first = max(last - BROAD_WINDOWS, self.since)
        ordinary = PRIOR_PART * usual.whole
        seen = sum([self.volumes.get(each, 0.0) for each in range(first, last)])
        return (seen + ordinary) / (usual.windows(first, last - first) + ordinary)

    def _group_median(self, last: int, first: int, usual: Usual) -> float | None:
        """Volume by a usual day's, of the windows from `first` to before `last`; None: there are too few."""
        groups = []
        for start in range(last - GROUP_WINDOWS, max(first, self.since) - 1, -GROUP_WINDOWS):
            expected = usual.windows(start, GROUP_WINDOWS)
            if expected > 0.0:
                seen = sum([self.volumes.get(each, 0.0) for each in range(start, start + GROUP_WINDOWS)])
                groups.append(seen / expected)
        if not groups:
            return None
        return median(groups) or sum(groups) / len(groups)


class Usual:
    """A profile, summed."""

    def __init__(self, day: list[float]) -> None:
        """
        Args:
            day: one volume a window; empty: not known.
        """
        self.day = day
        self.whole = sum(day)

    def until(self, second: float) -> float:
        """From the beginning of the day to a second of it."""
        window, part = divmod(second / WINDOW_S, 1.0)
        return sum(self.day[: int(window)]) + part * self.day[int(window) % WINDOWS]

    def windows(self, first: int, count: int) -> float:
        """Of so many windows from one on; midnight is no border."""
        start = first % WINDOWS
        return sum(self.day[start : start + count]) + sum(self.day[: max(0, start + count - WINDOWS)])


def interpolated(hours: list[float]) -> list[float]:
    """Volumes by hour as volumes by window: from the middle of each hour to that of the next in a straight line."""
    found = []
    for window in range(WINDOWS):
        before, part = divmod((window + 0.5) / HOUR_WINDOWS - 0.5, 1.0)
        one, other = hours[int(before) % HOURS], hours[(int(before) + 1) % HOURS]
        found.append((one + part * (other - one)) / HOUR_WINDOWS)
    return found


def smoothed(day: list[float]) -> list[float]:
    """Every window as the mean of those around it; midnight is no border."""
    width = 2 * SMOOTH_WINDOWS + 1
    return [sum(day[(each + k) % WINDOWS] for k in range(-SMOOTH_WINDOWS, SMOOTH_WINDOWS + 1)) / width
            for each in range(WINDOWS)]  # fmt: skip
