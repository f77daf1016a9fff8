"""A chat completion request: validated where the router depends on it, forwarded untouched everywhere else."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from typing import TYPE_CHECKING, Any

import msgspec

from policies.base import Chunk, RequestFeatures
from policies.record import CaptureLevel, strictest
from router import carriers, directives
from router.additions import NOTHING, Additions, additions_to
from router.apis import CHAT
from router.body import JsonBody
from router.config import BackendConfig
from router.dialects.base import Outgoing
from router.directives import Directives
from router.errors import InvalidRequest

if TYPE_CHECKING:
    from router.admission import Tenant

APPROX_BYTES_PER_TOKEN = 4
"""English prose and code through a 49k-152k vocabulary: 3.5 to 4.5 bytes a token."""
MAX_TURN_CHARS = 32_768
"""Policies look at no more than this of the last user turn: its head and its tail."""
MAX_PARTS = 65_536
"""Messages and content parts together: a bound on the time that one request can take from all others."""
PROMPT_KEYS = ("tools", "functions", "documents")
"""Top-level members that chat templates render into the prompt."""
_TYPES: dict[str, tuple[type, str]] = {
    "stream": (bool, "true or false"),
    "store": (bool, "true or false"),
    "stream_options": (dict, "an object"),
    "tools": (list, "a list"),
    "reasoning_effort": (str, "a string"),
    "response_format": (dict, "an object"),
}
IMAGE_TYPES = ("image_url", "image", "input_image")


class ChatRequest:
    """One parsed request. `features`, `outgoing` and `capture` are what the rest of the gateway needs of it.

    Dialects whose requests have another form are subclasses; their `body` is the translated one.
    """

    reviewable = True
    """Whether an answer to it is a chat completion, which reviewers can judge."""

    def __init__(self, body: JsonBody, given: Directives) -> None:
        self.body = body
        self.directives = given
        values = body.values
        self.model: str = values["model"]
        self.stream: bool = values.get("stream") is True
        options = values.get("stream_options")
        self.choices: int = values.get("n") or 1
        self.wants_usage: bool = isinstance(options, dict) and options.get("include_usage") is True

    @classmethod
    def parse(cls, data: bytes, headers: Iterable[tuple[bytes, bytes]]) -> ChatRequest:
        """Parse and check a body.

        Raises:
            InvalidRequest: with `param` naming the field.
        """
        body = JsonBody.parse(data)
        _check(body.values)
        return cls(body, directives.read(body.values, headers))

    def additions(self, wanted: Additions, *, keeps_text: bool) -> Additions:
        """What has to be added to a plain request; see `additions_to`."""
        return additions_to(self.body.values, wanted, choices=self.choices, keeps_text=keeps_text)

    def outgoing(self, backend: BackendConfig, added: Additions = NOTHING) -> Outgoing:
        """The request as it is put to a backend."""
        return Outgoing(CHAT, self.forwarded(backend.model, added), hides_usage=not self.wants_usage)

    def forwarded(self, model: str, added: Additions = NOTHING) -> bytes:
        """The body for a backend: its model name, no `router`, the options that we add, and usage asked for when a
        stream lacks it."""
        add: dict[str, str] = {}
        replace = {"model": _quoted(model)}
        for option, value in added.options().items() if added is not NOTHING else ():
            (replace if option in self.body.members else add)[option] = value
        if self.stream and not self.wants_usage:
            options = self.body.values.get("stream_options")
            if isinstance(options, dict) and options:
                inner = JsonBody.parse(self.body.raw("stream_options").encode("utf-8"))
                wanted = (
                    inner.splice(remove=["include_usage"], add={"include_usage": "true"})
                    if ("include_usage" not in options)
                    else inner.splice(replace={"include_usage": "true"})
                )
                replace["stream_options"] = wanted.decode("utf-8")
            elif "stream_options" in self.body.values:
                replace["stream_options"] = '{"include_usage":true}'
            else:
                add["stream_options"] = '{"include_usage":true}'
        return self.body.splice(replace=replace, remove=("router",), add=add)

    def belong_to(self, tenant: Tenant) -> None:
        """Take what the tenant's configuration adds to its requests: tags, and a bound on what the log may keep."""
        given = self.directives
        if tenant.tags:
            given = msgspec.structs.replace(given, tags={**tenant.tags, **(given.tags or {})})
        if tenant.capture != "full":
            given = msgspec.structs.replace(given, train=strictest(tenant.capture, given.train or "full"))
        self.directives = given

    def capture(self, configured: CaptureLevel) -> CaptureLevel:
        """What the log may keep: the strictest of the configuration, `router.train` and OpenAI's `store`."""
        level = configured
        if self.directives.train is not None:
            level = strictest(level, self.directives.train)
        if self.body.values.get("store") is False:
            level = strictest(level, "metadata")
        return level

    def subject(self) -> str | None:
        """Whom the answer is for, as the client names them; the Messages dialect puts `metadata.user_id` in `user`."""
        return subject_in(self.body.values)

    def prompt_texts(self) -> Iterator[str]:
        """Every text that becomes part of the prompt, in order."""
        for message in self.body.values["messages"]:
            yield from _texts(message.get("content"))
            if message.get("tool_calls"):
                yield json.dumps(message["tool_calls"])
        for key in PROMPT_KEYS:
            if key in self.body.members:
                yield self.body.raw(key)

    def session_key(self) -> bytes | None:
        """What keeps a conversation at one replica."""
        session = self.directives.session
        return session.encode("utf-8", "replace") if session else None

    def prompt_prefix(self, limit_bytes: int) -> bytes:
        """The first bytes of the prompt, by which replicas know it again."""
        prefix = b""
        for text in self.prompt_texts():
            prefix += text[:limit_bytes].encode("utf-8", "replace") + b"\n"
            if len(prefix) >= limit_bytes:
                break
        return prefix[:limit_bytes]

    def features(
        self, *, tenant: str, default_output_tokens: int, student_window_tokens: int | None
    ) -> RequestFeatures:
        """What policies see; extracted once."""
        values = self.body.values
        messages = values["messages"]
        prompt_bytes, has_images = self._measured()
        requested = values.get("max_completion_tokens") or values.get("max_tokens")
        chunks = self._chunks()
        return RequestFeatures(
            prompt_bytes=prompt_bytes,
            message_count=len(messages),
            approx_prompt_tokens=-(-prompt_bytes // APPROX_BYTES_PER_TOKEN),
            requested_output_tokens=requested or default_output_tokens,
            student_window_tokens=student_window_tokens,
            last_user_turn=_last_user_turn(messages),
            chunks=chunks or (),
            retrieval_attempted=chunks is not None,
            retrieval_confidence=self.directives.retrieval_confidence,
            reasoning_effort=_reasoning_effort(values),
            has_tools=bool(values.get("tools") or values.get("functions")),
            has_response_format=_structured(values.get("response_format")),
            has_images=has_images,
            tenant=tenant,
            session=storable(self.directives.session) if self.directives.session else None,
            tags={storable(key): storable(value) for key, value in (self.directives.tags or {}).items()},
        )

    def _measured(self) -> tuple[int, bool]:
        """UTF-8 bytes of `prompt_texts`, and whether there is an image; one pass, since every request pays for it."""
        size, has_images = 0, False
        for message in self.body.values["messages"]:
            content = message.get("content")
            if isinstance(content, str):
                size += len(content) if content.isascii() else _utf8_length(content)
            elif content:
                size += sum(map(_utf8_length, _texts(content)))
                has_images = has_images or any(part.get("type") in IMAGE_TYPES for part in content)
            if message.get("tool_calls"):
                size += _utf8_length(json.dumps(message["tool_calls"]))
        for key in PROMPT_KEYS:
            if key in self.body.members:
                size += _utf8_length(self.body.raw(key))
        return size, has_images

    def _chunks(self) -> tuple[Chunk, ...] | None:
        if self.directives.retrieved_chunks is not None:
            return tuple(
                Chunk(text=storable(chunk.text), score=chunk.score, id=chunk.id)
                for chunk in self.directives.retrieved_chunks
            )
        found = carriers.chunks_in(self.body.values)
        if found is None:
            return None
        return tuple(Chunk(text=storable(c.text), score=c.score, id=c.id and storable(c.id)) for c in found)


def subject_in(values: Mapping[str, Any]) -> str | None:
    """`safety_identifier`, else what it has replaced, `user`."""
    given = values.get("safety_identifier") or values.get("user")
    return given if isinstance(given, str) else None


@cache
def _quoted(model: str) -> str:
    """A backend's model name as JSON; the configuration names a few."""
    return json.dumps(model)


def storable(text: str) -> str:
    """The text without lone surrogates, which JSON can spell and UTF-8 cannot."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode("utf-8")


def _check(values: Mapping[str, Any]) -> None:
    """Types of the fields that the router reads. Everything else is the backend's to judge."""
    model = values.get("model")
    if not isinstance(model, str) or not model:
        raise InvalidRequest("model is required and must be a string, for example 'auto'.", param="model")
    messages = values.get("messages")
    if not isinstance(messages, list):
        raise InvalidRequest("messages is required and must be a list.", param="messages")
    if not messages:
        raise InvalidRequest("messages must not be empty.", param="messages")
    parts = len(messages)
    for index, message in enumerate(messages):
        parts += _check_message(message, f"messages.{index}")
        if parts > MAX_PARTS:
            raise InvalidRequest(f"messages has more than {MAX_PARTS} messages and parts.", param="messages")
    for key in ("max_tokens", "max_completion_tokens", "n"):
        value = values.get(key)
        if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
            raise InvalidRequest(f"{key} must be a whole number of at least 1.", param=key)
    if not _TYPES.keys().isdisjoint(values):
        _check_types(values)


def _check_types(values: Mapping[str, Any]) -> None:
    for key, (kind, words) in _TYPES.items():
        value = values.get(key)
        if value is not None and not isinstance(value, kind):
            raise InvalidRequest(f"{key} must be {words}.", param=key)


def _check_message(message: Any, param: str) -> int:
    """Returns the number of parts of its content."""
    if not isinstance(message, dict):
        raise InvalidRequest(f"{param} must be an object.", param=param)
    if not isinstance(message.get("role"), str):
        raise InvalidRequest(f"{param}.role is required and must be a string.", param=f"{param}.role")
    content = message.get("content")
    if isinstance(content, list):
        for index, part in enumerate(content):
            if not isinstance(part, dict):
                raise InvalidRequest(
                    f"{param}.content.{index} must be an object with a type.",
                    param=f"{param}.content.{index}",
                )
    elif content is not None and not isinstance(content, str):
        raise InvalidRequest(f"{param}.content must be a string or a list of parts.", param=f"{param}.content")
    return len(content) if isinstance(content, list) else 0


def _texts(content: Any) -> Iterator[str]:
    if isinstance(content, str):
        yield content
        return
    for part in content or ():
        for key in ("text", "content", "results"):
            value = part.get(key)
            if isinstance(value, str):
                yield value
            elif isinstance(value, list):
                yield json.dumps(value)


def _utf8_length(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode("utf-8", "replace"))


def _last_user_turn(messages: list[Any]) -> str:
    for message in reversed(messages):
        if message["role"] == "user":
            text = "\n".join(_texts(message.get("content")))
            if len(text) > MAX_TURN_CHARS:
                half = MAX_TURN_CHARS // 2
                text = f"{text[:half]}\n{text[-half:]}"
            return storable(text)
    return ""


def _reasoning_effort(values: Mapping[str, Any]) -> str | None:
    effort = values.get("reasoning_effort")
    if effort is None and isinstance(values.get("reasoning"), dict):
        effort = values["reasoning"].get("effort")
    return storable(effort)[:32] if isinstance(effort, str) else None


def _structured(response_format: Any) -> bool:
    return isinstance(response_format, dict) and response_format.get("type") not in (None, "text")
