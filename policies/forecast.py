"""How much more will come today? A profile of the day, learned over days, times the level of today.

Volumes are counted in windows of five minutes. The level is what the last two hours were, by the profile: their median
over groups of windows, so that a burst of a quarter of an hour is no new level and a step is one within the hour.
Without a profile, on the first day, every window is taken to be like the last ones.
"""

from __future__ import annotations

import math
from statistics import median

import msgspec

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
REVERSION_S = 8 * 3_600.0
"""Without a profile: how fast the present volume goes back to the mean."""
HOUR_WINDOWS = 3_600 // WINDOW_S
DECLINE_S = 6 * 3_600.0
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
        if self.volumes and self.since <= first + WINDOWS // 8:
            seen = smoothed([self.volumes.get(first + each, 0.0) for each in range(WINDOWS)])
            weight = PROFILE_WEIGHT if self.profile else 1.0
            before = self.profile or seen
            self.profile = [(1 - weight) * old + weight * new for old, new in zip(before, seen, strict=True)]
        self.volumes = {window: volume for window, volume in self.volumes.items() if window >= first}

    def left(self, now_s: float) -> float:
        """The volume that is expected from now to the end of the day, or of the horizon."""
        end_s = max((now_s // DAY_S + 1) * DAY_S, now_s + HORIZON_S)
        self.level = self._level(now_s)
        if not self.profile:
            return self._without_profile(now_s, end_s - now_s)
        beyond_s = end_s - (now_s // DAY_S + 1) * DAY_S
        rest = sum(self.profile) - self._usual_until(now_s % DAY_S)
        return self.level * (rest + (self._usual_until(beyond_s) if beyond_s > 0.0 else 0.0))

    def _without_profile(self, now_s: float, rest_s: float) -> float:
        """What comes now, going back to the mean of what has been seen: a peak does not last, nor does a night. In the
        last hours a decline is taken to go on."""
        last = now_s / WINDOW_S
        mean = sum(self.volumes.values()) / max(1.0, last - max(self.since, int(last) - WINDOWS))
        lasting_s = REVERSION_S * (1.0 - math.exp(-rest_s / REVERSION_S))
        found = (mean * (rest_s - lasting_s) + self.level * lasting_s) / WINDOW_S
        before = self._group_median(int(last) - HOUR_WINDOWS, int(last) - 2 * HOUR_WINDOWS)
        hour = self._group_median(int(last), int(last) - HOUR_WINDOWS)
        if rest_s > DECLINE_S or not before or not hour or hour >= before:
            return found
        hours = rest_s / 3_600
        slope = math.log(max(0.5, hour / before))
        return min(found, hour * HOUR_WINDOWS * (math.exp(slope * hours) - 1.0) / slope)

    def _usual_until(self, second: float) -> float:
        """Of the profile, from the beginning of the day to a second of it."""
        window, part = divmod(second / WINDOW_S, 1.0)
        return sum(self.profile[: int(window)]) + part * self.profile[int(window) % WINDOWS]

    def _usual(self, first: int, windows: int) -> float:
        if not self.profile:
            return float(windows)
        start = first % WINDOWS
        return sum(self.profile[start : start + windows]) + sum(self.profile[: max(0, start + windows - WINDOWS)])

    def _level(self, now_s: float) -> float:
        """Today by the profile; without one, volume a window."""
        last = int(now_s // WINDOW_S)
        first = max(last - RECENT_WINDOWS, self.since)
        middle = self._group_median(last, first)
        if middle is None:
            return 1.0 if self.profile else self._first_level(now_s)
        if not self.profile:
            return middle
        # The few requests of a night say little about the day that follows.
        usual = self._usual(first, last - first)
        weight = usual / (usual + PRIOR_PART * sum(self.profile))
        return weight * middle + (1.0 - weight) * self._broad_level(last)

    def _broad_level(self, last: int) -> float:
        """Of the last half day, which an ordinary day is mixed into."""
        first = max(last - BROAD_WINDOWS, self.since)
        ordinary = PRIOR_PART * sum(self.profile)
        seen = sum([self.volumes.get(each, 0.0) for each in range(first, last)])
        return (seen + ordinary) / (self._usual(first, last - first) + ordinary)

    def _group_median(self, last: int, first: int) -> float | None:
        """Volume by the profile of the windows from `first` to before `last`; None: there are too few."""
        groups = []
        for start in range(last - GROUP_WINDOWS, max(first, self.since) - 1, -GROUP_WINDOWS):
            usual = self._usual(start, GROUP_WINDOWS)
            if usual > 0.0:
                seen = sum([self.volumes.get(each, 0.0) for each in range(start, start + GROUP_WINDOWS)])
                groups.append(seen / usual)
        if not groups:
            return None
        return median(groups) or sum(groups) / len(groups)

    def _first_level(self, now_s: float) -> float:
        """As much a window as came so far: no three windows have passed."""
        return sum(self.volumes.values()) / max(1.0, now_s / WINDOW_S - self.since)


def smoothed(day: list[float]) -> list[float]:
    """Every window as the mean of those around it; midnight is no border."""
    width = 2 * SMOOTH_WINDOWS + 1
    return [sum(day[(each + k) % WINDOWS] for k in range(-SMOOTH_WINDOWS, SMOOTH_WINDOWS + 1)) / width
            for each in range(WINDOWS)]  # fmt: skip
