"""`/admin/decisions`: what was decided, newest first, and one decision with everything that is known about it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import msgspec
from fastapi import FastAPI, Request
from fastapi.responses import Response

from policies.quality.judgements import Judgements
from policies.record import AnyRecord, DecisionRecord, FeedbackRecord, ShadowRecord
from policies.traffic.reader import TrafficError
from router.admin.administration import Administration
from router.admin.compacted_days import ExtraMissing
from router.admin.decision_pages import Decided, DecisionLog, Position, Row, Wanted
from router.admin.policy import answer, in_query
from router.errors import InvalidRequest

DEFAULT_LIMIT = 50
MAX_LIMIT = 500
MAX_FILTER_CHARS = 200
MAX_TEXT_CHARS = 100_000
"""Of each text that is shown."""

T = TypeVar("T")


class DecisionEndpoints:
    """Reads the traffic log, one reader at a time: the gateway has other work."""

    def __init__(self, admin: Administration, log_dir: str, *, show_texts: bool) -> None:
        """
        Args:
            log_dir: `log.dir`; empty without a log.
            show_texts: whether an admin key may read what people asked and were answered.
        """
        self._admin = admin
        self._log = DecisionLog(Path(log_dir)) if log_dir else None
        self._show_texts = show_texts
        self._one = asyncio.Lock()

    def add_to(self, app: FastAPI) -> None:
        app.add_api_route("/admin/decisions", self.list, methods=["GET"])
        app.add_api_route("/admin/decisions/{id}", self.get, methods=["GET"])

    async def list(self, request: Request) -> Response:
        """A page of them; `next_cursor` leads to the next one, also where a filter found little in the time."""
        await self._admin.door.enter(request)
        log = self._opened()
        limit = max(1, min(in_query(request, "limit", default=DEFAULT_LIMIT), MAX_LIMIT))
        after = _position(request, "cursor")
        wanted = wanted_by(request.query_params.get, with_texts=self._show_texts)
        page = await self._read(lambda: log.page(wanted, limit=limit, after=after))
        return answer({**msgspec.to_builtins(page), "texts_searched": self._show_texts})

    async def get(self, request: Request) -> Response:
        """One, with its votes, judgements and shadow answers. `position`, from the list, finds it at once."""
        actor = await self._admin.door.enter(request)
        log = self._opened()
        position = _position(request, "position")
        decision_id = request.path_params["id"][:64]
        decided = await self._read(lambda: log.find(decision_id, position))
        if decided is None:
            missing = InvalidRequest(f"There is no decision {decision_id} in the log.", code="decision_not_found")
            missing.status = 404
            raise missing
        shown = self._show_texts and decided.record.capture == "full"
        if shown:
            await self._admin.can_write_down()
            await self._admin.write_down(actor, "decision.read_texts", "ok", detail=decided.record.decision_id)
        return answer(described(decided, with_texts=shown))

    async def _read(self, read: Callable[[], T]) -> T:
        """Raises: InvalidRequest: 501 without the extra, 503 where the log cannot be read."""
        try:
            async with self._one:
                return await asyncio.to_thread(read)
        except (TrafficError, OSError) as exc:
            failed = InvalidRequest(str(exc), code="log_unreadable")
            failed.status = 503
            if isinstance(exc, ExtraMissing):
                failed.status, failed.code = 501, "extra_missing"
            raise failed from exc

    def _opened(self) -> DecisionLog:
        if self._log is None:
            missing = InvalidRequest('The configuration has no traffic log: log.dir is "".', code="no_log")
            missing.status = 404
            raise missing
        return self._log


def _position(request: Request, name: str) -> Position | None:
    """Raises: InvalidRequest."""
    text = request.query_params.get(name)
    try:
        return Position.decoded(text) if text else None
    except ValueError as exc:
        raise InvalidRequest(f"{name}: {exc}; take it from an answer of this endpoint.", param=name) from exc


class _Texts(msgspec.Struct):
    """The texts that a search looks into."""

    class Features(msgspec.Struct):
        last_user_turn: str = ""

    features: Features = msgspec.field(default_factory=Features)
    completion: str | None = None


_texts = msgspec.json.Decoder(_Texts).decode


def wanted_by(query: Callable[[str], str | None], *, with_texts: bool) -> Wanted:
    """What the filters of a query hold for: route, policy, reason, outcome, tag (`key` or `key=value`) and q, a part
    of an id, tenant, session, model, tag or, where they may be read, of a text."""
    exact = {name: value for name in ("route", "policy", "reason", "outcome") if (value := (query(name) or "").strip())}
    tag, _, tag_value = (query("tag") or "")[:MAX_FILTER_CHARS].partition("=")
    part = (query("q") or "").strip()[:MAX_FILTER_CHARS].casefold()

    def wanted(row: Row, payload: bytes) -> bool:
        if any(value != (getattr(row, name) or "none") for name, value in exact.items()):
            return False
        if tag and (tag not in row.tags or (tag_value and row.tags[tag] != tag_value)):
            return False
        return not part or part in _names(row) or (with_texts and _in_texts(part, payload))

    return wanted


def _names(row: Row) -> str:
    names = (row.decision_id, row.tenant, row.session or "", row.requested_model, row.error_code or "", row.student)
    return "\n".join((*names, *row.tags.values())).casefold()


def _in_texts(part: str, payload: bytes) -> bool:
    try:
        texts = _texts(payload)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return False
    return part in texts.features.last_user_turn.casefold() or part in (texts.completion or "").casefold()


def described(decided: Decided, *, with_texts: bool) -> dict[str, Any]:
    """The JSON of a decision. Without texts: nothing that a person wrote or was answered."""
    record = decided.record
    judgements = Judgements()
    for annotation in decided.annotations:
        if isinstance(annotation, FeedbackRecord):
            judgements.add(annotation)
    judgement = judgements.of(record)
    shown: list[AnyRecord] = [_without_texts(each) if not with_texts else each for each in decided.annotations]
    texts = "not_captured" if record.capture != "full" else "shown" if with_texts else "hidden"
    return {
        "record": _bounded(msgspec.to_builtins(_without_texts(record) if not with_texts else _without_ids(record))),
        "score": judgement.score if judgement is not None else None,
        "feedback": [_bounded(msgspec.to_builtins(each)) for each in shown if isinstance(each, FeedbackRecord)],
        "shadows": [_bounded(msgspec.to_builtins(each)) for each in shown if isinstance(each, ShadowRecord)],
        "complete": decided.complete,
        "texts": texts,
    }


def _without_ids(record: DecisionRecord) -> DecisionRecord:
    return msgspec.structs.replace(record, token_ids=None)


def _without_texts(record: AnyRecord) -> AnyRecord:
    match record:
        case FeedbackRecord():
            return msgspec.structs.replace(record, label=None, correction=None)
        case ShadowRecord():
            return msgspec.structs.replace(record, completion=None)
    features, draft = record.features, record.draft
    if features is not None:
        chunks = tuple(msgspec.structs.replace(chunk, text="", id=None) for chunk in features.chunks)
        features = msgspec.structs.replace(features, last_user_turn="", chunks=chunks)
    if draft is not None:
        draft = msgspec.structs.replace(draft, text=None)
    return msgspec.structs.replace(
        record, request=None, completion=None, token_ids=None, features=features, draft=draft
    )


def _bounded(value: Any) -> Any:
    """Long texts end in a note."""
    if isinstance(value, str) and len(value) > MAX_TEXT_CHARS:
        return f"{value[:MAX_TEXT_CHARS]}\n... {len(value) - MAX_TEXT_CHARS:,} more characters"
    if isinstance(value, dict):
        return {key: _bounded(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_bounded(each) for each in value]
    return value
