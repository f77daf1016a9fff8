"""docs/openapi.json describes the endpoints that exist, and is what the code says."""

from __future__ import annotations

from router.app import build_app
from router.config_file import parse
from router.openapi import FILE, document, rendered


def test_document_is_up_to_date() -> None:
    assert FILE.read_text() == rendered(), "run: python -m router.openapi --write"


def test_document_has_every_endpoint_of_clients() -> None:
    app = build_app(
        parse('[student]\nbase_url = "http://a/v1"\n[teacher]\nbase_url = "http://b/v1"\n[log]\ndir = ""'), environ={}
    )
    served = {
        route.path.replace(":path}", "}")  # type: ignore[attr-defined]
        for route in app.routes
        if not route.path.startswith("/admin")  # type: ignore[attr-defined]
    }
    assert served == set(document()["paths"])
