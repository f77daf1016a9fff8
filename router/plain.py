"""One plain answer of one backend: asked for with our additions, checked, and given on without their traces."""

from __future__ import annotations

import json
import logging
from typing import NamedTuple

from router.additions import NOTHING, Additions, without
from router.answers import Meaning
from router.backends import Answer, Backend
from router.chat import ChatRequest
from router.dialects.base import Translation
from router.errors import BackendBroken, BackendTimeout
from router.http_client import Headers
from router.time_limit import TimeLimit

logger = logging.getLogger(__name__)

REFUSALS_OF_OPTIONS = (400, 422)


class Reply(NamedTuple):
    """A whole answer, as the client may see it."""

    backend: Backend
    answer: Answer
    body: bytes
    meaning: Meaning | None
    """None for a refusal of the request (4xx), which belongs to the client as it is."""

    @property
    def is_refusal(self) -> bool:
        return self.meaning is None


async def fetch(
    backend: Backend,
    request: ChatRequest,
    headers: Headers,
    added: Additions,
    *,
    detailed: bool,
    limit_bytes: int,
    limit_s: float,
) -> Reply:
    """Call a backend once. Raises: BackendError: another backend may do better.

    Args:
        detailed: whether more than the text and the usage is wanted, added or not.
    """
    asked = request.outgoing(backend.config, added)
    try:
        with TimeLimit(limit_s):
            answer = await backend.post(asked.api.path, asked.body, headers)
            try:
                body = await answer.body(limit_bytes)
            finally:
                answer.close()
    except TimeoutError as exc:
        raise BackendTimeout(f"no answer within {limit_s:g} s", cause="timeout") from exc
    if answer.status >= 400:
        if answer.status in REFUSALS_OF_OPTIONS and added != NOTHING:
            # It may not know what we added. No request fails for that; if it was the client's doing, the client gets
            # the refusal of its own request.
            logger.info("the %s refused a request with %s; asking without", backend.route, ", ".join(added.options()))
            return await fetch(
                backend, request, headers, NOTHING, detailed=detailed, limit_bytes=limit_bytes, limit_s=limit_s
            )
        return Reply(backend, answer, body, None)
    meaning = asked.api.meaning_of(body, detailed=detailed)
    if meaning is None:
        raise BackendBroken("the answer is not one of its API", cause="invalid_response")
    if added != NOTHING:
        try:
            body = without(body, added)
        except (ValueError, RecursionError) as exc:
            raise BackendBroken("the answer is not a chat completion", cause="invalid_response") from exc
    if asked.translation is not None:
        body = _translated(asked.translation, body)
    return Reply(backend, answer, body, meaning)


def _translated(translation: Translation, body: bytes) -> bytes:
    """Raises: BackendBroken."""
    try:
        answer = json.loads(body)  # takes lone surrogates, which msgspec does not
    except (ValueError, RecursionError) as exc:
        raise BackendBroken("the answer is not JSON", cause="invalid_response") from exc
    return translation.plain(answer)
