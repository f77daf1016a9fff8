"""What the router reads from a plain chat completion; the answer itself is passed on untouched."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, NamedTuple

import msgspec

from policies.drafts.logprobs import TokenLogprob, mean_logprob
from policies.record import TokenIds, Usage
from router.sse import fingerprint_of, usage_of

OTHER_THAN_TEXT = ("tool_calls", "function_call", "refusal", "audio")
"""Members of a message, or of a chunk's delta, that are an answer as well."""


class Message(msgspec.Struct):
    """Of the assistant, as its backend wrote it."""

    content: Any = None
    tool_calls: Any = None
    function_call: Any = None
    refusal: Any = None
    audio: Any = None

    @property
    def text(self) -> str | None:
        """None where there is none beside something else. A message of nothing but reasoning has an empty one, in a
        plain answer as in a stream."""
        content = "" if self.content is None else self.content
        if not isinstance(content, str):
            return None
        return None if not content and any(getattr(self, name) for name in OTHER_THAN_TEXT) else content


class _Choice(msgspec.Struct):
    finish_reason: str | None = None
    message: Message | None = None


class _Completion(msgspec.Struct):
    choices: list[_Choice]
    usage: Any = None
    model: Any = None
    system_fingerprint: Any = None


class _Logprobs(msgspec.Struct):
    content: list[TokenLogprob] | None = None


class _DetailedChoice(_Choice):
    logprobs: _Logprobs | None = None
    token_ids: tuple[int, ...] | None = None


class _DetailedCompletion(msgspec.Struct):
    choices: list[_DetailedChoice]
    usage: Any = None
    model: Any = None
    system_fingerprint: Any = None
    prompt_token_ids: tuple[int, ...] | None = None


_decode = msgspec.json.Decoder(_Completion).decode
_decode_detailed = msgspec.json.Decoder(_DetailedCompletion).decode


class Meaning(NamedTuple):
    """Of the first choice."""

    usage: Usage | None
    finish_reason: str | None
    text: str | None
    fingerprint: str | None = None
    mean_logprob: float | None = None
    """Over the tokens of the answer without its stop token, nats."""
    token_ids: TokenIds | None = None
    logprobs: Sequence[TokenLogprob] | None = None
    """Of all tokens, where they were read."""
    message: Message | None = None


def meaning_of(body: bytes, *, detailed: bool = False) -> Meaning | None:
    """None when the body is not a chat completion with at least one choice.

    Args:
        detailed: read logprobs and token ids as well.
    """
    try:
        completion = (_decode_detailed if detailed else _decode)(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return _meaning_of_odd(body)
    if not completion.choices:
        return None
    first = completion.choices[0]
    meaning = Meaning(
        usage_of({"usage": completion.usage}),
        first.finish_reason,
        first.message.text if first.message else None,
        fingerprint_of(completion.model, completion.system_fingerprint),
        message=first.message,
    )
    if isinstance(completion, _DetailedCompletion) and len(completion.choices) == 1:
        return _with_details(meaning, completion)
    return meaning


def _with_details(meaning: Meaning, completion: _DetailedCompletion) -> Meaning:
    only = completion.choices[0]
    tokens = only.logprobs.content if only.logprobs else None
    ids = None
    if completion.prompt_token_ids is not None and only.token_ids is not None:
        ids = TokenIds(prompt=completion.prompt_token_ids, completion=only.token_ids)
    try:
        mean = mean_logprob(tokens, meaning.text, meaning.finish_reason) if tokens else None
    except ValueError:  # "bytes" that are none
        mean = None
    return meaning._replace(mean_logprob=mean, token_ids=ids, logprobs=tokens)


def _meaning_of_odd(body: bytes) -> Meaning | None:
    """The same for what only a lenient parser takes, such as a lone surrogate: legal JSON that was paid for."""
    try:
        answer = json.loads(body)
        first = answer["choices"][0]
        message = first.get("message") or {}
        reason = first.get("finish_reason")
        read = Message(message.get("content"), *map(message.get, OTHER_THAN_TEXT))
        stated = fingerprint_of(answer.get("model"), answer.get("system_fingerprint"))
    except (ValueError, RecursionError, LookupError, TypeError, AttributeError):
        return None
    return Meaning(
        usage_of(answer),
        reason if isinstance(reason, str) else None,
        read.text,
        stated,
        message=read,
    )
