"""Keeps the standing of certificates up to date: student, teacher and traffic may change while requests run.

Each process looks by itself, at what it serves and at the shared book of what drift detection has found. A look is a
comparison of a few names, so it happens every `INTERVAL_S`, and when another student or document begins to serve,
instead of on every event that could matter.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from policies.certificate import Acknowledged, Around
from policies.quality.drift import Monitor
from router.errors import StateUnavailable
from router.generations import Generations
from router.metrics import Metrics
from router.quality.shared_book import SharedBook

if TYPE_CHECKING:
    from policies.standing import Standing

logger = logging.getLogger(__name__)

INTERVAL_S = 2.0


class NoCertificate(LookupError):
    """There is none to be acknowledged."""


class NotAcknowledged(ValueError):
    """There is nothing that an acknowledgement could change."""


class Certificates:
    """One instance a process; `start`, then `run` in a task of its own."""

    def __init__(
        self,
        generations: Generations,
        metrics: Metrics,
        *,
        teacher: str,
        monitor: Callable[[], Monitor | None],
        book: SharedBook,
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
        self._book = book
        self._known: dict[str, Standing] = {}
        """By the policy, as seen in the last look."""

    def recall(self) -> None:
        """Take what this machine knew before it was restarted."""
        self._book.load()
        self.refresh()

    async def start(self) -> None:
        """What was known before, here and elsewhere, counts from the first request on."""
        await asyncio.to_thread(self._book.load)
        await self._exchange()
        self.refresh()

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await asyncio.sleep(INTERVAL_S)
            self._note()
            await self._exchange()  # what is acted on has been written down
            self.refresh()

    def refresh(self) -> None:
        """Look at every certificate of the policies in force."""
        self._note()
        now: dict[str, Standing] = {}
        for standing in self._standings:
            changed = standing.judge(self._around(standing))
            now[standing.policy] = standing
            if changed or self._known.get(standing.policy) is not standing:
                logger.log(logging.INFO if standing.valid else logging.WARNING, "%s", standing.describe())
            self._metrics.certificate_valid.labels(standing.policy).set(standing.valid)
        for policy in self._known.keys() - now.keys():
            self._metrics.certificate_valid.labels(policy).set(1)  # nothing is promised that could be broken
        self._known = now

    async def acknowledge(self, policy: str, *, by: str, comment: str) -> Standing:
        """Somebody answers for a certificate: what has happened to it so far does not void it.

        Raises:
            NoCertificate: the policy has none.
            NotAcknowledged: it is valid, or void for something that is still so.
            StateUnavailable: nobody knows of it.
        """
        standing = next((each for each in self._standings if each.policy == policy), None)
        if standing is None:
            raise NoCertificate(f"no policy in force is named {policy!r} and has a certificate")
        await self._book.exchange()
        self.refresh()
        if standing.lasting_causes:
            causes = ", ".join(standing.lasting_causes)
            raise NotAcknowledged(f"the certificate is void because something else serves ({causes}); tune again")
        if standing.valid:
            raise NotAcknowledged("the certificate is valid: nothing has happened that could be acknowledged")
        at_s = max(time.time(), *(event.at_s for event in standing.events))
        said = Acknowledged(at_s=at_s, by=by, comment=comment, policy=policy)
        await self._book.acknowledge(standing.sha256, said)
        self.refresh()
        return standing

    @property
    def _standings(self) -> Sequence[Standing]:
        return self._generations.current.decider.chain.standings

    def _around(self, standing: Standing) -> Around:
        """Alarms about the certified student count, and those about the same model in another bundle."""
        book, about = self._book.book, standing.certificate.student
        rang: dict[str, float] = {}
        for student in (about, self._generations.current.bundle_id):
            for detector, ring in book.rings.get(student, {}).items():
                rang[detector] = max(ring.began_s, rang.get(detector, 0.0))
        return Around(
            teachers=(self._teacher,),
            fingerprints=book.fingerprints.get(self._teacher, {}),
            rang=rang,
            drift_accepted_s=book.accepted_s,
            acknowledged=book.acknowledged.get(standing.sha256),
        )

    def _note(self) -> None:
        monitor = self._monitor()
        if monitor is not None:
            self._book.note(monitor, self._teacher)

    async def _exchange(self) -> None:
        if self._monitor() is None and not self._standings:
            return  # nothing is noted here, and nothing depends on it
        try:
            await self._book.exchange()
        except StateUnavailable as exc:
            self._metrics.state_errors.labels("certificates").inc()
            logger.debug("certificates: the shared state is away: %s", exc)
        except Exception:  # whatever it was, the next look tries again
            logger.exception("exchanging the alarms of drift failed")
