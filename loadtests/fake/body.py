"""Request bodies, as far as the fake backend reads them."""

from __future__ import annotations

import msgspec

MAX_CHOICES = 16


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
    n: int | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    logprobs: bool | int | None = None
    return_token_ids: bool | None = None
    tools: object = None

    @property
    def is_chat(self) -> bool:
        return self.messages is not None

    @property
    def choices(self) -> int:
        return max(1, min(self.n or 1, MAX_CHOICES))

    @property
    def limit_tokens(self) -> int | None:
        return self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens

    def directive_text(self) -> str:
        """Where a `[[directive]]` may stand: the last user message, or the prompt."""
        if self.messages is None:
            return self.prompt if isinstance(self.prompt, str) else ""
        for message in reversed(self.messages):
            if message.role == "user":
                return message.text()
        return ""

    def prompt_tokens(self) -> int:
        """Four characters count as a token, the template as eight: a fake count that follows the length."""
        if self.messages is None:
            return (len(self.prompt) if isinstance(self.prompt, str) else 0) // 4 + 8
        chars = 0
        for message in self.messages:
            content = message.content
            chars += len(content) if type(content) is str else len(message.text())
        return chars // 4 + 8
