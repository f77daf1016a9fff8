"""Counts of some traffic that drift detection compares. Those of two processes, or of two hours, add up."""

from __future__ import annotations

import msgspec

BINS = 52
"""Of token counts: the last one begins at about 100,000."""
PROJECTION_BINS = 32
MAX_TAGS = 12
"""Values of the tag that are told apart; the rest is `other`."""
MAX_FINGERPRINTS = 32
CALIBRATION_BINS = 10


class Stream(msgspec.Struct):
    """Counts of one route and one value of the tag."""

    rates: dict[str, list[int]] = {}
    """[how often it was so, of how many]"""
    histograms: dict[str, list[int]] = {}

    def hit(self, name: str, flag: bool) -> None:
        counts = self.rates.setdefault(name, [0, 0])
        counts[0] += flag
        counts[1] += 1

    def bin(self, name: str, place: int, bins: int) -> None:
        counts = self.histograms.get(name)
        if counts is None:
            counts = self.histograms[name] = [0] * bins
        counts[place] += 1

    def merge(self, other: Stream) -> None:
        for own, others in ((self.rates, other.rates), (self.histograms, other.histograms)):
            for name, counts in others.items():
                mine = own.get(name)
                own[name] = list(counts) if mine is None else [a + b for a, b in zip(mine, counts, strict=True)]


class Summary(msgspec.Struct):
    """Counts of some requests."""

    n: int = 0
    first_s: float = 0.0
    last_s: float = 0.0
    streams: dict[str, Stream] = {}
    """By `route/tag`; an empty route is all traffic, an empty tag all values."""
    fingerprints: dict[str, int] = {}
    """What the teachers said of themselves."""

    def note(self, created_s: float) -> None:
        self.first_s = min(self.first_s, created_s) if self.n else created_s
        self.last_s = max(self.last_s, created_s)
        self.n += 1

    def tag(self, value: str) -> str:
        """The value under which requests of this tag are counted."""
        known = {name.partition("/")[2] for name in self.streams} - {""}
        return value if not value or value in known or len(known) < MAX_TAGS else "other"

    def stream(self, route: str, tag: str) -> Stream:
        name = f"{route}/{tag}"
        found = self.streams.get(name)
        if found is None:
            found = self.streams[name] = Stream()
        return found

    def note_fingerprint(self, fingerprint: str, count: int = 1) -> None:
        if fingerprint in self.fingerprints or len(self.fingerprints) < MAX_FINGERPRINTS:
            self.fingerprints[fingerprint] = self.fingerprints.get(fingerprint, 0) + count

    def merge(self, other: Summary) -> None:
        if not other.n:
            return
        self.first_s = min(self.first_s, other.first_s) if self.n else other.first_s
        self.last_s = max(self.last_s, other.last_s)
        self.n += other.n
        for name, stream in other.streams.items():
            route, _, tag = name.partition("/")
            self.stream(route, self.tag(tag)).merge(stream)
        for fingerprint, count in other.fingerprints.items():
            self.note_fingerprint(fingerprint, count)


class Calibration(msgspec.Struct):
    """Stated probabilities of a wrong answer against what graders found."""

    n: int = 0
    stated: float = 0.0
    """Sum of P(wrong)."""
    found: float = 0.0
    """Sum of 1 - score."""
    variance: float = 0.0
    """Sum of p * (1 - p)."""
    bins: list[list[float]] = msgspec.field(default_factory=lambda: [[0.0] * 3 for _ in range(CALIBRATION_BINS)])
    """[cases, stated, found] by tenths of P(wrong)."""

    def add(self, stated: float, found: float) -> None:
        """Both in [0, 1]."""
        self.n += 1
        self.stated += stated
        self.found += found
        self.variance += stated * (1 - stated)
        row = self.bins[min(CALIBRATION_BINS - 1, int(stated * CALIBRATION_BINS))]
        for index, value in enumerate((1.0, stated, found)):
            row[index] += value

    def merge(self, other: Calibration) -> None:
        self.n += other.n
        self.stated += other.stated
        self.found += other.found
        self.variance += other.variance
        self.bins = [[a + b for a, b in zip(*rows, strict=True)] for rows in zip(self.bins, other.bins, strict=True)]

    @property
    def error(self) -> float | None:
        """Expected calibration error: mean gap between stated and found, weighted by cases (Guo et al. 2017).

        Of few cases it is too large: gaps by chance count as well.
        """
        return sum(abs(found - stated) for _, stated, found in self.bins) / self.n if self.n else None
