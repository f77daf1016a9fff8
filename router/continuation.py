"""A teacher goes on where the student was stopped: what it is asked, and how its stream becomes the rest of the other.

The client has read a part of the answer already. The teacher gets the conversation with that part as its own last turn,
and the client one stream: one id, one model, one role, one end, and one count of tokens.
"""

from __future__ import annotations

import json
import re
from typing import Any

import msgspec

from policies.record import Usage
from router.body import JsonBody
from router.chat import ChatRequest
from router.config import BackendConfig, TeacherConfig
from router.dialects.base import Outgoing, Translation
from router.errors import InvalidRequest
from router.sse import FrameSplitter, frames_of, only_names_the_role, payload, usage_of

INSTRUCTION = (
    "Your answer above was interrupted. Continue it from exactly where it stops: write only what comes next, "
    "without an introduction and without repeating anything. If something in it is wrong, correct it as you go on."
)
IDENTITY = ("id", "created", "model", "system_fingerprint")
"""Members of a chunk that are one stream's own."""
LIMITS = ("max_completion_tokens", "max_tokens")
_role = re.compile(rb'"role"\s*:\s*"assistant"\s*,\s*|(?:,\s*)?"role"\s*:\s*"assistant"')
"""With the comma before it where it stands last, as some gateways write it."""


class NoContinuation(Exception):
    """The answer cannot be continued.

    Attributes:
        cause: as in `LateEnding.cause`.
    """

    def __init__(self, cause: str) -> None:
        super().__init__(cause)
        self.cause = cause


def continued(request: ChatRequest, text: str | None, *, is_text: bool, tokens: int) -> JsonBody:
    """The conversation with the beginning of its answer, and the limit of what is left of it.

    Args:
        text: of the answer so far; None: it is not known.
        is_text: whether it is nothing else, such as a call that has begun.
        tokens: of it.
    Raises:
        NoContinuation: a teacher cannot go on from there.
    """
    if not is_text:
        raise NoContinuation("call_begun")
    if text is None:
        raise NoContinuation("not_text")
    if not text.strip():
        raise NoContinuation("not_kept")
    kind = request.body.values.get("response_format")
    if isinstance(kind, dict) and kind.get("type") not in (None, "text"):
        raise NoContinuation("structured_output")  # a grammar begins at the first token of a call, not in its middle
    replace = {"messages": _with(request.body.raw("messages"), {"role": "assistant", "content": text})}
    for name in LIMITS:
        limit = request.body.values.get(name)
        if limit is not None:
            if limit <= tokens:
                raise NoContinuation("no_room")
            replace[name] = str(limit - tokens)
    return JsonBody.parse(request.body.splice(replace=replace))


def outgoing(request: ChatRequest, body: JsonBody, backend: BackendConfig, translation: Translation | None) -> Outgoing:
    """What one teacher is asked.

    Args:
        body: from `continued`.
        translation: that the client's stream has begun with.
    """
    if isinstance(backend, TeacherConfig) and backend.continuation == "final_message":
        wanted = {"add_generation_prompt": "false", "continue_final_message": "true"}
        given = {name: value for name, value in wanted.items() if name in body.members}
        data = body.splice(replace=given, add={name: wanted[name] for name in wanted if name not in given})
    else:
        messages = _with(body.raw("messages"), {"role": "user", "content": INSTRUCTION})
        data = body.splice(replace={"messages": messages})
    asked = ChatRequest(JsonBody.parse(data), request.directives).outgoing(backend)
    return asked._replace(translation=translation)


def _with(messages: str, message: dict[str, str]) -> str:
    """A list of messages, as JSON, and one more."""
    return f"{messages.rstrip()[:-1]},{json.dumps(message)}]"


def identity_of(block: bytes) -> dict[str, Any]:
    """The members that name a stream, out of its first chunk."""
    for data in filter(None, map(payload, frames_of(block))):
        try:
            chunk = msgspec.json.decode(data)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            continue
        if isinstance(chunk, dict) and "choices" in chunk:
            return {name: chunk[name] for name in IDENTITY if name in chunk}
    return {}


class Seam(FrameSplitter):
    """Makes a teacher's chunks those of the student's stream, before anything else reads them."""

    passes_whole_frames = False

    def __init__(self, identity: dict[str, Any], before: Usage) -> None:
        """
        Args:
            identity: of the stream that the client knows.
            before: what was used until the teacher was asked.
        """
        super().__init__()
        self.usage: Usage | None = None
        """Of the teacher's part alone."""
        self._identity = {name: json.dumps(value) for name, value in identity.items()}
        self._before = before
        self._begun = False

    def feed(self, data: bytes) -> bytes:
        return b"".join(map(self._fitted, frames_of(super().feed(data))))

    def rest(self) -> bytes:
        return self._fitted(super().rest())

    def _fitted(self, frame: bytes) -> bytes:
        data = payload(frame)
        if data is None or not data.startswith(b"{"):
            return frame
        if not self._begun and only_names_the_role(data):
            return b""  # the student's has named it
        try:
            chunk = JsonBody.parse(data)
        except InvalidRequest:
            return frame
        replace = {name: value for name, value in self._identity.items() if name in chunk.members}
        usage = usage_of(chunk.values)
        if usage is not None:
            self.usage = usage
            replace["usage"] = self._sum(chunk.values["usage"])
        new = chunk.splice(replace=replace)
        self._begun = self._begun or bool(chunk.values.get("choices"))
        if b'"role"' in new:  # some servers name it in every chunk
            new = _role.sub(b"", new, count=1)
        return b"data: " + new.replace(b"\n", b" ") + b"\n\n"

    def _sum(self, stated: dict[str, Any]) -> str:
        """The teacher's usage object with what was used before it."""
        prompt_tokens = stated["prompt_tokens"] + self._before.prompt_tokens
        completion_tokens = stated["completion_tokens"] + self._before.completion_tokens
        total = {"total_tokens": prompt_tokens + completion_tokens} if "total_tokens" in stated else {}
        return json.dumps(
            {**stated, "prompt_tokens": prompt_tokens, "completion_tokens": completion_tokens, **total},
            separators=(",", ":"),
        )
