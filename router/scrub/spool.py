"""A traffic log whose records are scrubbed before they are handed to it.

Small records are scrubbed at once: a thread would cost more. Others are scrubbed on a thread of their own within
`timeout_s`, and the log keeps the rest of `log.write_timeout_s`: an answer waits no longer than without scrubbing. What
is not scrubbed in time, or cannot be, is written without what the client wrote, and counted; it is never written as it
is.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections import Counter
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

from policies.record import AnyRecord, FeedbackRecord, decode_any, encode
from router.config import LogConfig
from router.metrics import Metrics
from router.scrub.engine import TooMuchWork
from router.scrub.findings import Engine
from router.scrub.records import scrubbed, without_texts
from router.traffic_log import TrafficLog

logger = logging.getLogger(__name__)


class ScrubbedLog(TrafficLog):
    """`TrafficLog` behind an engine."""

    def __init__(
        self, config: LogConfig, metrics: Metrics, engine: Engine, environ: Mapping[str, str] = os.environ
    ) -> None:
        left_s = config.write_timeout_s - config.scrub.timeout_s
        super().__init__(config.model_copy(update={"write_timeout_s": left_s}), metrics, environ)
        for kind in engine.kinds:
            metrics.scrubbed.labels(kind)  # begins at 0
        self._scrub_metrics = metrics
        self._engine = engine
        self._timeout_s = config.scrub.timeout_s
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="scrub")
        self._under_way: set[asyncio.Task[bool]] = set()

    async def stop(self) -> None:
        """Scrub and write what waits."""
        if self._under_way:
            await asyncio.wait(self._under_way)
        self._thread.shutdown(wait=False, cancel_futures=True)
        await super().stop()

    async def append(self, payload: bytes) -> bool:
        """As of `TrafficLog`; also False when nothing of a judgement is left that may be written."""
        if len(payload) <= self._engine.at_once_bytes:
            return await self._write(payload, self._result(payload))
        # A client that leaves cancels its request, and must not cancel its record with it.
        task = asyncio.create_task(self._append_later(payload))
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)
        return await asyncio.shield(task)

    async def _append_later(self, payload: bytes) -> bool:
        work = asyncio.get_running_loop().run_in_executor(self._thread, self._result, payload)
        try:
            result = await asyncio.wait_for(work, self._timeout_s)  # cancels what has not begun
        except TimeoutError:
            result = "timeout"
        return await self._write(payload, result)

    def _result(self, payload: bytes) -> tuple[bytes, Counter[str]] | str:
        """What to write and what was replaced, or why it could not be scrubbed."""
        try:
            record = decode_any(payload)
            clean, counts = scrubbed(record, self._engine)
            return (payload if clean is record else encode(clean)), counts
        except TooMuchWork:
            return "too_much"
        except Exception as exc:  # noqa: BLE001 - whatever fails in an engine, nothing may be written unscrubbed
            logger.error("a record could not be scrubbed: %s", type(exc).__name__)
            return "error"

    async def _write(self, payload: bytes, result: tuple[bytes, Counter[str]] | str) -> bool:
        if not isinstance(result, str):
            clean, counts = result
            for kind, count in counts.items():
                self._scrub_metrics.scrubbed.labels(kind).inc(count)
            return await super().append(clean)
        self._scrub_metrics.scrub_failures.labels(result).inc()
        record: AnyRecord = decode_any(payload)
        if isinstance(record, FeedbackRecord):
            return False  # its client learns that, and may send it again
        return await super().append(encode(without_texts(record)))
