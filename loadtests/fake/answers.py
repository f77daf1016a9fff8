"""The bytes of the answers, in the shape that vLLM 0.32 gives them (field order and nulls included)."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator

import msgspec

from loadtests.fake.scenario import Scenario

VOCABULARY = ("The", " quick", " brown", " fox", " jumps", " over", " the", " lazy", " dog", ".")
ODD_VOCABULARY = ("Caf\u00e9", ' "so"', " \u2028", " \U0001f600", "\\n", "\t2.50", " </s>", " \x7f", " \u4f60", "\n")
FIXED_CREATED_S = 1_700_000_000

EXTRA_MEMBERS = (
    rb'"x_cost" : 2.50 ,"x_exp":1E+2,"x_big":12345678901234567890,"x_zero":-0.0,  "x_esc":"\u00e9\/\ud83d\ude00",'
    + '"x_raw":"\u00e9\U0001f600",'.encode()
    + b'"x_dup":1,"x_dup":2,"x_null":null,"x_deep":{"a":[ ]} ,'
)
"""Unknown members with odd spacing, number spellings, escapes and a duplicate key: all of it must survive."""

_encode = msgspec.json.Encoder().encode


class Message(msgspec.Struct):
    """One message of a chat request, as far as the fake reads it."""

    role: str = ""
    content: object = None

    def text(self) -> str:
        """The text of a plain content, or of all text parts."""
        if isinstance(self.content, str):
            return self.content
        if not isinstance(self.content, list):
            return ""
        parts = (part.get("text") for part in self.content if isinstance(part, dict))
        return "".join(part for part in parts if isinstance(part, str))


class StreamOptions(msgspec.Struct):
    include_usage: bool = False


class Body(msgspec.Struct):
    """A request body, as far as the fake reads it."""

    model: str
    messages: list[Message] | None = None
    prompt: object = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    logprobs: bool | int | None = None

    def directive_text(self) -> str:
        """Where a `[[directive]]` may stand: the last user message, or the prompt."""
        if self.messages is None:
            return self.prompt if isinstance(self.prompt, str) else ""
        return next((message.text() for message in reversed(self.messages) if message.role == "user"), "")

    def prompt_chars(self) -> int:
        if self.messages is None:
            return len(self.prompt) if isinstance(self.prompt, str) else 0
        return sum(len(message.text()) for message in self.messages)


class Answer:
    """One generated answer: its tokens and the identity fields that every frame repeats."""

    def __init__(self, body: Body, scenario: Scenario, serial: int) -> None:
        self._scenario = scenario
        self._chat = body.messages is not None
        self._logprobs = body.logprobs not in (None, False)
        self._usage_asked = body.stream_options is not None and body.stream_options.include_usage
        prefix = "chatcmpl" if self._chat else "cmpl"
        self.id = f"{prefix}-{'fixed' if scenario.fixed else format(serial, '032x')}".encode()
        self.created = str(FIXED_CREATED_S if scenario.fixed else int(time.time())).encode()
        self._model = _encode(body.model)
        limit = body.max_completion_tokens if body.max_completion_tokens is not None else body.max_tokens
        self.tokens = _tokens(body, scenario)
        self._finish = scenario.finish_reason
        if limit is not None and limit < len(self.tokens):
            self.tokens, self._finish = self.tokens[:limit], "length"
        self._prompt_tokens = (
            scenario.prompt_tokens if scenario.prompt_tokens is not None else body.prompt_chars() // 4 + 8
        )

    @property
    def lead_events(self) -> int:
        """Events before the first content chunk."""
        return 1 if self._chat else 0

    def plain(self) -> bytes:
        """The whole body of a plain answer."""
        text = self._json_text("".join(self.tokens))
        finish = _encode(self._finish)
        logprobs = self._plain_logprobs() if self._logprobs else b"null"
        if self._chat:
            choice = (
                b'"message":{"role":"assistant","content":' + text + b',"refusal":null,"annotations":null,'
                b'"audio":null,"function_call":null,"reasoning":null},"logprobs":' + logprobs
                + b',"finish_reason":' + finish + b',"stop_reason":null,"token_ids":null,"routed_experts":null}'
            )
            kind, tail = b"chat.completion", b',"prompt_logprobs":null,"prompt_token_ids":null,"prompt_text":null'
        else:
            choice = (
                b'"text":' + text + b',"logprobs":' + logprobs + b',"finish_reason":' + finish
                + b',"stop_reason":null,"token_ids":null,"prompt_logprobs":null,"prompt_token_ids":null,'
                b'"routed_experts":null}'
            )
            kind, tail = b"text_completion", b""
        return (
            b"{" + self._members(kind) + b',"choices":[{"index":0,' + choice
            + b'],"service_tier":null,"system_fingerprint":null,"usage":' + self._usage(details=True) + tail
            + b',"kv_transfer_params":null,"ec_transfer_params":null,"metrics":null}'
        )

    def events(self) -> Iterator[bytes]:
        """The stream's events without their line ends: role, contents, finish reason, usage if asked."""
        kind = b"chat.completion.chunk" if self._chat else b"text_completion"
        head = b"data: {" + self._members(kind) + b',"choices":['
        opening = head + b'{"index":0,' + (b'"delta":{"content":' if self._chat else b'"text":')
        brace = b"}" if self._chat else b""
        if self._chat:
            yield (
                head + b'{"index":0,"delta":{"role":"assistant","content":""},"logprobs":null,'
                b'"finish_reason":null}],"prompt_token_ids":null,"prompt_text":null}'
            )
        plain_tail = brace + b',"logprobs":null,"finish_reason":null,"token_ids":null}]}'
        for token in self.tokens:
            tail = plain_tail
            if self._logprobs:
                tail = plain_tail.replace(b"null", self._logprobs_of((token,)), 1)
            yield opening + self._json_text(token) + tail
        yield (
            opening + b'""' + brace + b',"logprobs":null,"finish_reason":' + _encode(self._finish)
            + b',"stop_reason":null,"token_ids":null}]}'
        )
        if self._usage_asked:
            yield head + b'],"usage":' + self._usage(details=False) + b"}"

    def _members(self, kind: bytes) -> bytes:
        extra = EXTRA_MEMBERS if self._scenario.extra else b""
        return (
            extra + b'"id":"' + self.id + b'","object":"' + kind + b'","created":' + self.created
            + b',"model":' + self._model
        )

    def _usage(self, *, details: bool) -> bytes:
        count = len(self.tokens)
        usage = (
            f'{{"prompt_tokens":{self._prompt_tokens},"total_tokens":{self._prompt_tokens + count},'
            f'"completion_tokens":{count}'
        )
        if details:
            usage += ',"prompt_tokens_details":null,"completion_tokens_details":null'
        return usage.encode() + b"}"

    def _json_text(self, text: str) -> bytes:
        """vLLM sends UTF-8 as it is; `extra` sends every other text escaped."""
        if self._scenario.extra and len(text) % 2:
            return json.dumps(text).encode()
        return _encode(text)

    def _plain_logprobs(self) -> bytes:
        return self._logprobs_of(self.tokens)

    def _logprobs_of(self, tokens: tuple[str, ...]) -> bytes:
        logprob = self._scenario.logprob
        if not self._chat:
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
                    {"token": token, "logprob": logprob, "bytes": list(token.encode()), "top_logprobs": []}
                    for token in tokens
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
    words = ODD_VOCABULARY if scenario.extra else VOCABULARY
    whole, rest = divmod(scenario.tokens, len(words))
    return words * whole + words[:rest]
