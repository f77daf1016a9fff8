"""Drift detection in a gateway: a sample of the answered requests, counted away from the event loop.

`observe` runs once a request and keeps every request, or of a busy gateway a uniform sample: at most
`SAMPLES_PER_S` a second. Everything else happens every `interval_s`, in a thread.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from policies.artefact import ArtefactError
from policies.quality.drift import DETECTORS, Detector, Finding, Monitor, Sizes
from policies.quality.drift_samples import Digester, Sample, sample_of
from policies.quality.drift_summaries import Calibration, Summary
from policies.quality.estimates import counted
from policies.record import DecisionRecord, ShadowRecord
from router.config.drift import DriftConfig
from router.errors import StateUnavailable
from router.metrics import Metrics
from router.quality.drift_state import ReferenceFile, SharedMonitor, read_reference, write_reference
from router.state.base import Store

logger = logging.getLogger(__name__)

SAMPLES_PER_S = 20
MIN_SAMPLES, MAX_SAMPLES = 100, 2000
"""In an interval."""
REFERENCE_FILE = "drift-reference.json"
"""In `admin.dir`."""


class DriftWatch:
    """One instance a process; `run` in a task of its own."""

    def __init__(
        self,
        config: DriftConfig,
        *,
        store: Store,
        metrics: Metrics,
        folder: Path,
        student: Callable[[], str],
        clock: Callable[[], float] = time.time,
    ) -> None:
        """
        Args:
            folder: of the reference file.
            student: bundle id of the one that serves now.
        """
        self._config = config
        self._shared = SharedMonitor(store)
        self._metrics = metrics
        self._file = folder / REFERENCE_FILE
        self._student = student
        self._clock = clock
        self._random = random.Random()  # noqa: S311 - draws a sample
        self._room = min(MAX_SAMPLES, max(MIN_SAMPLES, int(SAMPLES_PER_S * config.interval_s)))
        self._samples: list[Sample] = []
        self._seen = 0
        """Requests since the samples were taken away last."""
        self._summary, self._calibration = Summary(), Calibration()
        """What is not in the shared state yet."""
        self._digester = Digester()
        self._serves = "", 0.0
        """The student that this process serves, and since when."""
        self._restart_wanted = False
        self._turn = asyncio.Lock()
        self.monitor = Monitor()
        """The shared state as it was seen last."""
        self.sizes = Sizes(
            reference_requests=config.reference_requests,
            reference_s=config.reference_s,
            window_requests=config.window_requests,
            window_labels=config.window_labels,
        )

    def observe(self, record: DecisionRecord, embedding: tuple[float, ...] | None = None) -> None:
        """One finished request (Vitter's algorithm R: every request of an interval has the same chance)."""
        self._seen += 1
        if len(self._samples) < self._room:
            place = len(self._samples)
        elif (place := int(self._random.random() * self._seen)) >= self._room:
            return
        sample = sample_of(record, self._config.tag, embedding)
        if sample is None:
            self._seen -= 1
        elif place == len(self._samples):
            self._samples.append(sample)
        else:
            self._samples[place] = sample

    def observe_shadow(self, shadow: ShadowRecord) -> None:
        """A graded answer of the student, and what the policies had expected of it."""
        grade = counted(shadow.grades)
        if grade is None or grade.student is None or shadow.student != self._student():
            return
        if shadow.predicted is not None:
            self._calibration.add(shadow.predicted, 1.0 - grade.student)

    async def run(self) -> None:
        """Until cancelled. The first interval is cut short at random: workers that start together then take turns."""
        await asyncio.sleep(self._config.interval_s * self._random.random())
        while True:
            await self.once()
            await asyncio.sleep(self._config.interval_s)

    async def once(self) -> None:
        """Count what has come, add it to the shared state and compare; never raises for a store or a disk."""
        async with self._turn:
            try:
                await self._count()
                async with self._shared.lease.held() as taken:
                    if taken:
                        await self._add()
            except StateUnavailable as exc:
                self._metrics.state_errors.labels("drift").inc()
                logger.debug("drift: the shared state is away: %s", exc)
            except Exception:  # whatever it was, the next interval tries again
                logger.exception("drift detection failed")

    async def _count(self) -> None:
        samples, self._samples, self._seen = self._samples, [], 0
        student = self._student()
        if student != self._serves[0]:
            self._serves = student, self._clock()
        await asyncio.to_thread(self._digest, samples, student)

    def request_restart(self) -> None:
        """Collect a new reference from now on; takes effect in the next `once`."""
        self._restart_wanted = True

    def _digest(self, samples: list[Sample], student: str) -> None:
        for sample in samples:
            if sample.student == student or sample.route == "teacher":
                self._digester.add(sample, self._summary)

    async def _add(self) -> None:
        """With the lease."""
        monitor = await self._shared.read() or Monitor()
        before = dict(monitor.findings)
        student, since_s = self._serves
        if monitor.student != student:
            if monitor.started_s > since_s:
                self._summary, self._calibration = Summary(), Calibration()
                self._publish(monitor, before)
                return  # the others have moved on to another student; this process will follow, or drain
            monitor.restart(student, self._clock())
        if self._restart_wanted:
            monitor.restart(student, self._clock())
            self._restart_wanted = False
        await self._take_file(monitor)
        collecting, now_s = monitor.fixed_s is None, self._clock()
        summary, calibration = self._summary, self._calibration
        self._summary, self._calibration = Summary(), Calibration()
        await asyncio.to_thread(monitor.take, summary, calibration, now_s=now_s, sizes=self.sizes)
        try:
            await self._shared.write(monitor)
        except StateUnavailable:
            self._summary.merge(summary)
            self._calibration.merge(calibration)
            raise
        if collecting and monitor.fixed_s is not None:
            await self._keep(monitor)
        self._publish(monitor, before)

    async def _take_file(self, monitor: Monitor) -> None:
        """A reference that was set by hand, or that the store has lost, is newer than what is there."""
        try:
            found = await asyncio.to_thread(read_reference, self._file)
        except (ArtefactError, OSError) as exc:
            logger.warning("drift: the reference is not used: %s", exc)
            return
        if found is None or found.student != monitor.student or found.tag != self._config.tag:
            return
        if found.fixed_s > (monitor.asked_s if monitor.fixed_s is None else monitor.fixed_s):
            monitor.use(found.reference, found.fixed_s)
            logger.info("drift: comparing with the reference of %d requests in %s", found.reference.n, self._file)

    async def _keep(self, monitor: Monitor) -> None:
        assert monitor.fixed_s is not None  # noqa: S101 - see `_add`
        reference = ReferenceFile(
            student=monitor.student, fixed_s=monitor.fixed_s, tag=self._config.tag, reference=monitor.reference
        )
        try:
            await asyncio.to_thread(write_reference, self._file, reference)
        except OSError as exc:
            logger.warning("drift: the reference is not on disk: %s", exc.strerror)

    def _publish(self, monitor: Monitor, before: dict[Detector, Finding]) -> None:
        """The gauges, and a line in the log where an alarm begins or ends."""
        self.monitor = monitor
        for detector in DETECTORS:
            finding, old = monitor.findings.get(detector), before.get(detector)
            score = finding.score if finding is not None else 0.0
            alarm = finding is not None and finding.alarm
            self._metrics.drift_score.labels(detector).set(score)
            self._metrics.drift_alarm.labels(detector).set(alarm)
            if finding is not None and alarm and not (old is not None and old.alarm):
                logger.warning("drift: %s", describe(finding))
            elif old is not None and old.alarm and not alarm:
                logger.info("drift: the alarm of %s has ended", detector)
        error = monitor.labels.error
        if error is not None:
            self._metrics.calibration_error.set(error)

    def as_json(self) -> dict[str, Any]:
        """For the admin API: the shared state as this process saw it last."""
        return report(self.monitor, self.sizes)


def report(monitor: Monitor, sizes: Sizes) -> dict[str, Any]:
    """The state of drift detection, without the counts."""
    labels, window = monitor.labels, monitor.window
    return {
        "student": monitor.student,
        "reference": {
            "requests": monitor.reference.n,
            "wanted": sizes.reference_requests,
            "fixed_s": monitor.fixed_s,
            "first_s": monitor.reference.first_s or None,
            "last_s": monitor.reference.last_s or None,
        },
        "window": {"requests": window.n, "first_s": window.first_s or None, "last_s": window.last_s or None},
        "looks": monitor.looks,
        "looked_s": monitor.looked_s or None,
        "alarms": [name for name in DETECTORS if name in monitor.findings and monitor.findings[name].alarm],
        "detectors": {name: _finding(monitor.findings.get(name)) for name in DETECTORS},
        "calibration": {
            "labels": labels.n,
            "expected_wrong": labels.stated / labels.n if labels.n else None,
            "observed_wrong": labels.found / labels.n if labels.n else None,
            "error": labels.error,
            "bins": [[int(n), stated / n, found / n] for n, stated, found in labels.bins if n],
        },
        "new_teacher_fingerprints": monitor.new_fingerprints,
    }


def describe(finding: Finding) -> str:
    """One sentence about what differs, for a log: no texts of requests, and a tag is cut."""
    where = f"{finding.route or 'all'} traffic" + (f", tag {finding.tag[:40]!r}" if finding.tag else "")
    if finding.detector == "teacher_fingerprint":
        return f"the teacher states a new fingerprint, {finding.measure[:80]!r}"
    return (
        f"{finding.detector} ({finding.measure}) of {where}: changed by {finding.effect:+.3f}, of which "
        f"{finding.threshold:.3f} matters; {finding.n} against {finding.reference_n} requests"
    )


def _finding(finding: Finding | None) -> dict[str, Any] | None:
    if finding is None:
        return None
    return {**msgspec.to_builtins(finding), "score": finding.score, "alarm": finding.alarm}
