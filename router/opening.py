"""One stream of one backend, up to its first event: asked for with our additions, and checked."""

from __future__ import annotations

import logging
from typing import NamedTuple

from router.additions import NOTHING, Additions
from router.backends import Answer, Backend
from router.chat import ChatRequest
from router.dialects.base import Dialect, Outgoing
from router.draft_stream import DraftStream
from router.errors import BackendBroken, BackendTimeout
from router.http_client import Headers
from router.plain import REFUSALS_OF_OPTIONS
from router.sse import FrameSplitter
from router.streaming import Stream
from router.time_limit import TimeLimit

logger = logging.getLogger(__name__)


class Opened(NamedTuple):
    """A stream at its first event, or a refusal of the request."""

    answer: Answer
    stream: Stream | None
    refusal: bytes = b""
    draft: DraftStream | None = None
    """The same stream, where it is to be reviewed before the client sees it."""

    @property
    def is_refusal(self) -> bool:
        return self.stream is None

    def close(self) -> None:
        self.answer.close()


async def open_stream(
    backend: Backend,
    request: ChatRequest,
    headers: Headers,
    *,
    dialect: Dialect,
    review: Additions | None,
    capture: bool,
    limit_bytes: int,
    limit_s: float,
) -> Opened:
    """Ask, and wait for the first event. Raises: BackendError, with nothing left open.

    Args:
        review: what the review of this stream has to ask for beside the answer; None: it is not reviewed.
        capture: keep the text for the record.
        limit_bytes: of a refusal.
    """
    added = review or NOTHING
    asked = request.outgoing(backend.config, added)
    answer: Answer | None = None
    try:
        with TimeLimit(limit_s):
            answer = await backend.post(asked.api.path, asked.body, headers)
            if answer.status in REFUSALS_OF_OPTIONS and added != NOTHING:
                logger.info(
                    "the %s refused a stream with %s; asking without", backend.route, ", ".join(added.options())
                )
                answer.close()
                added, asked = NOTHING, request.outgoing(backend.config)
                answer = await backend.post(asked.api.path, asked.body, headers)
            if answer.status >= 400:
                return Opened(answer, None, await answer.body(limit_bytes))
            if not answer.is_event_stream:
                raise BackendBroken("the answer is not an event stream", cause="invalid_response")
            if review is not None and asked.api.name == "chat":  # reviewers read nothing else
                draft = DraftStream(backend, answer, asked, dialect, hidden=added.logprobs, capture=capture)
                await draft.peek()
                return Opened(answer, draft, draft=draft)
            stream = Stream(backend, answer, asked, dialect, choices=request.choices, capture=capture)
            await stream.peek()
            return Opened(answer, stream)
    except BaseException as exc:
        _given_up(answer, exc, limit_s)
        raise


async def open_rest(
    backend: Backend,
    asked: Outgoing,
    headers: Headers,
    seam: FrameSplitter,
    *,
    dialect: Dialect,
    capture: bool,
    limit_bytes: int,
    limit_s: float,
) -> Opened:
    """Ask for the rest of an answer that another model began. Raises: BackendError, with nothing left open.

    Args:
        seam: makes its chunks those of the stream that they continue.
        capture, limit_bytes: as of `open_stream`.
    """
    answer: Answer | None = None
    try:
        with TimeLimit(limit_s):
            answer = await backend.post(asked.api.path, asked.body, headers)
            if answer.status >= 400:
                return Opened(answer, None, await answer.body(limit_bytes))
            if not answer.is_event_stream:
                raise BackendBroken("the answer is not an event stream", cause="invalid_response")
            stream = Stream(backend, answer, asked, dialect, choices=1, capture=capture, splitter=seam)
            await stream.peek()
            return Opened(answer, stream)
    except BaseException as exc:
        _given_up(answer, exc, limit_s)
        raise


def _given_up(answer: Answer | None, exc: BaseException, limit_s: float) -> None:
    """Raises: BackendTimeout."""
    if answer is not None:
        answer.close()
    if isinstance(exc, TimeoutError):
        raise BackendTimeout(f"no event within {limit_s:g} s", cause="timeout") from exc
