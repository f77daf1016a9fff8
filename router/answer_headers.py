"""The headers of responses: what the router says of an answer, and what it passes on of the backend's own."""

from __future__ import annotations

from functools import lru_cache

import msgspec

from router.backends import Answer, Backend
from router.exchange import Exchange
from router.http_client import Headers
from router.request_state import RequestState


def forwarded_headers(exchange: Exchange, state: RequestState, backend: Backend) -> Headers:
    """The client's, of which the backend's own code picks; with the context of our trace, where there is one."""
    return exchange.headers if state.trace is None else state.trace.forwarded(exchange.headers, backend)


def answer_headers(state: RequestState, answer: Answer | None = None) -> Headers:
    """The `x-router-*` headers of every response, and what of the backend's headers is passed on."""
    generation, evaluation = state.generation, state.evaluation
    headers = [
        (b"x-router-route", _header_name(state.route or "none")),
        (b"x-router-reason", _header_name(state.reason)),
        (b"x-router-decision-id", state.decision_id.encode()),
        (b"x-router-policy", _header_name(state.policy)),
        (b"x-router-policy-version", _header_name(generation.decider.version)),
        (b"x-router-student", _header_name(generation.bundle_id)),
    ]
    if state.degraded is not None:
        headers.append((b"x-router-degraded", state.degraded.encode()))
    if state.cache_key is not None:
        headers.append((b"x-router-cache", b"miss" if state.cached is None else b"hit"))
    if evaluation and state.request and state.request.directives.explain:
        explained = {"decision": evaluation.decision, "votes": evaluation.votes}
        if state.draft is not None:
            explained["review"] = state.draft.review
        headers.append((b"x-router-explain", _header_text(msgspec.json.encode(explained).decode())))
    limits = state.permit.headers if state.permit is not None else []
    if answer is not None:
        headers += answer.headers if not limits else [h for h in answer.headers if not h[0].startswith(b"x-ratelimit-")]
        headers.append((b"content-type", answer.content_type))
    return headers + limits


def stream_head(state: RequestState) -> Headers:
    """The head of a stream whose answer has not begun: who will answer is not known yet."""
    headers = [header for header in answer_headers(state) if header[0] != b"x-router-route"]
    more = [(b"x-router-route", b"pending"), (b"content-type", b"text/event-stream"), (b"cache-control", b"no-cache")]
    return headers + more


@lru_cache(maxsize=1024)
def _header_name(text: str) -> bytes:
    """`_header_text` for the closed sets of routes, reasons and policies."""
    return _header_text(text)


def _header_text(text: str) -> bytes:
    """Names come from plug-ins and configuration: nothing but printable ASCII gets into a header."""
    return bytes(byte if 32 <= byte < 127 else 63 for byte in text.encode("ascii", "replace"))
