"""Endpoints that are served without ASGI, and a request to one of them in the server's place for requests."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any, Protocol

from uvicorn.protocols.http.flow_control import FlowControl

from router.exchange import Exchange
from router.http_client import Headers

logger = logging.getLogger(__name__)


class HotEndpoint(Protocol):
    """An endpoint that is served without ASGI."""

    path: str

    def serve(self, exchange: Exchange) -> Coroutine[Any, Any, None]:
        """One request and its response."""


FindHot = Callable[[str, Headers], HotEndpoint | None]
"""Whose a POST with this path and these headers is; None: the ASGI application's."""


class HotCycle(Exchange):
    """An exchange in the place where the server's base has its own kind of request."""

    def __init__(
        self, transport: asyncio.Transport, flow: FlowControl, endpoint: HotEndpoint, scope: Any, **options: Any
    ) -> None:
        """
        Args:
            scope: the server's; only its identity matters.
            options: as for `Exchange`.
        """
        super().__init__(transport, flow, **options)
        self.endpoint = endpoint
        self.scope = scope

    def served(self, task: asyncio.Task[None]) -> None:
        """The endpoint has returned; an answer of which a part is missing ends with the connection."""
        if not task.cancelled() and task.exception() is not None:
            logger.error("a hot endpoint failed", exc_info=task.exception())
        if not self.response_complete and not self.disconnected:
            self._transport.close()
