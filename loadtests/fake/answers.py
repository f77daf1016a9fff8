"""The bytes of the answers, in the shape that vLLM 0.32 gives them (field order and nulls included)."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator

import msgspec

from loadtests.fake.body import Body
from loadtests.fake.extras import REASONING, Call, call_deltas, calls_of, message_members
from loadtests.fake.scenario import Scenario

VOCABULARY = ("The", " quick", " brown", " fox", " jumps", " over", " the", " lazy", " dog", ".")
ODD_VOCABULARY = ("Caf\u00e9", ' "so"', " \u2028", " \U0001f600", "\\n", "\t2.50", " </s>", " \x7f", " \u4f60", "\n")
STOP = ("<|im_end|>", -9.0)
"""The stop token, which vLLM lists among the logprobs."""
FIRST_PROMPT_ID, FIRST_COMPLETION_ID = 1000, 5000
FIXED_CREATED_S = 1_700_000_000

EXTRA_MEMBERS = (
    rb'"x_cost" : 2.50 ,"x_exp":1E+2,"x_big":12345678901234567890,"x_zero":-0.0,  "x_esc":"\u00e9\/\ud83d\ude00",'
    + '"x_raw":"\u00e9\U0001f600",'.encode()
    + b'"x_dup":1,"x_dup":2,"x_null":null,"x_deep":{"a":[ ]} ,'
)
"""Unknown members with odd spacing, number spellings, escapes and a duplicate key: all of it must survive."""

FINISH_TAIL = b',"stop_reason":null,"token_ids":null}]}'

_encode = msgspec.json.Encoder().encode


class Shape(msgspec.Struct, frozen=True):
    """Everything an answer depends on but its `id` and `created`."""

    chat: bool
    model: str
    tokens: tuple[str, ...]
    finish_reason: str
    prompt_tokens: int
    logprob: float | None
    """None: not asked for."""
    usage_asked: bool
    ids_asked: bool
    extra: bool
    sparse: bool
    """Absent members are left out, as llama.cpp does, where vLLM spells them `null`."""
    choices: int = 1
    reasoning: tuple[str, ...] = ()
    calls: tuple[Call, ...] = ()


def shape_of(body: Body, scenario: Scenario, prompt_tokens: int, signature: str | None = None) -> Shape:
    """What the request and its scenario add up to."""
    tokens = (*((signature,) if signature else ()), *_tokens(body, scenario))
    finish_reason = scenario.finish_reason
    if body.limit_tokens is not None and body.limit_tokens < len(tokens):
        tokens, finish_reason = tokens[: body.limit_tokens], "length"
    calls = calls_of(body.tools, scenario.calls)
    return Shape(
        chat=body.is_chat,
        model=body.model,
        tokens=tokens,
        finish_reason="tool_calls" if calls and finish_reason == "stop" else finish_reason,
        prompt_tokens=prompt_tokens,
        logprob=None if body.logprobs in (None, False) else scenario.logprob,
        usage_asked=body.stream_options is not None and body.stream_options.include_usage,
        ids_asked=body.return_token_ids is True,
        extra=scenario.extra,
        sparse=scenario.sparse,
        choices=body.choices,
        reasoning=REASONING[: scenario.reasoning],
        calls=calls,
    )


Parts = tuple[bytes, bytes, bytes]
"""A text with two gaps: the answer's id goes into the first, its creation time into the second."""

_ID, _CREATED = b"\0id\0", b"\0created\0"


def _parts(rendered: bytes) -> Parts:
    before, _, rest = rendered.partition(_ID)
    middle, _, after = rest.partition(_CREATED)
    return before, middle, after


class Answer:
    """The bytes of one shape of answer. Rendered once, because a backend under load repeats itself."""

    def __init__(self, shape: Shape) -> None:
        self._shape = shape
        self.tokens = len(shape.tokens)
        self.lead_events = shape.choices if shape.chat else 0
        """Events before the first content chunk."""
        self._plain: Parts | None = None
        self._events: list[Parts] | None = None

    def plain(self, answer_id: bytes, created: bytes) -> bytes:
        """The whole body of a plain answer."""
        if self._plain is None:
            self._plain = _parts(_Renderer(self._shape).plain())
        before, middle, after = self._plain
        return before + answer_id + middle + created + after

    def events(self, answer_id: bytes, created: bytes, end: bytes) -> list[bytes]:
        """The stream's events, each closed by `end`: role, contents, finish reason, usage if asked; no `[DONE]`."""
        if self._events is None:
            self._events = [_parts(event) for event in _Renderer(self._shape).events()]
        return [b"".join((before, answer_id, middle, created, after, end)) for before, middle, after in self._events]


class _Renderer:
    """Writes the JSON of one shape, with gaps for `id` and `created`."""

    def __init__(self, shape: Shape) -> None:
        self._shape = shape
        self._model = _encode(shape.model)

    def plain(self) -> bytes:
        """The whole body of a plain answer."""
        text = self._json_text("".join(self._shape.tokens))
        finish = _encode(self._shape.finish_reason)
        logprobs = self._logprobs_of(self._shape.tokens, ended=self._shape.finish_reason != "length")
        if self._shape.chat and self._shape.sparse:
            return self._sparse(text, finish, logprobs)
        if self._shape.chat:
            choice = (
                b'"message":{"role":"assistant","content":' + text + b',"refusal":null,"annotations":null,'
                b'"audio":null,"function_call":null'
                + self._extras()
                + b'},"logprobs":'
                + logprobs
                + b',"finish_reason":'
                + finish
                + b',"stop_reason":null,"token_ids":'
                + self._ids(len(self._shape.tokens), FIRST_COMPLETION_ID)
                + b',"routed_experts":null}'
            )
            prompt_ids = self._ids(self._shape.prompt_tokens, FIRST_PROMPT_ID)
            kind = b"chat.completion"
            tail = b',"prompt_logprobs":null,"prompt_token_ids":' + prompt_ids + b',"prompt_text":null'
        else:
            choice = (
                b'"text":'
                + text
                + b',"logprobs":'
                + logprobs
                + b',"finish_reason":'
                + finish
                + b',"stop_reason":null,"token_ids":null,"prompt_logprobs":null,"prompt_token_ids":null,'
                b'"routed_experts":null}'
            )
            kind, tail = b"text_completion", b""
        return (
            b"{"
            + self._members(kind)
            + b',"choices":['
            + b",".join(b'{"index":%d,' % index + choice for index in range(self._shape.choices))
            + b'],"service_tier":null,"system_fingerprint":null,"usage":'
            + self._usage(details=True)
            + tail
            + b',"kv_transfer_params":null,"ec_transfer_params":null,"metrics":null}'
        )

    def _sparse(self, text: bytes, finish: bytes, logprobs: bytes) -> bytes:
        """A plain chat answer as llama.cpp writes it: nothing absent is mentioned."""
        ids, prompt_ids = b"", b""
        if self._shape.ids_asked:
            ids = b',"token_ids":' + self._ids(len(self._shape.tokens), FIRST_COMPLETION_ID)
            prompt_ids = b',"prompt_token_ids":' + self._ids(self._shape.prompt_tokens, FIRST_PROMPT_ID)
        return (
            b'{"choices":[{"finish_reason":'
            + finish
            + b',"index":0,"message":{"role":"assistant","content":'
            + text
            + (b"}" if logprobs == b"null" else b'},"logprobs":' + logprobs)
            + ids
            + b"}],"
            + self._members(b"chat.completion")
            + prompt_ids
            + b',"usage":'
            + self._usage(details=False)
            + b"}"
        )

    def _extras(self) -> bytes:
        members = {"reasoning": None} | message_members(self._shape.reasoning, self._shape.calls)
        return b"," + _encode(members)[1:-1]

    def _deltas(self, head: bytes, deltas: Iterable[object]) -> Iterator[bytes]:
        """Events of the first choice that are not text."""
        for delta in deltas:
            yield head + b'{"index":0,"delta":' + _encode(delta) + b',"logprobs":null,"finish_reason":null}]}'

    def _ids(self, count: int, first: int) -> bytes:
        """Made up, and different for prompt and completion."""
        return _encode(list(range(first, first + count))) if self._shape.ids_asked else b"null"

    def events(self) -> Iterator[bytes]:
        """The stream's events without their line ends: role, contents, finish reason, usage if asked. Several choices
        take turns."""
        kind = b"chat.completion.chunk" if self._shape.chat else b"text_completion"
        head = b"data: {" + self._members(kind) + b',"choices":['
        start = b'"delta":{"content":' if self._shape.chat else b'"text":'
        openings = [head + b'{"index":%d,' % index + start for index in range(self._shape.choices)]
        brace = b"}" if self._shape.chat else b""
        if self._shape.chat:
            for index in range(self._shape.choices):
                yield (
                    head
                    + b'{"index":%d,"delta":{"role":"assistant","content":""},"logprobs":null,' % index
                    + b'"finish_reason":null}],"prompt_token_ids":null,"prompt_text":null}'
                )
            yield from self._deltas(head, ({"reasoning": piece} for piece in self._shape.reasoning))
        plain_tail = brace + b',"logprobs":null,"finish_reason":null,"token_ids":null}]}'
        for token in self._shape.tokens:
            tail = plain_tail.replace(b"null", self._logprobs_of((token,)), 1)
            for opening in openings:
                yield opening + self._json_text(token) + tail
        if self._shape.chat:
            yield from self._deltas(head, call_deltas(self._shape.calls))
        finish = _encode(self._shape.finish_reason)
        for opening in openings:
            yield opening + b'""' + brace + b',"logprobs":null,"finish_reason":' + finish + FINISH_TAIL
        if self._shape.usage_asked:
            yield head + b'],"usage":' + self._usage(details=False) + b"}"

    def _members(self, kind: bytes) -> bytes:
        extra = EXTRA_MEMBERS if self._shape.extra else b""
        return (
            extra + b'"id":"' + _ID + b'","object":"' + kind + b'","created":' + _CREATED + b',"model":' + self._model
        )

    def _usage(self, *, details: bool) -> bytes:
        count = len(self._shape.tokens)
        usage = (
            f'{{"prompt_tokens":{self._shape.prompt_tokens},"total_tokens":{self._shape.prompt_tokens + count},'
            f'"completion_tokens":{count}'
        )
        if details:
            usage += ',"prompt_tokens_details":null,"completion_tokens_details":null'
        return usage.encode() + b"}"

    def _json_text(self, text: str) -> bytes:
        """vLLM sends UTF-8 as it is; `extra` sends every other text escaped."""
        if self._shape.extra and len(text) % 2:
            return json.dumps(text).encode()
        return _encode(text)

    def _logprobs_of(self, tokens: tuple[str, ...], *, ended: bool = False) -> bytes:
        """`ended`: by itself, so that the stop token is listed as well, with a logprob that would spoil a mean."""
        logprob = self._shape.logprob
        if logprob is None:
            return b"null"
        if not self._shape.chat:
            offsets, total = [], 0
            for token in tokens:
                offsets.append(total)
                total += len(token)
            return _encode(
                {
                    "text_offset": offsets,
                    "token_logprobs": [logprob] * len(tokens),
                    "tokens": tokens,
                    "top_logprobs": [{token: logprob} for token in tokens],
                }
            )
        return _encode(
            {
                "content": [
                    {"token": token, "logprob": value, "bytes": list(token.encode()), "top_logprobs": []}
                    for token, value in [*((token, logprob) for token in tokens), *[STOP] * ended]
                ]
            }
        )


def error_body(message: str, kind: str, code: int, param: str | None = None) -> bytes:
    """vLLM's error JSON: `code` is the integer status."""
    return _encode({"error": {"message": message, "type": kind, "param": param, "code": code}})


def _tokens(body: Body, scenario: Scenario) -> tuple[str, ...]:
    if scenario.echo:
        text = body.directive_text()
        return tuple(text[start : start + 4] for start in range(0, len(text), 4))
    words: tuple[str, ...] = ODD_VOCABULARY if scenario.extra else VOCABULARY
    if scenario.wide_chars:
        words = tuple(word + "." * scenario.wide_chars for word in words)
    whole, rest = divmod(scenario.tokens, len(words))
    return words * whole + words[:rest]
