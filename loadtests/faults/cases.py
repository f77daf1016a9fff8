"""The table of faults: each row is a case, defined here once, run by the tests against Locum and by `make faults`
against every gateway that can be installed."""

from __future__ import annotations

from loadtests.faults import judge_clients as clients
from loadtests.faults import judge_fidelity as fidelity
from loadtests.faults import judge_processes as processes
from loadtests.faults import judge_streams as streams
from loadtests.faults.judging import Case

ERROR_THEN_CLOSE = "an error event with message, type and code, then the close; no `[DONE]`"
SECOND_ANSWERS = "the second upstream's whole answer"
CANCELLED = "the upstream call is cancelled at once"

_BREAKING = (
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
        must=f"after the configured idle time {ERROR_THEN_CLOSE}; {CANCELLED}",
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

_BEFORE_THE_FIRST_BYTE = (
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
        upstream="fake-logprob-4.5-finish-length",
        must="the client sees one answer only, the second upstream's",
        judge=streams.shows_second_answer,
        setting="cascade",
    ),
    Case(
        name="rejected-draft-stream",
        title="A streamed draft is rejected",
        upstream="fake-logprob-4.5-finish-length",
        must="the client sees one answer only, the second upstream's",
        judge=streams.shows_one_answer,
        setting="cascade",
    ),
    Case(
        name="retry-after",
        title="Upstream answers 429 with Retry-After",
        upstream="fault-429-retry-after-7",
        must="429 (or 503) with that Retry-After, as OpenAI's error JSON",
        judge=streams.tells_when_to_retry,
    ),
    Case(
        name="html-502",
        title="Upstream answers 502 with an HTML page",
        upstream="fault-502-html",
        must="a 5xx with OpenAI's error JSON",
        judge=streams.fails_as_json,
    ),
    Case(
        name="html-200-alone",
        title="The only upstream answers 200 with an HTML page",
        upstream="fault-html",
        must="a 5xx with OpenAI's error JSON",
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

_CLIENTS = (
    Case(
        name="leaves-mid-stream",
        title="Client leaves in mid-stream",
        upstream="fake-tokens-400-gap-0.1",
        must=CANCELLED,
        judge=clients.cancels_in_stream,
    ),
    Case(
        name="leaves-plain",
        title="Client leaves before its plain answer",
        upstream="fake-delay-30",
        must=CANCELLED,
        judge=clients.cancels_plain,
    ),
    Case(
        name="leaves-first-byte",
        title="Client leaves before a stream's first byte",
        upstream="fake-delay-30",
        must=CANCELLED,
        judge=clients.cancels_before_first_byte,
    ),
    Case(
        name="leaves-in-crowds",
        title=f"{clients.LEAVERS} clients leave at random moments",
        upstream="fake-delay-0.2-tokens-200-gap-0.1",
        must="no upstream call is left, and the next client is served",
        judge=clients.leaves_nothing_behind,
    ),
    Case(
        name="half-closed",
        title="Client closes only its sending side",
        upstream="fake-delay-0.5",
        must="it gets its answer, or the upstream call is cancelled",
        judge=clients.answers_half_closed,
    ),
    Case(
        name="stops-reading",
        title=f"{clients.STUCK_CLIENTS} clients stop reading long streams",
        upstream="fake-tokens-90-wide-350000",
        must="the upstream is held back, memory stays bounded",
        judge=clients.bounds_stuck_clients,
        ends_process=True,
    ),
    Case(
        name="http-1.0",
        title="HTTP/1.0 client",
        upstream="fake",
        must="a whole answer without chunks, plain and stream",
        judge=clients.serves_http_10,
    ),
    Case(
        name="request-trailers",
        title="Request body in chunks, with a trailer",
        upstream="fake",
        must="an answer",
        judge=clients.reads_trailers,
    ),
    Case(
        name="expect-continue",
        title="Client asks `Expect: 100-continue`",
        upstream="fake",
        must="100 Continue, then the answer",
        judge=clients.grants_continue,
    ),
    Case(
        name="pipelined",
        title="Pipelined requests",
        upstream="fake-echo",
        must="the answers, in their order",
        judge=clients.keeps_pipelined_order,
    ),
    Case(
        name="two-lengths",
        title="Content-Length and Transfer-Encoding together",
        upstream="fake",
        must="what hides behind the body never reaches the upstream",
        judge=clients.refuses_two_lengths,
    ),
    Case(
        name="invalid-json",
        title="Invalid JSON",
        upstream="fake",
        must="400 with OpenAI's error JSON that gives the position",
        judge=clients.points_at_bad_json,
    ),
    Case(
        name="many-streams",
        title="24 streams at once, each with its own text",
        upstream="fake-echo-gap-0.002",
        must="every client gets its own text and no other",
        judge=clients.keeps_streams_apart,
    ),
)

_FIDELITY = (
    Case(
        name="parameters",
        title="Sampling parameters, `stop`, `seed`, `response_format`",
        upstream="fake",
        must="all of them reach the upstream",
        judge=fidelity.keeps_parameters,
    ),
    Case(
        name="tools",
        title="Tools and how they are chosen",
        upstream="fake",
        must="all of it reaches the upstream",
        judge=fidelity.keeps_tools,
    ),
    Case(
        name="request-members",
        title="Unknown members of a request",
        upstream="fake",
        must="all of them reach the upstream",
        judge=fidelity.keeps_request_members,
    ),
    Case(
        name="request-bytes",
        title="The same, byte for byte",
        upstream="fake",
        must="numbers, escapes and spacing as the client wrote them",
        judge=fidelity.keeps_request_bytes,
    ),
    Case(
        name="answer-members",
        title="Unknown members of an answer",
        upstream="fake-extra",
        must="all of them reach the client, in a plain answer and in every chunk",
        judge=fidelity.keeps_answer_members,
    ),
    Case(
        name="answer-bytes",
        title="The same, byte for byte",
        upstream="fake-extra",
        must="numbers, escapes and spacing as the upstream wrote them",
        judge=fidelity.keeps_answer_bytes,
    ),
    Case(
        name="answer-id",
        title="The answer's id",
        upstream="fake",
        must="the upstream's, in a plain answer and in every chunk",
        judge=fidelity.keeps_answer_id,
    ),
    Case(
        name="usage-unasked",
        title="Usage in a stream that did not ask for it",
        upstream="fake",
        must="none, and no chunk without choices",
        judge=fidelity.hides_usage,
    ),
    Case(
        name="usage-asked",
        title="Usage in a stream that asked for it",
        upstream="fake-prompt-tokens-900",
        must="once, with the upstream's counts",
        judge=fidelity.reports_usage,
    ),
    Case(
        name="crlf",
        title="Stream lines end in CR LF",
        upstream="fake-echo-crlf",
        must="the text, unchanged, and `[DONE]`",
        judge=fidelity.echoes_text,
    ),
    Case(
        name="split-utf8",
        title="Chunks cut inside UTF-8 sequences and field names",
        upstream="fake-echo-split",
        must="the text, unchanged, and `[DONE]`",
        judge=fidelity.echoes_text,
    ),
    Case(
        name="heartbeats",
        title="Comment lines between events",
        upstream="fake-echo-heartbeat",
        must="the text, unchanged, and `[DONE]`",
        judge=fidelity.echoes_text,
    ),
    Case(
        name="interim-answers",
        title="100 and 103 answers before the answer",
        upstream="fake-hints",
        must="the answer, plain and stream",
        judge=streams.completes,
    ),
    Case(
        name="answer-trailers",
        title="Upstream's chunked body has a trailer",
        upstream="fake-trailers",
        must="the answer, plain and stream",
        judge=streams.completes,
    ),
    Case(
        name="unasked-answer",
        title="Upstream sends a second answer that nobody asked for",
        upstream="fake-surplus",
        must="no other client gets it",
        judge=fidelity.gives_nothing_unasked,
    ),
    Case(
        name="keep-alive-race",
        title="Upstream closes a kept-alive connection as a request comes",
        upstream="fault-close-times-1",
        must="asked again on a new connection: the answer",
        judge=fidelity.survives_closed_keep_alive,
    ),
)

_PROCESS = (
    Case(
        name="sigterm",
        title="SIGTERM during a stream",
        upstream="fake-tokens-30-gap-0.05",
        must="the stream is finished, new work refused, the process ends",
        judge=processes.drains,
        ends_process=True,
    ),
)

GROUPS: dict[str, tuple[Case, ...]] = {
    "The stream breaks": _BREAKING,
    "It fails before the first byte": _BEFORE_THE_FIRST_BYTE,
    "Clients": _CLIENTS,
    "Fidelity": _FIDELITY,
    "The process": _PROCESS,
}
CASES: tuple[Case, ...] = tuple(case for group in GROUPS.values() for case in group)
