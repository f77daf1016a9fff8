"""Has the traffic changed, or have the answers? Detectors that compare the last requests with a reference.

    monitor = Monitor(student="s-1")
    # what was counted since the last time (policies/quality/drift_samples.py)
    monitor.take(summary, calibration, now_s=..., sizes=Sizes())
    monitor.findings        # the strongest of each detector; score >= 1 is an alarm

The first requests become the reference, unless one is given. After that the last `window_requests` requests are
compared with it each time that a quarter of them is new. A score is the smaller of two ratios: the effect to the
smallest one that matters (EFFECTS), and the evidence to what an alarm needs. So neither a large sample with a trivial
difference nor a small one with a wild difference rings.

The evidence is corrected for every comparison of a look, over all detectors, routes, tags and measures, and for a look
a minute over a month: by chance all of them together ring at most FALSE_ALARMS_PER_MONTH times, whatever the number
of looks. That is cheap: the needed sample grows with the logarithm of the number of comparisons only.

State is plain data that two processes can pass to each other.
"""

from __future__ import annotations

import math
from typing import Literal

import msgspec

from policies.quality.divergence import Divergence, of_histograms, of_predictions, of_rates
from policies.quality.drift_summaries import Calibration, Stream, Summary

Detector = Literal["calibration", "length", "refusals", "format", "inputs", "teacher_fingerprint"]
DETECTORS: tuple[Detector, ...] = ("calibration", "length", "refusals", "format", "inputs", "teacher_fingerprint")
EFFECTS: dict[Detector, float] = {"calibration": 0.05, "length": 0.15, "refusals": 0.02, "format": 0.02, "inputs": 0.2}
"""Smallest change that matters: of a share, or of a distribution function at the point where it is largest."""
FLAG_EFFECT = 0.1
"""Of shares among the inputs, such as that of requests with tools."""
ANSWER_RATES: dict[str, Detector] = {
    "refusal": "refusals",
    "empty": "format",
    "truncated": "format",
    "broken_json": "format",
}
FALSE_ALARMS_PER_MONTH = 0.05
LOOKS_PER_MONTH = 30 * 24 * 60
MIN_LOOK_S = 60.0
"""At most one look a minute."""
MIN_STREAM_REQUESTS = 100
"""Of a route and tag, on both sides; below, it is not compared."""
PANES = 4
"""Parts of the window that compares with the reference; it moves on by one of them."""
MAX_NEW_FINGERPRINTS = 16


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One comparison."""

    detector: Detector
    measure: str
    """What was counted, e.g. `refusal`, `length`, `words3`."""
    route: str = ""
    """Whose answers; empty: all traffic."""
    tag: str = ""
    effect: float
    threshold: float
    """Of the effect."""
    evidence: float
    """-ln(p) by what an alarm needs."""
    n: int
    reference_n: int

    @property
    def score(self) -> float:
        """1 and above is an alarm."""
        return min(abs(self.effect) / self.threshold, self.evidence)

    @property
    def alarm(self) -> bool:
        return self.score >= 1.0


class Sizes(msgspec.Struct, frozen=True, kw_only=True):
    """How much is compared."""

    reference_requests: int = 4000
    reference_s: float = 0.0
    """Shortest time that the reference spans."""
    window_requests: int = 2000
    window_labels: int = 2000
    """Graded answers over which calibration is judged."""


class Monitor(msgspec.Struct):
    """The state of drift detection: all of it."""

    student: str = ""
    """Whose answers are compared; another one needs another reference."""
    reference: Summary = msgspec.field(default_factory=Summary)
    started_s: float = 0.0
    """When this student was first seen."""
    asked_s: float = 0.0
    """When somebody last asked for a new reference: older ones do not count any more."""
    fixed_s: float | None = None
    """When the reference was complete; None: it is still being collected."""
    panes: list[Summary] = []
    """The newest last; it takes what comes until it is full."""
    calibration: list[Calibration] = []
    new_fingerprints: dict[str, float] = {}
    """That the reference does not know: when they were first seen."""
    looks: int = 0
    looked_s: float = 0.0
    findings: dict[Detector, Finding] = {}
    """Of the last look, the strongest of each detector."""

    def restart(self, student: str, now_s: float) -> None:
        """Collect a new reference; for another student the one of a file may be used."""
        asked_s = now_s if student == self.student else self.asked_s
        self._replace(Monitor(student=student, started_s=now_s, asked_s=asked_s))

    def use(self, reference: Summary, fixed_s: float) -> None:
        """Compare with this from now on, and with what comes from now on."""
        self._replace(
            Monitor(
                student=self.student,
                started_s=self.started_s,
                asked_s=self.asked_s,
                reference=reference,
                fixed_s=fixed_s,
            )
        )

    def _replace(self, fresh: Monitor) -> None:
        for name in self.__struct_fields__:
            setattr(self, name, getattr(fresh, name))

    def take(self, summary: Summary, calibration: Calibration, *, now_s: float, sizes: Sizes) -> bool:
        """Add what was counted since the last time; whether the findings were made anew."""
        looked = self._take_calibration(calibration, sizes)
        if self.fixed_s is None:
            self.reference.merge(summary)
            spans_s = self.reference.last_s - self.reference.first_s
            if self.reference.n >= sizes.reference_requests and spans_s >= sizes.reference_s:
                self.fixed_s = now_s
        else:
            looked = self._take_pane(summary, sizes) or looked
            looked = self._take_fingerprints(summary) or looked
        if looked:
            self.looks, self.looked_s = self.looks + 1, now_s
            self.findings = self._look(sizes)
        return looked

    def _take_pane(self, summary: Summary, sizes: Sizes) -> bool:
        """Whether a part of the window has become complete."""
        if not summary.n:
            return False
        if not self.panes:
            self.panes.append(Summary())
        pane = self.panes[-1]
        pane.merge(summary)
        if pane.n < sizes.window_requests / PANES or pane.last_s - pane.first_s < MIN_LOOK_S:
            return False
        self.panes = [*self.panes[-PANES:], Summary()]
        return True

    def _take_calibration(self, calibration: Calibration, sizes: Sizes) -> bool:
        if not calibration.n:
            return False
        if not self.calibration:
            self.calibration.append(Calibration())
        self.calibration[-1].merge(calibration)
        if self.calibration[-1].n < sizes.window_labels / PANES:
            return False
        self.calibration = [*self.calibration[-PANES:], Calibration()]
        return True

    def _take_fingerprints(self, summary: Summary) -> bool:
        if not self.reference.fingerprints:  # the teacher had nothing to say in the reference
            self.reference.fingerprints = dict(summary.fingerprints)
        fresh = set(summary.fingerprints) - set(self.reference.fingerprints) - set(self.new_fingerprints)
        if not fresh:
            return False
        for fingerprint in sorted(fresh)[: MAX_NEW_FINGERPRINTS - len(self.new_fingerprints)]:
            self.new_fingerprints[fingerprint] = summary.last_s
        return True

    @property
    def window(self) -> Summary:
        """The requests that are compared with the reference: of complete panes only."""
        window = Summary()
        for pane in self.panes[:-1]:
            window.merge(pane)
        return window

    @property
    def labels(self) -> Calibration:
        """The graded answers over which calibration is judged, the newest included."""
        total = Calibration()
        for part in self.calibration:
            total.merge(part)
        return total

    def _look(self, sizes: Sizes) -> dict[Detector, Finding]:
        compared = list(_compared(self.window, self.reference)) if self.fixed_s is not None else []
        labels = self.labels
        if labels.n >= sizes.window_labels / PANES:
            divergence = of_predictions(labels.found - labels.stated, labels.variance, labels.n)
            compared.append(Comparison("calibration", "wrong", "student", "", divergence, labels.n, labels.n))
        needed = -math.log(FALSE_ALARMS_PER_MONTH / LOOKS_PER_MONTH / max(1, len(compared)))
        findings: dict[Detector, Finding] = {}
        for each in compared:
            found = each.finding(needed)
            if each.detector not in findings or found.score > findings[each.detector].score:
                findings[each.detector] = found
        if self.reference.fingerprints and self.fixed_s is not None:
            findings["teacher_fingerprint"] = self._of_fingerprints()
        return findings

    def _of_fingerprints(self) -> Finding:
        """A fingerprint is no statistic: one that was never seen in the reference is a change, at once."""
        new = len(self.new_fingerprints)
        return Finding(
            detector="teacher_fingerprint", measure=next(iter(self.new_fingerprints), ""), route="teacher",
            effect=float(new), threshold=1.0, evidence=float(new),
            n=new, reference_n=len(self.reference.fingerprints),
        )  # fmt: skip


class Comparison(msgspec.Struct, frozen=True):
    """One measure of one stream against the reference."""

    detector: Detector
    measure: str
    route: str
    tag: str
    divergence: Divergence
    n: int
    reference_n: int
    flag: bool = False

    def finding(self, needed: float) -> Finding:
        """
        Args:
            needed: -ln(p) of an alarm.
        """
        return Finding(
            detector=self.detector, measure=self.measure, route=self.route, tag=self.tag,
            effect=self.divergence.effect, threshold=FLAG_EFFECT if self.flag else EFFECTS[self.detector],
            evidence=-self.divergence.log_p / needed, n=self.n, reference_n=self.reference_n,
        )  # fmt: skip


def _compared(window: Summary, reference: Summary) -> list[Comparison]:
    """Every measure that both have enough of."""
    compared = []
    for name, stream in window.streams.items():
        before = reference.streams.get(name)
        if before is not None:
            route, _, tag = name.partition("/")
            compared += _of_stream(route, tag, stream, before)
    return compared


def _of_stream(route: str, tag: str, stream: Stream, before: Stream) -> list[Comparison]:
    compared = []
    for measure, (hits, n) in stream.rates.items():
        reference_hits, reference_n = before.rates.get(measure, (0, 0))
        if min(n, reference_n) >= MIN_STREAM_REQUESTS:
            detector = ANSWER_RATES.get(measure, "inputs")
            divergence = of_rates(hits, n, reference_hits, reference_n)
            compared.append(
                Comparison(detector, measure, route, tag, divergence, n, reference_n, flag=detector == "inputs")
            )
    for measure, counts in stream.histograms.items():
        reference_counts = before.histograms.get(measure)
        if reference_counts is None or len(reference_counts) != len(counts):
            continue
        n, reference_n = sum(counts), sum(reference_counts)
        if min(n, reference_n) >= MIN_STREAM_REQUESTS:
            detector = "length" if measure == "length" else "inputs"
            divergence = of_histograms(counts, reference_counts)
            compared.append(Comparison(detector, measure, route, tag, divergence, n, reference_n))
    return compared
