"""Cases about upstreams that fail."""

from __future__ import annotations

from loadtests.faults import judge_processes as processes
from loadtests.faults import judge_streams as streams
from loadtests.faults.judging import Case

ERROR_THEN_CLOSE = "an error event with message, type and code, then the close; no `[DONE]`"
SECOND_ANSWERS = "the second upstream's whole answer"

BREAKING: tuple[Case, ...] = (
    Case(
        name="reset-mid-stream",
        title="Upstream resets in mid-stream",
        upstream="fault-reset-mid-3",
        must=ERROR_THEN_CLOSE,
        judge=streams.breaks_off,
    ),
    Case(
        name="closed-mid-stream",
        title="Upstream closes in mid-stream",
        upstream="fault-truncate-3",
        must=ERROR_THEN_CLOSE,
        judge=streams.breaks_off,
    ),
    Case(
        name="no-finish-reason",
        title="Upstream ends the body without a finish_reason",
        upstream="fault-cut-3",
        must=ERROR_THEN_CLOSE,
        judge=streams.breaks_off,
    ),
    Case(
        name="choice-lost",
        title="Of two choices one never finishes",
        upstream="fault-lost-choice",
        must=ERROR_THEN_CLOSE,
        judge=streams.breaks_off_before_all_choices_finished,
    ),
    Case(
        name="error-mid-stream",
        title="Error event in mid-stream, then `[DONE]`",
        upstream="fault-error-frame-mid-3",
        must=ERROR_THEN_CLOSE,
        judge=streams.breaks_off,
    ),
    Case(
        name="silence-mid-stream",
        title="Upstream falls silent in mid-stream",
        upstream="fault-hang-mid-3",
        must=f"after the configured idle time {ERROR_THEN_CLOSE}; the upstream call is cancelled",
        judge=streams.breaks_off_in_silence,
    ),
    Case(
        name="endless-event",
        title="Upstream sends an event that never ends",
        upstream="fault-endless-event-3",
        must=f"{ERROR_THEN_CLOSE}; memory stays bounded",
        judge=streams.breaks_off_without_buffering,
        ends_process=True,
    ),
    Case(
        name="done-missing",
        title="Upstream forgets `[DONE]` after its finish_reason",
        upstream="fault-no-done",
        must="the stream is completed with `[DONE]`",
        judge=streams.completes_stream,
    ),
)

BEFORE_THE_FIRST_BYTE: tuple[Case, ...] = (
    Case(
        name="status-500",
        title="First upstream answers 500",
        upstream="fault-500",
        must=SECOND_ANSWERS,
        judge=streams.falls_back,
        setting="pair",
    ),
    Case(
        name="status-500-stream",
        title="First upstream answers a stream with 500",
        upstream="fault-500",
        must=SECOND_ANSWERS,
        judge=streams.falls_back_in_stream,
        setting="pair",
    ),
    Case(
        name="error-first-event",
        title="Error inside an HTTP-200 stream, as its first event",
        upstream="fault-error-frame",
        must=f"the first event is looked at before anything is sent: {SECOND_ANSWERS}",
        judge=streams.falls_back_in_stream,
        setting="pair",
    ),
    Case(
        name="empty-stream",
        title="HTTP 200 and a stream without an event",
        upstream="fault-empty-stream",
        must=SECOND_ANSWERS,
        judge=streams.falls_back_in_stream,
        setting="pair",
    ),
    Case(
        name="key-refused",
        title="First upstream refuses the gateway's key, its `error` a string",
        upstream="fault-401-string",
        must=SECOND_ANSWERS,
        judge=streams.falls_back_in_stream,
        setting="pair",
    ),
    Case(
        name="html-200",
        title="HTTP 200 with an HTML page",
        upstream="fault-html",
        must=SECOND_ANSWERS,
        judge=streams.falls_back,
        setting="pair",
    ),
    Case(
        name="html-200-stream",
        title="HTTP 200 with an HTML page instead of a stream",
        upstream="fault-html",
        must=SECOND_ANSWERS,
        judge=streams.falls_back_in_stream,
        setting="pair",
    ),
    Case(
        name="reset-first-byte",
        title="Reset before the first byte",
        upstream="fault-reset",
        must=SECOND_ANSWERS,
        judge=streams.falls_back_in_stream,
        setting="pair",
    ),
    Case(
        name="plain-cut",
        title="A plain answer breaks off in its middle",
        upstream="fault-truncate-3",
        must=SECOND_ANSWERS,
        judge=streams.falls_back,
        setting="pair",
    ),
    Case(
        name="silence-first-byte",
        title="First upstream is silent",
        upstream="fault-hang",
        must=f"after the configured time {SECOND_ANSWERS}",
        judge=streams.falls_back_in_stream,
        setting="pair",
    ),
    Case(
        name="never-mixed",
        title="First upstream breaks after its text began; a second one could go on",
        upstream="fault-reset-mid-3",
        must="an error event; never text of both",
        judge=streams.never_mixes,
        setting="pair",
    ),
    Case(
        name="rejected-draft",
        title="A plain draft is rejected",
        upstream="fake-echo-logprob-4.5-finish-length",
        must="the client sees one answer only, the second upstream's",
        judge=streams.shows_second_answer,
        setting="cascade",
    ),
    Case(
        name="rejected-draft-stream",
        title="A streamed draft is rejected",
        upstream="fake-echo-logprob-4.5-finish-length",
        must="the client sees one answer only, the second upstream's",
        judge=streams.shows_one_answer,
        setting="cascade",
    ),
    Case(
        name="retry-after",
        title="Upstream answers 429 with Retry-After",
        upstream="fault-429-retry-after-7",
        must="429 (or 503) with that Retry-After, as a JSON error",
        judge=streams.tells_when_to_retry,
    ),
    Case(
        name="html-502",
        title="Upstream answers 502 with an HTML page",
        upstream="fault-502-html",
        must="a 5xx with a JSON error",
        judge=streams.fails_as_json,
    ),
    Case(
        name="html-200-alone",
        title="The only upstream answers 200 with an HTML page",
        upstream="fault-html",
        must="a 5xx with a JSON error",
        judge=streams.fails_as_json,
    ),
    Case(
        name="context-overflow",
        title="Upstream refuses a request that is too long",
        upstream="fault-400-context",
        must="400 with the upstream's message",
        judge=streams.passes_refusal_on,
    ),
    Case(
        name="dead-replica",
        title="First upstream accepts requests and never answers",
        upstream="fault-hang",
        must="every request is answered by the second; soon the first is left alone; well again, it is used again",
        judge=processes.ejects,
        setting="replicas",
        ends_process=True,
    ),
)
