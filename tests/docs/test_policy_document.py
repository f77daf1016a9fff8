"""The page about the policy document says what the code does."""

from __future__ import annotations

import json
import re
from pathlib import Path

from fastapi import FastAPI
from fastapi.routing import APIRoute

from router.admin.keys import MIN_KEY_CHARACTERS, WRONG_KEYS_PER_MINUTE
from router.app import build_app
from router.config_file import parse
from router.documents.archive import KEPT_VERSIONS
from router.documents.document import PolicyDocument, ServerBounds, parse_document
from router.state.base import HISTORY_LENGTH

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "policy-document.md").read_text()
CONFIG = """
[student]
base_url = "http://127.0.0.1:35001/v1"
[teacher]
base_url = "http://127.0.0.1:35002/v1"
[log]
dir = ""
[auth]
keys_env = "KEYS"
admin_key_env = "ADMIN"
"""


def gateway() -> FastAPI:
    return build_app(parse(CONFIG), environ={"KEYS": "acme=client-key-1", "ADMIN": "0123456789abcdef"})


def test_example_is_a_document_with_every_table_and_bound() -> None:
    (example,) = re.findall(r"```json\n(.*?)```", TEXT, re.DOTALL)
    value = json.loads(example)
    document = parse_document(value, defaults=PolicyDocument.of_config(parse(CONFIG)))
    document.routing.build_policies()
    assert set(value) == set(PolicyDocument.model_fields)
    assert set(value["server"]) == set(ServerBounds.model_fields)


def test_every_admin_endpoint_is_in_the_table() -> None:
    found = {
        (method, route.path)
        for route in gateway().routes
        if isinstance(route, APIRoute) and route.path.startswith("/admin")
        for method in route.methods
    }
    told = {(method, path) for method, path in re.findall(r"`(GET|PUT|POST) (/admin[a-z/{}]*)", TEXT)}
    assert told == found


def test_numbers_are_those_of_the_code() -> None:
    assert f"the last {KEPT_VERSIONS:,})" in TEXT
    assert f"the last {HISTORY_LENGTH} versions" in TEXT
    assert f"at least {MIN_KEY_CHARACTERS} characters" in TEXT
    assert WRONG_KEYS_PER_MINUTE == 10
    assert "Ten wrong keys a minute" in TEXT
