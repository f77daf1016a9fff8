"""Keeps the standing of certificates up to date: student, teacher and traffic may change while requests run.

Each process looks by itself, at what it serves and at the shared state of drift detection. A look is a comparison of a
few names, so it happens every `INTERVAL_S` instead of on every event that could matter.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING

from policies.quality.drift import DETECTORS, Monitor
from router.generations import Generations
from router.metrics import Metrics

if TYPE_CHECKING:
    from policies.certificate import Standing

logger = logging.getLogger(__name__)

INTERVAL_S = 2.0


class Certificates:
    """One instance a process; `run` in a task of its own."""

    def __init__(
        self, generations: Generations, metrics: Metrics, *, teacher: str, monitor: Callable[[], Monitor | None]
    ) -> None:
        """
        Args:
            teacher: model name of the first one.
            monitor: the state of drift detection; None where it is off.
        """
        self._generations = generations
        self._metrics = metrics
        self._teacher = teacher
        self._monitor = monitor
        self._known: dict[str, Standing] = {}
        """By the policy, as seen in the last look."""

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            self.refresh()
            await asyncio.sleep(INTERVAL_S)

    def refresh(self) -> None:
        """Look at every certificate of the policies in force."""
        monitor = self._of_this_student()
        alarms = [name for name in DETECTORS if name in monitor.findings and monitor.findings[name].alarm]
        now: dict[str, Standing] = {}
        for standing in self._generations.current.decider.chain.standings:
            changed = standing.judge(
                teachers=(self._teacher,),
                new_fingerprints=tuple(monitor.new_fingerprints),
                alarms=alarms,
                drift_accepted_s=monitor.asked_s,
            )
            now[standing.policy] = standing
            if changed or self._known.get(standing.policy) is not standing:
                logger.log(logging.INFO if standing.valid else logging.WARNING, "%s", standing.describe())
            self._metrics.certificate_valid.labels(standing.policy).set(standing.valid)
        for policy in self._known.keys() - now.keys():
            self._metrics.certificate_valid.labels(policy).set(1)  # nothing is promised that could be broken
        self._known = now

    def _of_this_student(self) -> Monitor:
        """What drift detection has found about the student that serves."""
        monitor = self._monitor()
        if monitor is None or monitor.student != self._generations.current.bundle_id:
            return Monitor()
        return monitor
