"""One stream from a backend to the client: peeked before it is committed, then passed on byte for byte.

Before the commit everything that goes wrong is a `BackendError`, and another backend may answer. After it the client
gets either a complete stream with its API's end (`[DONE]`), or an error event and the close: never both, never neither.
Every API goes through here; a dialect's translation writes the client's events where they are not the backend's.
"""

from __future__ import annotations

import math
import time
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

import msgspec

from router.backends import Answer, Backend
from router.dialects.base import Dialect, Outgoing
from router.errors import BackendBroken, BackendError, BackendTimeout, BackendUnreachable
from router.exchange import Exchange
from router.metrics import Metrics
from router.request_state import RequestState
from router.sse import MAX_FRAME_BYTES, Delta, FrameSplitter, FrameTooLarge, frames_of, is_whole, payload
from router.time_limit import TimeLimit

MAX_CAPTURED_BYTES = 4 * 2**20
"""Of one answer's frames; a longer answer is logged without its text."""
MAX_ERROR_CHARS = 500


class Step(NamedTuple):
    """What one read means for the client."""

    visible: bytes
    last: bool


class Stream:
    """An open stream of one backend: `peek`, then `relay`. The caller closes the answer."""

    def __init__(
        self,
        backend: Backend,
        answer: Answer,
        asked: Outgoing,
        dialect: Dialect,
        *,
        choices: int,
        capture: bool,
        splitter: FrameSplitter | None = None,
    ) -> None:
        """
        Args:
            asked: what the backend was asked, which says how its answer is read.
            choices: how many of them have to be finished.
            capture: keep the text for the record.
            splitter: that changes the frames on their way.
        """
        self._backend = backend
        self._answer = answer
        self._splitter = splitter or FrameSplitter()
        self._reader = asked.api.reader(asked.hides_usage)
        self._is_ordinary = self._reader.is_ordinary if asked.translation is None else _never
        self._translation = asked.translation
        self._dialect = dialect
        self._choices = choices
        self._finished: frozenset[int] = frozenset()
        self._captured: list[bytes] | None = [] if capture else None
        self._captured_bytes = 0
        self._peeked = b""
        self._unsent: list[bytes] = []

    async def peek(self) -> None:
        """Wait for the first event with a part of the answer; comments and the role may come before it.

        Raises:
            BackendError: an error event, the end of the stream or a reset came first, or more than MAX_FRAME_BYTES
                without a part of the answer.
        """
        first, blocks, size = None, [], 0
        while first is None:
            block = await self._next_block()
            if block is None:
                raise BackendBroken("the stream ended before its first event", cause="invalid_response")
            blocks.append(block)
            size += len(block)
            if size > MAX_FRAME_BYTES:
                raise BackendBroken("much comes before the first event", cause="invalid_response")
            first = next((delta for delta in map(self._reader.read, frames_of(block)) if delta.commits), None)
        if first.error is not None:
            raise BackendBroken("the first event is an error", cause="stream_error")
        if first.done:
            raise BackendBroken("the stream is empty", cause="invalid_response")
        self._peeked = b"".join(blocks)

    async def relay(
        self, exchange: Exchange, state: RequestState, metrics: Metrics, settle: Callable[[], Awaitable[None]]
    ) -> BackendError | None:
        """Pass the stream on until it ends, one way or the other; `settle` is awaited before the last byte.

        Returns:
            What cut it off.
        """
        failure: BackendError | None = None
        try:
            tail = await self._relay_events(exchange, state, metrics)
            state.outcome = "degraded" if state.degraded else "ok"
        except BackendError as error:
            failure = error
            tail = b"".join(self._unsent) + self._error_frame(error)
            state.outcome = "timeout" if isinstance(error, BackendTimeout) else "backend_error"
            state.error_code = error.code
            self._answer.close()
        self.record_text(state)
        await settle()
        await exchange.end(tail)
        await self._answer.release()
        return failure

    async def _relay_events(self, exchange: Exchange, state: RequestState, metrics: Metrics) -> bytes:
        """Everything but the last bytes, which are returned. Raises: BackendError."""
        clock = time.monotonic
        idle_timeout_s = self._backend.config.idle_timeout_s
        state.first_event_s = state.last_event_s = last_s = clock()
        visible, last = self._absorb(self._peeked, state)
        idle = TimeLimit(idle_timeout_s)
        gaps = metrics.gaps(self._backend.route)
        splitter, is_ordinary = self._splitter, self._is_ordinary

        def pass_on(data: bytes) -> bool:
            """Nearly every block goes out in the moment in which it arrives: a turn of the event loop, and the way down
            through all that await this stream, would cost more than everything else about it."""
            nonlocal last_s
            whole = not splitter.open and data.endswith(b"\n\n") and b"\r" not in data
            if not whole or not is_ordinary(data) or not exchange.put(data):
                return False
            now_s = clock()
            gaps.add(now_s - last_s)
            state.last_event_s = last_s = now_s
            idle.at_s = now_s + idle_timeout_s
            state.streamed_events += data.count(b"\ndata:") + data.startswith(b"data:")
            self._capture(data)
            return True

        try:
            with idle, gaps:
                while not last:
                    if visible and not exchange.put(visible):
                        idle.at_s = math.inf  # a client that reads slowly is not the backend's silence
                        await exchange.write(visible)
                    idle.move_to(clock() + idle_timeout_s)
                    if splitter.passes_whole_frames:
                        self._answer.divert(pass_on)
                    block = await self._next_block()
                    if block is None:
                        return self._end_of_body(state)
                    now_s = clock()
                    gaps.add(now_s - last_s)
                    state.last_event_s = last_s = now_s
                    visible, last = self._absorb(block, state)
        except TimeoutError as exc:
            raise BackendTimeout(
                f"The {self._backend.route} sent nothing for {idle_timeout_s:g} s.", cause="timeout"
            ) from exc
        return visible

    def _absorb(self, block: bytes, state: RequestState) -> Step:
        """Note what the frames say. Raises: BackendBroken for an error event."""
        state.streamed_events += block.count(b"\ndata:") + block.startswith(b"data:")
        if self._is_ordinary(block):
            self._capture(block)
            return Step(block, last=False)
        self._unsent = visible = []
        for frame in frames_of(block):
            if self._is_ordinary(frame):
                self._capture(frame)
                visible.append(frame)
                continue
            delta = self._reader.read(frame)
            if delta.error is not None:
                raise BackendBroken(delta.error[:MAX_ERROR_CHARS], cause="stream_error")
            self._note(delta, state)
            shown = self._shown(delta)
            if shown:
                visible.append(shown)
            if delta.done:
                return Step(b"".join(visible), last=True)
            self._capture(frame)
        self._unsent = []
        return Step(b"".join(visible), last=False)

    def _note(self, delta: Delta, state: RequestState) -> None:
        if delta.finish_reason is not None:
            state.finish_reason = delta.finish_reason
            self._finished |= delta.finished
        if delta.fingerprint is not None and len(delta.fingerprint) >= len(state.fingerprint or ""):
            state.fingerprint = delta.fingerprint  # the frame that says most: vLLM tells all in its last one
        if delta.usage is not None:
            state.usage = delta.usage

    def _shown(self, delta: Delta) -> bytes | None:
        """What the client gets for a frame."""
        if self._translation is None:
            return delta.frame
        if delta.done:
            return self._translation.end()
        if delta.data is None:
            return delta.frame if delta.frame is not None and delta.frame.startswith(b":") else None
        return self._translation.feed(_chunk(delta.data))

    def _error_frame(self, error: BackendError) -> bytes:
        return self._dialect.error_frame(error) if self._translation is None else self._translation.error(error)

    def _end_of_body(self, state: RequestState) -> bytes:
        """The last bytes when the backend closed without `[DONE]`: complete if every choice has a finish reason.

        Raises: BackendError: the stream was cut off.
        """
        visible = b""
        rest = self._splitter.rest().rstrip() + b"\n\n"
        if is_whole(payload(rest) or b""):
            step = self._absorb(rest, state)
            if step.last:
                return step.visible
            visible = step.visible
        if len(self._finished) >= self._choices and self._reader.ending is not None:
            return visible + (self._reader.ending if self._translation is None else self._translation.end())
        self._unsent = [visible]
        raise BackendUnreachable(
            f"The {self._backend.route}'s stream ended before it was finished.", cause="disconnected"
        )

    async def _next_block(self) -> bytes | None:
        """The next complete frames, or None at the end. Raises: BackendError."""
        while data := await self._answer.read():
            try:
                block = self._splitter.feed(data)
            except FrameTooLarge as exc:
                raise BackendBroken("an event is too large", cause="invalid_response") from exc
            if block:
                return block
        return None

    def _capture(self, frames: bytes) -> None:
        if self._captured is None:
            return
        self._captured_bytes += len(frames)
        if self._captured_bytes > MAX_CAPTURED_BYTES:
            self._captured = None
        else:
            self._captured.append(frames)

    def record_text(self, state: RequestState) -> None:
        """Note the text that has been passed on so far; only the first call has an effect."""
        captured, self._captured = self._captured, None
        if captured is not None:
            state.completion = self._reader.text_of(b"".join(captured))


def _never(block: bytes) -> bool:
    """A translated stream has no block that passes as it is."""
    return False


def _chunk(data: bytes) -> dict[str, Any]:
    """Raises: BackendBroken: it is not a JSON object."""
    try:
        chunk = msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise BackendBroken("an event is not JSON", cause="invalid_response") from exc
    if not isinstance(chunk, dict):
        raise BackendBroken("an event is not a JSON object", cause="invalid_response")
    return chunk
