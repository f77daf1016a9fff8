"""`POST /v1/feedback`: a judgement on an answer, kept beside its record in the traffic log.

    {"decision_id": "...", "score": 0.0 to 1.0, "label": "...", "correction": "...", "source": "human"}

`decision_id` is the header `x-router-decision-id` of the answer; at least one of score, label and correction is there.
A 200 comes when the operating system has the judgement, by the same group commit as decision records.

Consent: the strictest of `log.capture`, the judged request (its `train` and `store: false`) and the header
`x-router-train` of the feedback itself wins. Below `full` no text is kept, and label and correction are texts: only a
score stays. Under `none` nothing does. The answer says what was kept; a 409 that nothing was. The level of a request is
part of its id (router/decision_ids.py), and so is the model whose quality a score is counted for; whoever reads the log
applies the same rule once more (policies/quality/judgements.py), and that the judgement's tenant is the record's.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Annotated

import msgspec
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from starlette.requests import ClientDisconnect

from policies.record import CAPTURE_LEVELS, SCHEMA_VERSION, CaptureLevel, FeedbackRecord, encode, strictest
from router.decision_ids import level_of, route_of
from router.errors import BodyTooLarge, InvalidRequest, Overloaded, UnsupportedEncoding

if TYPE_CHECKING:
    from router.app import Parts

MAX_BODY_BYTES = 2**20
MAX_LABEL_CHARS = 1_000
MAX_CORRECTION_CHARS = 200_000
TEXTS = ("label", "correction")


class Feedback(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The body."""

    decision_id: Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{32}\Z")]
    score: Annotated[float, msgspec.Meta(ge=0.0, le=1.0)] | None = None
    label: Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_LABEL_CHARS)] | None = None
    correction: Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_CORRECTION_CHARS)] | None = None
    source: Annotated[str, msgspec.Meta(pattern=r"^[a-z][a-z0-9_.-]{0,63}\Z")] | None = None

    def given(self) -> list[str]:
        """The kinds of judgement in it."""
        values = {"score": self.score, "label": self.label, "correction": self.correction}
        return [kind for kind, value in values.items() if value is not None]


_decode = msgspec.json.Decoder(Feedback).decode


def add_feedback(app: FastAPI, parts: Parts) -> None:
    """Register the endpoint."""
    server, log, metrics = parts.config.server, parts.log, parts.metrics
    configured: CaptureLevel = parts.config.log.capture if log is not None else "none"

    @app.post("/v1/feedback")
    async def feedback(request: Request) -> Response:
        """Take a judgement."""
        tenant = parts.admission.identify(request.headers.raw, "feedback").tenant
        asked = _asked_level(request)
        try:
            async with asyncio.timeout(server.body_timeout_s):
                judgement = parse(await _body(request, min(MAX_BODY_BYTES, server.max_body_bytes)))
        except TimeoutError as exc:
            late = InvalidRequest("The body did not arrive within server.body_timeout_s.", code="body_timeout")
            late.status = 408
            raise late from exc
        except ClientDisconnect:
            return Response(status_code=499)  # nobody receives it
        level = strictest(configured, tenant.capture, asked, level_of(judgement.decision_id))
        kept = [kind for kind in judgement.given() if _may_keep(kind, level)]
        if log is None or not kept:
            raise _not_kept(level)
        record = FeedbackRecord(
            schema=SCHEMA_VERSION,
            decision_id=judgement.decision_id,
            created_s=time.time(),
            tenant=tenant.name,
            score=judgement.score if "score" in kept else None,
            label=judgement.label if "label" in kept else None,
            correction=judgement.correction if "correction" in kept else None,
            source=judgement.source or "",
        )
        if not await log.append(encode(record)):
            raise Overloaded(
                "The traffic log did not take the judgement in time; send it again.", retry_after_s=server.retry_after_s
            )
        metrics.observe_feedback(kept)
        route = route_of(judgement.decision_id)
        if parts.recent_feedback.add(record) and route is not None and record.score is not None:
            metrics.observe_score(route, "feedback", record.score)
        dropped = [kind for kind in judgement.given() if kind not in kept]
        return JSONResponse({"decision_id": judgement.decision_id, "kept": kept, "dropped": dropped})


def parse(data: bytes) -> Feedback:
    """Raises: InvalidRequest: `param` names the field."""
    try:
        judgement = _decode(data)
    except msgspec.ValidationError as exc:
        message, _, place = str(exc).partition(" - at `$")
        param = place.strip(".`") or None
        raise InvalidRequest(f"{param or 'The body'}: {message}.", param=param) from exc
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise InvalidRequest(f"The body is not valid JSON: {exc}.", code="invalid_json") from exc
    if not judgement.given():
        raise InvalidRequest("Give at least one of score, label and correction.", param="score")
    return judgement


async def _body(request: Request, limit_bytes: int) -> bytes:
    """Raises: UnsupportedEncoding, BodyTooLarge, ClientDisconnect."""
    if request.headers.get("content-encoding", "identity") != "identity":
        raise UnsupportedEncoding("Send the body uncompressed: content-encoding is not supported.")
    data = bytearray()
    async for chunk in request.stream():
        data += chunk
        if len(data) > limit_bytes:
            raise BodyTooLarge(limit_bytes)
    return bytes(data)


def _may_keep(kind: str, level: CaptureLevel) -> bool:
    return level == "full" or (level == "metadata" and kind not in TEXTS)


def _asked_level(request: Request) -> CaptureLevel:
    asked = request.headers.get("x-router-train", "full").strip()
    for level in CAPTURE_LEVELS:
        if asked == level:
            return level
    raise InvalidRequest("x-router-train must be none, metadata or full.", param="x-router-train")


def _not_kept(level: CaptureLevel) -> InvalidRequest:
    error = InvalidRequest(
        "Nothing was kept: nothing about this request is logged."
        if level == "none"
        else "Nothing was kept: the request was captured below `full`, and of such ones only a score is kept.",
        code="not_captured",
    )
    error.status = 409
    return error
