"""HTTP/1 on the client's side: uvicorn's protocol, with bounded heads, without upgrades and chunks for HTTP/1.0."""

from __future__ import annotations

import asyncio
import logging
import math
import urllib.parse
from typing import Any

import httptools
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from router.errors import InvalidRequest, error_body
from router.hot import FindHot, HotCycle, HotEndpoint
from router.request_heads import MAX_HEAD_BYTES, HeadTooLarge, check_size, check_unambiguous

logger = logging.getLogger(__name__)

LINGER_S = 2.0
"""A refused client is listened to for this long: closing at once would reset the connection under the answer."""
UPGRADE_HEADERS = frozenset({b"upgrade", b"http2-settings"})


class ClientProtocol(HttpToolsProtocol):
    """One client connection. uvicorn makes it, so what it is configured with stands on the class: see `configured`.

    What it adds to its base: hot endpoints get an `Exchange` instead of ASGI; an offered upgrade (h2c, websocket) is
    ignored as RFC 9110 allows, where httptools would take the body for the other protocol; a head has a greatest size
    and a longest time; HTTP/1.0 gets no chunks.
    """

    head_timeout_s = 30.0
    idle_grace_s = 1.0
    cycle: RequestResponseCycle | HotCycle  # type: ignore[assignment]
    find_hot: FindHot = staticmethod(lambda path, headers: None)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._offers_upgrade = False
        self._refused = False
        self._progress = False
        self._chunk_bytes = 0
        self._pending_bytes = 0
        self._head_timer: asyncio.TimerHandle | None = None
        self._idle_timer: asyncio.TimerHandle | None = None
        self._idle_since_s = math.inf
        """Loop time of the end of the last answer; inf while a request is there or on its way."""
        self._draining = False

    # asyncio's callbacks

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_head_timer()
        if self._idle_timer is not None:
            self._idle_timer.cancel()
        cycle, self.cycle = self.cycle, None  # type: ignore[assignment]  # the base knows only its own
        if cycle is not None:
            _disconnect(cycle)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._refused:
            return
        self._idle_since_s = math.inf
        self._chunk_bytes = len(data)
        self._progress = False
        try:
            self._feed(data)
        except httptools.HttpParserError as exc:
            if isinstance(exc.__context__, InvalidRequest):
                self._refuse(exc.__context__)
            else:
                logger.info("a request was refused: %s", type(exc).__name__)
                self.send_400_response("This is not valid HTTP/1.1.")
            return
        if self._progress:
            self._pending_bytes = 0
        if not self._progress or self._in_head():
            self._incomplete()

    def _in_head(self) -> bool:
        """Whether the current message has no request yet: it has one from the end of its head."""
        return self.cycle is None or self.cycle.scope is not self.scope

    def _feed(self, data: bytes) -> None:
        """Raises: httptools.HttpParserError."""
        while data:
            try:
                self.parser.feed_data(data)
                return
            except httptools.HttpParserUpgrade as exc:
                head, data = self._head_without_upgrade(), data[exc.args[0] :]
            self.parser = httptools.HttpRequestParser(self)
            self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
            self._offers_upgrade = False
            try:
                self.parser.feed_data(head)
            except httptools.HttpParserUpgrade as exc:
                raise httptools.HttpParserError("CONNECT") from exc

    def _head_without_upgrade(self) -> bytes:
        """The current request's head as the client should have sent it. The body's framing is not touched."""
        version = self.parser.get_http_version().encode()
        lines = [b"%b %b HTTP/%b" % (self.parser.get_method(), self.url, version)]
        lines += [b"%b: %b" % (name, value) for name, value in self.headers if name not in UPGRADE_HEADERS]
        return b"\r\n".join(lines) + b"\r\n\r\n"

    def _incomplete(self) -> None:
        """What came has not ended in a whole head or a piece of a body that somebody waits for."""
        if self._head_timer is None:
            self._await_head()
        if self._progress or (self.cycle is not None and self.cycle.response_complete and not self._in_head()):
            return  # the rest of a body that was refused: the timer is enough
        self._pending_bytes += self._chunk_bytes
        if self._pending_bytes > MAX_HEAD_BYTES:
            self._refuse(HeadTooLarge())

    # httptools' callbacks

    def on_headers_complete(self) -> None:
        if self._pending_bytes + self._chunk_bytes > MAX_HEAD_BYTES:
            check_size(self.url, self.headers)
        check_unambiguous(self.parser.get_http_version(), self.headers)
        if self.parser.should_upgrade():
            self._offers_upgrade = True  # the parser stops here; `_feed` starts it anew
            return
        if self._head_timer is not None:
            self._stop_head_timer()
        endpoint = None
        if self.parser.get_method() == b"POST":
            endpoint = self.find_hot(self._path(), self.headers)
        if endpoint is not None:
            self._begin_exchange(endpoint)
        else:
            super().on_headers_complete()
            if self.scope["http_version"] == "1.0":
                _send_unframed(self.cycle)  # type: ignore[arg-type]  # the base has just made it
        self.headers = []  # the request keeps its list; what follows are trailers, which must not pass for headers
        self._progress = True
        if self._draining:
            self.cycle.keep_alive = False

    def _path(self) -> str:
        """Of the request, without its query. Raises: HttpParserInvalidURLError."""
        path = httptools.parse_url(self.url).path.decode("ascii")
        return urllib.parse.unquote(path) if "%" in path else path

    def _begin_exchange(self, endpoint: HotEndpoint) -> None:
        """Serve a request of a hot endpoint, behind those of the same connection that came before it."""
        version = self.parser.get_http_version()
        exchange = HotCycle(
            self.transport,
            self.flow,
            endpoint,
            self.scope,
            headers=self.headers,
            date=self.server_state.default_headers,
            keep_alive=version != "1.0" and self.parser.should_keep_alive(),
            chunked=version != "1.0",
            expects_continue=self.expect_100_continue,
            on_end=self.on_response_complete,
        )
        before, self.cycle = self.cycle, exchange
        if before is None or before.response_complete:
            self._start_asgi_task(exchange, self.app)
        else:
            self.flow.pause_reading()
            self.pipeline.appendleft((exchange, self.app))  # type: ignore[arg-type]

    def _start_asgi_task(self, cycle: RequestResponseCycle | HotCycle, app: Any) -> None:
        if not isinstance(cycle, HotCycle):
            super()._start_asgi_task(cycle, app)
            return
        task = self.loop.create_task(cycle.endpoint.serve(cycle))
        self.tasks.add(task)
        task.add_done_callback(cycle.served)
        task.add_done_callback(self.tasks.discard)

    def on_body(self, body: bytes) -> None:
        cycle = self.cycle
        if cycle.response_complete:
            return
        self._progress = True
        if isinstance(cycle, HotCycle):
            cycle.feed(body)
        else:
            super().on_body(body)

    def on_message_complete(self) -> None:
        if self._offers_upgrade:
            return
        if isinstance(self.cycle, HotCycle):
            self.cycle.complete()
        else:
            super().on_message_complete()

    def on_response_complete(self) -> None:
        """The base sets a timer for every answer; here one looks now and then when the last one ended."""
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        self.flow.resume_reading()
        if self.pipeline:
            cycle, app = self.pipeline.pop()
            self._start_asgi_task(cycle, app)
            return
        self._idle_since_s = self.loop.time()
        if self._idle_timer is None:
            self._idle_timer = self.loop.call_later(self.timeout_keep_alive, self._close_when_idle)

    def _close_when_idle(self) -> None:
        left_s = self.timeout_keep_alive - max(0.0, self.loop.time() - self._idle_since_s)
        if left_s > 0:
            self._idle_timer = self.loop.call_later(left_s, self._close_when_idle)
        elif not self.transport.is_closing():
            self.transport.close()

    # Ends

    def shutdown(self) -> None:
        """Called by uvicorn when the server drains. A request may be on its way over an idle connection: closing at
        once would fail it. Its answer tells the client not to come back over this connection."""
        self._draining = True
        if self.cycle is None or self.cycle.response_complete:
            self.loop.call_later(self.idle_grace_s, self._close_idle)
        else:
            self.cycle.keep_alive = False

    def _close_idle(self) -> None:
        if self.cycle is None or self.cycle.response_complete:
            self.transport.close()

    def send_400_response(self, msg: str) -> None:
        """Called by uvicorn as well, for what is not HTTP."""
        self._refuse(InvalidRequest(msg, code="invalid_http"))

    def _refuse(self, error: InvalidRequest) -> None:
        """Answer outside of ASGI and close. An answer to another request is cut off: nothing may be mixed into it."""
        self._refused = True
        self._stop_head_timer()
        if self.cycle is not None and not self.cycle.response_complete:
            if self.cycle.response_started or self.pipeline or self._in_head():
                self.transport.close()
                return
            _disconnect(self.cycle)  # the endpoint waits for the rest of this very request
        body = error_body(error)
        self.transport.write(
            b"%bcontent-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n\r\n%b"
            % (STATUS_LINE[error.status], len(body), body)
        )
        if self.transport.can_write_eof():  # not with TLS
            self.transport.write_eof()
        self.loop.call_later(LINGER_S, self.transport.close)

    def _await_head(self) -> None:
        self._head_timer = self.loop.call_later(self.head_timeout_s, self._head_is_late)

    def _head_is_late(self) -> None:
        """Closes, except under a running request: then reading may be paused, and the head is not the client's debt."""
        self._head_timer = None
        if self.cycle is not None and not self.cycle.response_complete:
            self._await_head()
        elif not self.transport.is_closing():
            self.transport.close()

    def _stop_head_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None


def _disconnect(cycle: RequestResponseCycle | HotCycle) -> None:
    if isinstance(cycle, HotCycle):
        cycle.disconnect()
    else:
        cycle.disconnected = cycle.disconnected or not cycle.response_complete
        cycle.message_event.set()


def configured(*, head_timeout_s: float, idle_grace_s: float, find_hot: FindHot) -> type[ClientProtocol]:
    """The protocol class for `uvicorn.Config(http=...)`."""
    values = {"head_timeout_s": head_timeout_s, "idle_grace_s": idle_grace_s, "find_hot": staticmethod(find_hot)}
    return type("ConfiguredClientProtocol", (ClientProtocol,), values)


def _send_unframed(cycle: RequestResponseCycle) -> None:
    """Make a response without a length end with its connection: HTTP/1.0 knows no chunks."""
    send = cycle.send
    unframed = False

    async def send_unframed(message: Any) -> None:
        nonlocal unframed
        if message["type"] == "http.response.start":
            if all(name.lower() != b"content-length" for name, _ in message.get("headers", ())):
                cycle.chunked_encoding, unframed = False, True
        elif unframed:
            cycle.expected_content_length = len(message.get("body", b""))
        await send(message)

    cycle.send = send_unframed  # type: ignore[method-assign]
