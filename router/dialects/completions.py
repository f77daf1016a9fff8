"""`POST /v1/completions`: text completions. They are put to the backend's own `/completions`, byte for byte: a prompt
that has no roles cannot be turned into a chat, and `echo`, `suffix` or a list of prompts have no word there.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import msgspec

from policies.base import Chunk, RequestFeatures
from router import directives
from router.additions import NOTHING, Additions
from router.answers import Meaning, meaning_of
from router.apis import BackendApi
from router.body import JsonBody
from router.chat import APPROX_BYTES_PER_TOKEN, MAX_PARTS, MAX_TURN_CHARS, ChatRequest, storable
from router.config import BackendConfig
from router.dialects.base import Dialect, Outgoing
from router.dialects.fields import flag, object_of, optional_text, text_at, whole_number, wrong
from router.sse import ChatStreamReader, frames_of, payload

DEFAULT_MAX_TOKENS = 16
"""What this API generates without `max_tokens`."""


class CompletionRequest(ChatRequest):
    """A prompt, or several, instead of a conversation."""

    reviewable = False

    def __init__(self, body: JsonBody, given: directives.Directives) -> None:
        super().__init__(body, given)
        self.choices *= len(_prompts(body.values.get("prompt")))

    @classmethod
    def parse(cls, data: bytes, headers: Iterable[tuple[bytes, bytes]]) -> CompletionRequest:
        body = JsonBody.parse(data)
        _check(body.values)
        return cls(body, directives.read(body.values, headers))

    def additions(self, wanted: Additions, *, keeps_text: bool) -> Additions:
        return NOTHING

    def outgoing(self, backend: BackendConfig, added: Additions = NOTHING) -> Outgoing:
        return Outgoing(COMPLETIONS, self.forwarded(backend.model), hides_usage=not self.wants_usage)

    def prompt_texts(self) -> Iterator[str]:
        """The longest prompt: several are answered one by one, and each has to fit into the window."""
        longest = max(_prompts(self.body.values.get("prompt")), key=_size_bytes)
        if isinstance(longest, str):
            yield longest
        suffix = self.body.values.get("suffix")
        if isinstance(suffix, str):
            yield suffix

    def features(
        self, *, tenant: str, default_output_tokens: int, student_window_tokens: int | None
    ) -> RequestFeatures:
        values, given = self.body.values, self.directives
        suffix = values.get("suffix")
        prompt_bytes = max(map(_size_bytes, _prompts(values.get("prompt")))) + _size_bytes(suffix or "")
        texts = list(self.prompt_texts())
        chunks = given.retrieved_chunks
        return RequestFeatures(
            prompt_bytes=prompt_bytes,
            message_count=1,
            approx_prompt_tokens=-(-prompt_bytes // APPROX_BYTES_PER_TOKEN),
            requested_output_tokens=DEFAULT_MAX_TOKENS if values.get("max_tokens") is None else values["max_tokens"],
            student_window_tokens=student_window_tokens,
            last_user_turn=storable(texts[0][-MAX_TURN_CHARS:]) if texts else "",
            chunks=tuple(Chunk(text=storable(c.text), score=c.score, id=c.id) for c in chunks or ()),
            retrieval_attempted=chunks is not None,
            retrieval_confidence=given.retrieval_confidence,
            tenant=tenant,
            session=storable(given.session) if given.session else None,
            tags={storable(key): storable(value) for key, value in (given.tags or {}).items()},
        )


def _prompts(prompt: Any) -> list[Any]:
    """Each a text or a list of token ids; without a prompt the model begins from nothing."""
    if isinstance(prompt, list) and prompt and not isinstance(prompt[0], int):
        return prompt
    return ["" if prompt is None else prompt]


def _size_bytes(prompt: str | list[int]) -> int:
    """UTF-8 bytes; of token ids about as many as their text has."""
    if isinstance(prompt, list):
        return len(prompt) * APPROX_BYTES_PER_TOKEN
    return len(prompt) if prompt.isascii() else len(prompt.encode("utf-8", "replace"))


def _check(values: Mapping[str, Any]) -> None:
    """Types of the fields that the router reads. Everything else is the backend's to judge."""
    if not text_at(values, "model"):
        raise wrong("model", "is required and must be a string, for example 'auto'.")
    if values.get("prompt") is not None and not _is_prompt(values["prompt"]):
        raise wrong("prompt", "must be a string, a list of strings, a list of token ids or a list of such lists.")
    optional_text(values, "suffix")
    if values.get("n") is not None:
        whole_number(values["n"], "n")
    if type(values.get("max_tokens", 0)) not in (int, type(None)) or (values.get("max_tokens") or 0) < 0:
        raise wrong("max_tokens", "must be a whole number of at least 0.")
    for key in ("stream", "store"):
        flag(values.get(key), key)
    if values.get("stream_options") is not None:
        object_of(values["stream_options"], "stream_options")
    if isinstance(values.get("prompt"), list) and len(_prompts(values["prompt"])) > MAX_PARTS:
        raise wrong("prompt", f"has more than {MAX_PARTS} elements.")


def _is_prompt(prompt: Any) -> bool:
    if isinstance(prompt, str):
        return True
    if not isinstance(prompt, list) or not prompt:
        return False
    return _are_ids(prompt) or all(isinstance(one, str) or (_are_ids(one) and bool(one)) for one in prompt)


def _are_ids(value: Any) -> bool:
    return isinstance(value, list) and all(type(item) is int for item in value)


class _Choice(msgspec.Struct):
    text: str | None = None
    index: int = 0


class _Texts(msgspec.Struct):
    choices: list[_Choice] = []


_decode = msgspec.json.Decoder(_Texts).decode


def _first_text(data: bytes) -> str | None:
    """What a completion, or a chunk of one, says in its first choice."""
    try:
        choices = _decode(data).choices
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        choices = _lenient(data)
    return next((choice.text for choice in choices if choice.index == 0), None)


def _lenient(data: bytes) -> list[_Choice]:
    """The same for what only a lenient parser takes, such as a lone surrogate."""
    try:
        return msgspec.convert(json.loads(data), _Texts).choices
    except (ValueError, RecursionError):
        return []


def completion_meaning(body: bytes, *, detailed: bool = False) -> Meaning | None:
    """As `meaning_of`; `detailed` changes nothing, since nothing is added to such requests."""
    meaning = meaning_of(body)
    return None if meaning is None else meaning._replace(text=_first_text(body))


class CompletionStreamReader(ChatStreamReader):
    """Chunks that have `text` where those of a chat have a delta."""

    def text_of(self, block: bytes) -> str:
        data = (payload(frame) for frame in frames_of(block))
        return "".join(_first_text(each) or "" for each in data if each is not None)


COMPLETIONS = BackendApi("completions", b"/completions", completion_meaning, CompletionStreamReader)
COMPLETION = Dialect("/v1/completions", CompletionRequest.parse)
