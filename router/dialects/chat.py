"""`POST /v1/chat/completions`: what everything else is translated to."""

from __future__ import annotations

from router.chat import ChatRequest
from router.dialects.base import Dialect

CHAT = Dialect("/v1/chat/completions", ChatRequest.parse)
