"""`POST /v1/messages`: Anthropic's Messages API."""

from __future__ import annotations

from router.dialects.base import Dialect, Translation
from router.dialects.fields import Json
from router.dialects.frames import encoded, event
from router.dialects.messages.answer import error_body, error_object, from_chat
from router.dialects.messages.native import MESSAGES_API
from router.dialects.messages.request import shows_thinking, to_chat
from router.dialects.messages.stream import MessagesStream
from router.dialects.translated import TranslatedRequest, parser
from router.errors import LocumError


class MessagesTranslation(MessagesStream):
    """One answer, whole or as a stream."""

    def plain(self, answer: Json) -> bytes:
        return encoded(from_chat(answer, self.model, thinking=self.thinking))


class MessagesRequest(TranslatedRequest):
    """A request in Anthropic's form."""

    native_api = MESSAGES_API

    def translation(self) -> Translation:
        return MessagesTranslation(self.model, thinking=shows_thinking(self.asked.values))


def error_frame(error: LocumError) -> bytes:
    """An error in a stream that has begun before there was an answer."""
    return event(error_object(error))


MESSAGES = Dialect("/v1/messages", parser(MessagesRequest, to_chat), error_body, error_frame, passes_refusals=False)
