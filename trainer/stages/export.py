"""Export: the answers of the traffic log that may be learned from, as far as the log itself can say.

Only real traffic that went well, captured in full, with its answer. Corrections and labels come from the feedback.
Whether the teacher's licence allows it is for the next stage to say.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from pathlib import Path

import msgspec

from policies.quality.judgements import Judgement, Judgements
from policies.record import DecisionRecord, FeedbackRecord
from policies.traffic.reader import TrafficError, decisions, read
from trainer import snapshot
from trainer.recipe import ExportOptions, Recipe
from trainer.run_folder import run_folder_of
from trainer.similarity.texts import NotText, turns_of
from trainer.stage import Json, StageContext, StageError, Summary
from trainer.tables import Example, Filter

MAX_REQUEST_CHARS = 4_000_000
"""More is no request to learn from, whatever quality.max_prompt_chars says; it must not fill the memory either."""
MAX_CONTROL_SHARE = 0.01
PROGRESS_ROWS = 500
PEOPLE = frozenset({"", "human", "user"})
"""Sources of feedback whose corrections are a person's own; unstated counts as the person who sent it."""
CHAT_ENDPOINTS = ("/chat/completions", "/messages", "/responses")
"""Endpoints whose requests are in the log as chat, whatever the client's form was."""
FIXES = {
    "capture": 'log.capture = "full" in the gateway\'s configuration',
    "route": "export.routes",
    "student_uncorrected": "send people's corrections to /v1/feedback",
    "not_newest": "export.max_records",
    "purpose": "only purpose `traffic` may be learned from",
}


class _Unfit(Exception):
    """A record that is not exported; the message is the cause."""

    def __init__(self, cause: str, detail: str = "") -> None:
        super().__init__(cause)
        self.cause = cause
        self.detail = detail


class Export:
    name = "export"
    needs: tuple[str, ...] = ()
    version = 2

    def pin(self, recipe: Recipe, folder: Path, *, renew: bool) -> None:
        snapshot.pin(recipe, folder, renew=renew)

    def key(self, recipe: Recipe) -> Json:
        options = recipe.export
        pinned = snapshot.key(snapshot.read(run_folder_of(recipe)))
        return {
            "snapshot": pinned, "where": options.where, "routes": list(options.routes),
            "max_records": options.max_records,
        }  # fmt: skip

    def run(self, context: StageContext) -> Summary:
        options = context.recipe.export
        run_folder = run_folder_of(context.recipe)
        pinned = snapshot.read(run_folder)
        if pinned is None:
            raise StageError(f"{run_folder / snapshot.FOLDER} is gone; run with --from export")
        folder = run_folder / snapshot.FOLDER
        try:
            judged, damaged, refused = _judged(folder)
            newest = None if options.max_records is None else _newest(folder, options, judged)
            with Filter(context.folder) as table:
                for done, record in enumerate(_records(folder, options.where)):
                    if done % PROGRESS_ROWS == 0:
                        context.progress(done, None, "records")
                    try:
                        example = _example(record, judged.of(record), options.routes)
                    except _Unfit as exc:
                        table.drop(record.decision_id, exc.cause, exc.detail)
                        continue
                    if newest is None or record.decision_id in newest:
                        table.keep(example)
                    else:
                        table.drop(record.decision_id, "not_newest")
        except TrafficError as exc:
            raise StageError(f"export.log_dir: {exc}") from exc
        if not table.rows_out and not table.causes:
            raise StageError(
                f"export.where: no record of {options.log_dir} fits {options.where!r}" if options.where
                else f"export.log_dir: {options.log_dir} has no readable decision record"
            )  # fmt: skip
        alarms: list[Json] = []
        if damaged:
            alarms.append(f"{damaged} lines of the log are damaged: see locum log verify {options.log_dir}")
        if refused:
            alarms.append(
                f"{refused} corrections are not a person's own (their source is none of "
                f"{', '.join(sorted(filter(None, PEOPLE)))}) and are left out"
            )
        return table.summary(
            FIXES, log_dir=options.log_dir, log_files=len(pinned.files), snapshot=pinned.digest,
            snapshot_taken_s=pinned.taken_s, evaluation_sha256=pinned.evaluation_sha256, judged=len(judged),
            damaged_lines=damaged, alarms=alarms,
        )  # fmt: skip


def _judged(folder: Path) -> tuple[Judgements, int, int]:
    """All feedback, how many lines of the log cannot be read, and how many corrections no person wrote.

    A correction is learned as it stands, without licence flag, judge or filter, because a person wrote it; what a judge
    or another model proposes is none.
    """
    judged = Judgements()
    refused = 0
    reading = read(folder)
    for record in reading:
        if not isinstance(record, FeedbackRecord):
            continue
        if record.correction is not None and record.source not in PEOPLE:
            refused += 1
            record = msgspec.structs.replace(record, correction=None)  # noqa: PLW2901 - the rest of it counts
        judged.add(record)
    return judged, len(reading.damage), refused


def _newest(folder: Path, options: ExportOptions, judged: Judgements) -> set[str]:
    """The ids of the newest `max_records` that fit."""
    heap: list[tuple[float, str]] = []
    for record in _records(folder, options.where):
        try:
            _example(record, judged.of(record), options.routes)
        except _Unfit:
            continue
        heapq.heappush(heap, (record.created_s, record.decision_id))
        if len(heap) > (options.max_records or 0):
            heapq.heappop(heap)
    return {decision_id for _, decision_id in heap}


def _records(folder: Path, where: str | None) -> Iterator[DecisionRecord]:
    if where is None:
        yield from decisions(folder)
        return
    from policies.traffic.sql import QueryError, open_log  # noqa: PLC0415 - DuckDB is heavy and seldom needed

    try:
        with open_log(folder) as log:
            yield from log.decisions(where)
    except QueryError as exc:
        raise StageError(f"export.where: {exc}") from exc


def _example(record: DecisionRecord, judgement: Judgement | None, routes: tuple[str, ...]) -> Example:
    """The example that a record makes. Raises: _Unfit."""
    correction = None if judgement is None else judgement.correction
    _check_record(record, correction, routes)
    assert record.request is not None and record.completion is not None and record.route is not None  # noqa: S101
    messages = _messages(record.request)
    for text in (messages, record.completion, correction or ""):
        if is_binary(text):
            raise _Unfit("binary")
    return Example(
        decision_id=record.decision_id, created_s=record.created_s, tenant=record.tenant, session=record.session,
        tags=msgspec.json.encode(record.tags, order="sorted").decode(), route=record.route, teacher=record.teacher,
        fingerprint=record.backend_fingerprint, distillation=record.distillation, messages=messages,
        completion=record.completion, finish_reason=record.finish_reason, correction=correction,
        label=None if judgement is None else judgement.label,
        prompt_ids=None if record.token_ids is None else list(record.token_ids.prompt),
        completion_ids=None if record.token_ids is None else list(record.token_ids.completion),
    )  # fmt: skip


def _check_record(record: DecisionRecord, correction: str | None, routes: tuple[str, ...]) -> None:
    if record.purpose != "traffic":
        raise _Unfit("purpose", record.purpose)
    if record.outcome != "ok":
        raise _Unfit("outcome", record.outcome)
    if record.capture != "full":
        raise _Unfit("capture", record.capture)
    if not record.endpoint.endswith(CHAT_ENDPOINTS):
        raise _Unfit("endpoint", record.endpoint)
    if record.route not in routes:
        raise _Unfit("route", str(record.route))
    if record.route == "student" and correction is None:
        raise _Unfit("student_uncorrected")
    if record.request is None or record.completion is None:
        raise _Unfit("no_completion" if record.request is not None else "no_request")
    if len(record.request) > MAX_REQUEST_CHARS or len(record.completion) > MAX_REQUEST_CHARS:
        raise _Unfit("huge", f"{len(record.request)} + {len(record.completion)} characters")


def _messages(request: str) -> str:
    """The JSON text of the request's messages, without the fields that are not OpenAI's own."""
    try:
        body = msgspec.json.decode(request)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as exc:
        raise _Unfit("bad_request", type(exc).__name__) from exc
    if not isinstance(body, dict):
        raise _Unfit("bad_request", "no object")
    if body.get("tools") or body.get("functions"):
        raise _Unfit("tools")
    if body.get("n") not in (None, 1):
        raise _Unfit("several_choices")
    try:
        turns_of(body.get("messages"))
        text = msgspec.json.encode(body["messages"]).decode()
        text.encode()
    except NotText as exc:
        raise _Unfit(str(exc)) from exc
    except UnicodeError as exc:
        raise _Unfit("binary", "lone surrogates") from exc
    return text


def is_binary(text: str) -> bool:
    """Whether it is no text: a NUL, a lone surrogate, or many control and replacement characters."""
    if "\0" in text or "\\u0000" in text:
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return True
    odd = sum(text.count(mark) for mark in _ODD) + sum(text.count(mark) for mark in _ODD_ESCAPED)
    return odd > MAX_CONTROL_SHARE * max(len(text), 1)


_ODD = tuple(chr(code) for code in (*range(1, 9), 11, *range(14, 32), 127, 0xFFFD))
_ODD_ESCAPED = tuple(f"\\u{code:04x}" for code in (*range(1, 9), 11, *range(14, 32)))
"""As they stand in the JSON text of the messages."""

STAGE = Export()
