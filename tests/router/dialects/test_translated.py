"""Requests that have to be translated to chat."""

from __future__ import annotations

import pytest

from router.body import JsonBody
from router.dialects.translated import TranslatedRequest


class Untranslatable(TranslatedRequest):
    """A dialect that forgot the way back."""


def test_dialect_without_a_translation_cannot_read_a_request() -> None:
    chat = {"model": "auto", "messages": [{"role": "user", "content": "Hi"}]}
    with pytest.raises(TypeError, match="translation"):
        Untranslatable.of(JsonBody.parse(b"{}"), chat, [])
