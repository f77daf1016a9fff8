"""Requests that clients send in another form than chat, as chat requests whose answers are translated back."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Self

from router.additions import NOTHING, Additions
from router.apis import BackendApi
from router.body import JsonBody
from router.chat import ChatRequest
from router.config import BackendConfig
from router.dialects.base import Outgoing, Translation
from router.dialects.fields import Json, wrong
from router.http_client import Headers


class TranslatedRequest(ChatRequest, ABC):
    """What the rest of the gateway sees is the chat request; `asked` is what the client sent."""

    native_api: ClassVar[BackendApi]
    """The dialect as backends speak it that have it themselves."""
    asked: JsonBody

    @classmethod
    def of(cls, asked: JsonBody, chat: Json, headers: Headers) -> Self:
        """Raises: InvalidRequest."""
        request = cls.parse(_json(chat), headers)
        assert isinstance(request, cls)  # noqa: S101 - `parse` makes what it is called on
        request.asked = asked
        return request

    @abstractmethod
    def translation(self) -> Translation:
        """A new one for every attempt."""

    def outgoing(self, backend: BackendConfig, added: Additions = NOTHING) -> Outgoing:
        """Untouched to a backend that has this API itself, unless we want something beside the answer: that is asked
        for in chat's words."""
        if added == NOTHING and self.native_api.name in backend.native_apis:
            body = self.asked.splice(replace={"model": json.dumps(backend.model)}, remove=("router",))
            return Outgoing(self.native_api, body, hides_usage=False)
        return super().outgoing(backend, added)._replace(translation=self.translation())


def parser(
    request: type[TranslatedRequest], to_chat: Callable[[Mapping[str, Any]], Json]
) -> Callable[[bytes, Headers], ChatRequest]:
    """What reads the requests of a dialect."""

    def parse(data: bytes, headers: Headers) -> ChatRequest:
        asked = JsonBody.parse(data)
        return request.of(asked, to_chat(asked.values), headers)

    return parse


def _json(chat: Json) -> bytes:
    """Text as it was sent where UTF-8 can hold it; lone surrogates stay escapes."""
    try:
        text = json.dumps(chat, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    except ValueError as exc:
        raise wrong("body", "holds a number that is too large.") from exc
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError:
        return json.dumps(chat, separators=(",", ":")).encode()
