"""From a received request to the reply that is to be played: which endpoint, which scenario, which bytes."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple
from urllib.parse import parse_qs

import msgspec

from loadtests.fake import messages, responses
from loadtests.fake.answers import FIXED_CREATED_S
from loadtests.fake.body import Body
from loadtests.fake.embeddings import EmbeddingBody, embeddings_answer
from loadtests.fake.reply import EVENT_STREAM, HEALTHY, Reply, engine_error, failure, refusal
from loadtests.fake.scenario import MESSAGE_DIRECTIVE, Scenario, ScenarioError, is_directive
from loadtests.fake.state import BackendState, Received

DEFAULT_LAST = 10

_encode = msgspec.json.Encoder().encode
_decode_body = msgspec.json.Decoder(Body).decode
_decode_embedding = msgspec.json.Decoder(EmbeddingBody).decode


def reply_to(request: Received, state: BackendState) -> Reply:
    """Decide what one request gets."""
    if request.target in _GENERATING:
        return _guarded(request, state, _generate)
    path = request.path
    if path in _SERVED:
        return _guarded(request, state, _SERVED[path])
    if path == "/v1/models" or path.startswith("/v1/models/"):
        return _guarded(request, state, _models)
    control = _CONTROL.get(path.removesuffix("/"))
    if control is not None:
        return control(request, state)
    return Reply(status=404, body=_encode({"detail": "Not Found"}))


def _guarded(request: Received, state: BackendState, serve: Callable[[Received, BackendState], Reply]) -> Reply:
    if state.api_key is not None and request.header("authorization") != b"Bearer " + state.api_key.encode():
        return Reply(status=401, body=_encode({"error": "Unauthorized"}))
    allowed = b"GET" if serve is _models else b"POST"
    if request.method != allowed:
        return Reply(status=405, body=_encode({"detail": "Method Not Allowed"}), headers=((b"allow", allowed),))
    return serve(request, state)


def _generate(request: Received, state: BackendState) -> Reply:
    try:
        body = _decode_body(request.body)
    except (msgspec.DecodeError, UnicodeDecodeError) as exc:
        return refusal(400, str(exc))
    if not request.target.startswith(b"/v1/chat/"):
        body.messages = None
    elif body.messages is None:
        return refusal(400, "Field required: messages", param="messages")
    try:
        scenario = _scenario(body, state)
    except ScenarioError as exc:
        return refusal(400, f"{exc}; see the table in loadtests.fake_backend", param="model")
    if scenario is None:
        return refusal(404, f"The model `{body.model}` does not exist.", param="model")
    return _answer(body, scenario, state)


class _Api(NamedTuple):
    """How an API other than chat is read and answered."""

    decode: Callable[[bytes], Any]
    plain: Callable[[Any, Scenario], bytes]
    events: Callable[[Any, Scenario, bytes], list[bytes]]
    lead_events: int


_RESPONSES = _Api(
    msgspec.json.Decoder(responses.ResponseBody).decode, responses.plain, responses.events, responses.LEAD_EVENTS
)
_MESSAGES = _Api(
    msgspec.json.Decoder(messages.MessageBody).decode, messages.plain, messages.events, messages.LEAD_EVENTS
)


def _in_dialect(api: _Api, request: Received, state: BackendState) -> Reply:
    """The Responses or the Messages API. What a plain answer can do wrong is what the others can."""
    try:
        body = api.decode(request.body)
    except (msgspec.DecodeError, UnicodeDecodeError) as exc:
        return refusal(400, str(exc))
    scenario = _scenario_of_dialect(body, state)
    if isinstance(scenario, Reply):
        return scenario
    if not body.stream:
        content = engine_error() if scenario.fault == "error_frame" else api.plain(body, scenario)
        return Reply(body=content, scenario=scenario)
    events = api.events(body, scenario, _line_end(scenario))
    return Reply(content_type=EVENT_STREAM, events=events, lead_events=api.lead_events, scenario=scenario)


def _scenario_of_dialect(body: responses.ResponseBody | messages.MessageBody, state: BackendState) -> Scenario | Reply:
    """What the request asks for, or its failure."""
    names: tuple[str, ...] = (body.model,) if is_directive(body.model) else ()
    if not names and body.model not in state.models:
        return refusal(404, f"The model `{body.model}` does not exist.", param="model")
    directive = MESSAGE_DIRECTIVE.match(body.directive_text())
    try:
        scenario = (
            state.scenario((*names, directive.group(1)) if directive else names) if names or directive else HEALTHY
        )
    except ScenarioError as exc:
        return refusal(400, str(exc), param="model")
    state.by_model[body.model] += 1
    return failure(scenario, state) if scenario.fault == "status" else scenario


def _line_end(scenario: Scenario) -> bytes:
    return b"\r\n\r\n" if scenario.crlf else b"\n\n"


def _embed(request: Received, state: BackendState) -> Reply:
    """Vectors; a directive as model name chooses a delay or a failure."""
    try:
        body = _decode_embedding(request.body)
    except (msgspec.DecodeError, UnicodeDecodeError) as exc:
        return refusal(400, str(exc))
    scenario = HEALTHY
    if is_directive(body.model):
        try:
            scenario = state.scenario((body.model,))
        except ScenarioError as exc:
            return refusal(400, str(exc), param="model")
    elif body.model not in state.models:
        return refusal(404, f"The model `{body.model}` does not exist.", param="model")
    state.by_model[body.model] += 1
    if scenario.fault == "status":
        return failure(scenario, state)
    if scenario.fault == "garbage":
        return Reply(body=b"<!doctype html>", scenario=scenario)
    return Reply(body=embeddings_answer(body), scenario=scenario)


def _scenario(body: Body, state: BackendState) -> Scenario | None:
    """None: the model is not served."""
    names: tuple[str, ...] = (body.model,) if is_directive(body.model) else ()
    if not names and body.model not in state.models:
        return None
    heard = state.heard(body.model)
    text = body.directive_text() if heard != "never" else ""
    directive = MESSAGE_DIRECTIVE.match(text.lstrip()) if heard == "at_start" else MESSAGE_DIRECTIVE.search(text)
    if directive:
        names += (directive.group(1),)
    return state.scenario(names) if names else HEALTHY


def _answer(body: Body, scenario: Scenario, state: BackendState) -> Reply:
    state.by_model[body.model] += 1
    if scenario.fault == "status":
        return failure(scenario, state)
    if scenario.strict and body.return_token_ids is not None:
        return refusal(400, "Unrecognized request argument supplied: return_token_ids", param="return_token_ids")
    if body.stream:
        return _stream(body, scenario, state)
    return _plain(body, scenario, state)


def _plain(body: Body, scenario: Scenario, state: BackendState) -> Reply:
    if scenario.fault == "garbage":
        return Reply(body=b"<!doctype html>\n\x00\xff this is not JSON {", scenario=scenario)
    if scenario.fault == "error_frame":
        return Reply(body=engine_error(), scenario=scenario)
    answer_id, created = state.identity(chat=body.is_chat, fixed=scenario.fixed)
    return Reply(body=state.answer(body, scenario).plain(answer_id, created), scenario=scenario)


def _stream(body: Body, scenario: Scenario, state: BackendState) -> Reply:
    end = _line_end(scenario)
    answer = state.answer(body, scenario)
    lead = answer.lead_events
    if scenario.fault == "empty_stream":
        events = []
    elif scenario.fault == "garbage":
        events = [b"<!doctype html>\n\x00\xff this is not an event stream {" + end]
    else:
        answer_id, created = state.identity(chat=body.is_chat, fixed=scenario.fixed)
        events = answer.events(answer_id, created, end)
        if scenario.fault == "error_frame":
            kept = 0 if scenario.after_chunks is None else lead + scenario.after_chunks
            events[kept:] = [b"data: " + engine_error() + end]
        if scenario.fault == "lost_choice":
            events = events[: lead + body.choices * answer.tokens + body.choices - 1]
        if not scenario.no_done:
            events.append(b"data: [DONE]" + end)
    if scenario.heartbeat:
        beat = b": heartbeat" + end
        events = [beat + event for event in events]
    return Reply(content_type=EVENT_STREAM, events=events, lead_events=lead, scenario=scenario)


def _models(request: Received, state: BackendState) -> Reply:
    cards: dict[str, dict[str, Any]] = {
        name: {
            "id": name,
            "object": "model",
            "created": FIXED_CREATED_S,
            "owned_by": "vllm",
            "root": name,
            "parent": None,
            "max_model_len": state.window_tokens,
            "permission": [],
        }
        for name in state.models
    }
    wanted = request.path.removeprefix("/v1/models").strip("/")
    if not wanted:
        return Reply(body=_encode({"object": "list", "data": list(cards.values())}))
    if wanted not in cards:
        return refusal(404, f"The model `{wanted}` does not exist.", param="model")
    return Reply(body=_encode(cards[wanted]))


def _health(request: Received, state: BackendState) -> Reply:
    return Reply(content_type=b"text/plain", is_control=True)


def _metrics(request: Received, state: BackendState) -> Reply:
    label = f'{{model_name="{state.models[0] if state.models else ""}"}}'
    lines = (
        "# TYPE vllm:num_requests_running gauge",
        f"vllm:num_requests_running{label} {state.in_flight}",
        "# TYPE vllm:num_requests_waiting gauge",
        f"vllm:num_requests_waiting{label} {state.waiting}",
        "# TYPE vllm:kv_cache_usage_perc gauge",
        f"vllm:kv_cache_usage_perc{label} {state.kv_usage}",
        "# TYPE vllm:request_success_total counter",
        f"vllm:request_success_total{label} {state.completed}",
    )
    text = "\n".join(lines) + "\n"
    return Reply(body=text.encode(), content_type=b"text/plain; version=0.0.4", is_control=True)


def _last(request: Received, state: BackendState) -> Reply:
    query = parse_qs(request.target.partition(b"?")[2].decode("latin-1"))
    count = query.get("n", [str(DEFAULT_LAST)])[0]
    if not count.isdigit():
        return Reply(status=400, body=_encode({"error": "n must be a number"}), is_control=True)
    kept = list(state.received)
    return Reply(body=_encode([entry.as_json() for entry in kept[len(kept) - int(count) :]]), is_control=True)


def _last_bytes(part: Callable[[Received], bytes]) -> Callable[[Received, BackendState], Reply]:
    def serve(request: Received, state: BackendState) -> Reply:
        if not state.received:
            return Reply(status=404, body=_encode({"error": "no request yet"}), is_control=True)
        body = part(state.received[-1])
        return Reply(body=body, content_type=b"application/octet-stream", is_control=True)

    return serve


def _stats(request: Received, state: BackendState) -> Reply:
    stats: dict[str, Any] = state.stats()
    return Reply(body=_encode(stats), is_control=True)


def _reset(request: Received, state: BackendState) -> Reply:
    if request.method != b"POST":
        return Reply(status=405, headers=((b"allow", b"POST"),), is_control=True)
    state.reset()
    return Reply(body=b"{}", is_control=True)


_GENERATING = frozenset({b"/v1/chat/completions", b"/v1/completions"})
_SERVED: dict[str, Callable[[Received, BackendState], Reply]] = {
    "/v1/embeddings": _embed,
    "/v1/responses": partial(_in_dialect, _RESPONSES),
    "/v1/messages": partial(_in_dialect, _MESSAGES),
}
_CONTROL: dict[str, Callable[[Received, BackendState], Reply]] = {
    "/health": _health,
    "/metrics": _metrics,
    "/_last": _last,
    "/_last/body": _last_bytes(lambda entry: entry.body),
    "/_last/response": _last_bytes(lambda entry: b"".join(entry.response)),
    "/_stats": _stats,
    "/_reset": _reset,
}
