"""Cases about clients, about what is passed on, and about the gateway's process."""

from __future__ import annotations

from loadtests.faults import judge_clients as clients
from loadtests.faults import judge_fidelity as fidelity
from loadtests.faults import judge_processes as processes
from loadtests.faults import judge_streams as streams
from loadtests.faults.judging import Case

CANCELLED = "the upstream call is cancelled at once"

CLIENTS: tuple[Case, ...] = (
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
        upstream="fake-delay-1.5",
        must="it gets its answer, or the upstream call is cancelled",
        judge=clients.answers_half_closed,
    ),
    Case(
        name="stops-reading",
        title=f"{clients.STUCK_CLIENTS} clients stop reading long streams",
        upstream="fake-tokens-60-wide-350000",
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
        must="400 with a JSON error that gives the position",
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

FIDELITY: tuple[Case, ...] = (
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
        name="large-events",
        title="Events of a megabyte",
        upstream="fake-tokens-4-wide-1000000",
        must="the answer, plain and stream",
        judge=streams.completes,
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
        must="no other client gets it, nor an error",
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

PROCESS: tuple[Case, ...] = (
    Case(
        name="sigterm",
        title="SIGTERM during a stream",
        upstream="fake-tokens-30-gap-0.05",
        must="the stream is finished, new work refused, the process ends",
        judge=processes.drains,
        ends_process=True,
    ),
)
