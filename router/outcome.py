"""The end of a request: one `DecisionRecord` on every exit path, to the metrics and to the traffic log."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import msgspec

from policies.chain import Vote
from policies.record import CaptureLevel, DecisionRecord, encode
from router.chat import ChatRequest
from router.costs import used
from router.logs import log_access
from router.metrics import Metrics
from router.recorder import Recorder
from router.request_state import RequestState
from router.traffic_log import TrafficLog

if TYPE_CHECKING:
    from router.governance.governance import Governance

logger = logging.getLogger(__name__)

Observer = Callable[[RequestState, DecisionRecord], None]


class Outcomes:
    """Turns what is known about a request into its record, and delivers that."""

    def __init__(
        self,
        recorder: Recorder,
        metrics: Metrics,
        log: TrafficLog | None,
        *,
        observers: Sequence[Observer] = (),
        access_log: bool = False,
        governance: Governance | None = None,
    ) -> None:
        """
        Args:
            governance: is told of every request under a document with governors or shadows.
            access_log: write a line for each request to the process's own log.
            observers: are told of every request whose record is in the log; they return at once.
        """
        self._recorder = recorder
        self._metrics = metrics
        self._log = log
        self._observers = tuple(observers)
        self._access_log = access_log
        self._governance = governance

    def capture_of(self, request: ChatRequest) -> CaptureLevel:
        """What may be kept of a request."""
        return self._recorder.capture_of(request)

    def captures_text(self, request: ChatRequest) -> bool:
        return self._log is not None and self.capture_of(request) == "full"

    async def settle(self, state: RequestState, now_s: float) -> None:
        """Write the record, once; to be awaited before the last byte of the answer. A full disk does not raise."""
        if state.settled:
            return
        state.settled = True
        if state.shadow_votes is not None:
            _take_votes(state, state.shadow_votes)
        if state.machine is not None:
            state.machine.close()
        try:
            record = self._recorder.record(state, now_s)
            payload = encode(record)
        except Exception as exc:  # noqa: BLE001 - see below
            # Something in the request cannot be written down. It still gets its record, without texts and votes.
            logger.error("record %s is reduced: %s", state.decision_id, type(exc).__name__)
            state.request = state.evaluation = state.completion = state.draft = None
            record = self._recorder.record(state, now_s)
            payload = encode(record)
        state.record = record
        if self._access_log:
            log_access(record, state.policy)
        self._metrics.observe(record)
        self._govern(state, record)
        if state.permit is not None:
            tokens, spent_usd = used(state)
            await state.permit.settle(tokens=tokens, cost_usd=spent_usd)
        if self._log is not None and record.capture != "none" and await self._log.append(payload):
            for observe in self._observers:
                try:
                    observe(state, record)
                except Exception:  # whoever looks on, the client gets its answer
                    logger.exception("an observer of answered requests failed")

    def _govern(self, state: RequestState, record: DecisionRecord) -> None:
        if self._governance is not None and state.generation.decider.is_governed:
            self._governance.settle(state, record)


def _take_votes(state: RequestState, asked: asyncio.Task[tuple[Vote, ...]]) -> None:
    """The votes in shadow, of policies that have answered by now: nobody waits for them."""
    state.shadow_votes = None
    if not asked.done():
        asked.cancel()
    elif not asked.cancelled() and state.evaluation is not None:
        state.evaluation = msgspec.structs.replace(state.evaluation, votes=state.evaluation.votes + asked.result())
