"""`POST /v1/responses`: OpenAI's Responses API, without stored responses."""

from __future__ import annotations

from router.dialects.base import Dialect, Translation
from router.dialects.fields import Json
from router.dialects.frames import encoded, event
from router.dialects.responses.answer import from_chat
from router.dialects.responses.native import RESPONSES_API
from router.dialects.responses.request import to_chat
from router.dialects.responses.stream import ResponsesStream
from router.dialects.translated import TranslatedRequest, parser
from router.errors import LocumError, error_body


class ResponsesTranslation(ResponsesStream):
    """One answer, whole or as a stream."""

    def plain(self, answer: Json) -> bytes:
        return encoded(from_chat(answer, self.request))


class ResponsesRequest(TranslatedRequest):
    """A request in the form of the Responses API."""

    native_api = RESPONSES_API

    def translation(self) -> Translation:
        return ResponsesTranslation(self.asked.values)


def error_frame(error: LocumError) -> bytes:
    """An error in a stream that has begun before there was an answer."""
    stated = {"code": error.code, "message": str(error) or "Internal error.", "param": error.param}
    return event({"type": "error", "sequence_number": 0, **stated})


RESPONSES = Dialect("/v1/responses", parser(ResponsesRequest, to_chat), error_body, error_frame)
