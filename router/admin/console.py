"""`/admin/console`: the operator's console, static files without any data.

The page signs in with an admin key and asks the endpoints of `/admin` like every other client. The files are read once,
at start: nothing of a request ever becomes a path.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import NamedTuple

from fastapi import FastAPI, Request
from fastapi.responses import Response
from starlette.exceptions import HTTPException

FOLDER = Path(__file__).parents[1] / "console"
PAGE = "index.html"
CLOSED_PAGE = "closed.html"
MEDIA_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
}
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
)
"""Nothing from elsewhere, nothing inline, no text that becomes markup."""
HEADERS = {
    "cache-control": "no-cache",  # kept, and asked for again by its ETag: an upgrade shows at the next load
    "content-security-policy": POLICY,
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
}


class Asset(NamedTuple):
    """One file."""

    content: bytes
    media_type: str
    etag: str


class Console:
    """Serves the files. `is_open`: whether there is an admin API for the page to ask."""

    def __init__(self, *, is_open: bool) -> None:
        self._assets = {path.name: _asset(path) for path in sorted(FOLDER.iterdir()) if path.suffix in MEDIA_TYPES}
        self._page = PAGE if is_open else CLOSED_PAGE

    def add_to(self, app: FastAPI) -> None:
        app.add_api_route("/admin/console", self.page, methods=["GET"])
        app.add_api_route("/admin/console/{name}", self.asset, methods=["GET"])

    async def page(self, request: Request) -> Response:
        """The page; without an admin key in the configuration, one that says how to set it."""
        return _answer(request, self._assets[self._page])

    async def asset(self, name: str, request: Request) -> Response:
        """A module, a style sheet or a picture."""
        asset = self._assets.get(name)
        if asset is None or name.endswith(".html"):
            raise HTTPException(404)
        return _answer(request, asset)


def _asset(path: Path) -> Asset:
    content = path.read_bytes()
    return Asset(content, MEDIA_TYPES[path.suffix], f'"{hashlib.sha256(content).hexdigest()[:32]}"')


def _answer(request: Request, asset: Asset) -> Response:
    headers = {**HEADERS, "etag": asset.etag}
    if asset.etag in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers=headers)
    return Response(asset.content, media_type=asset.media_type, headers=headers)
