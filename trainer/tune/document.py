"""A tuned threshold as a table of the configuration, or as the next version of a policy document."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec


class DocumentError(ValueError):
    """The document cannot be changed. Wrong input."""


def policy_table(policy: str, changes: Mapping[str, Any]) -> str:
    """TOML. Of a policy that is configured already the other keys stay as they are."""
    lines = [f"{key} = {_toml(value)}" for key, value in changes.items()]
    return "\n".join(["[[routing.policies]]", f'type = "{policy}"', *lines, ""])


def changed_document(path: Path, policy: str, changes: Mapping[str, Any]) -> bytes:
    """The document in a file with this policy's table changed; one without such a table gets it as the last.

    Raises: DocumentError, OSError.
    """
    try:
        content = msgspec.json.decode(path.read_bytes(), type=dict[str, Any])
        document = content.get("document", content)
        tables = document["routing"]["policies"]
        found = [table for table in tables if table.get("type") == policy and table.get("mode") != "shadow"]
    except (msgspec.MsgspecError, KeyError, TypeError, AttributeError) as exc:
        raise DocumentError(f"--document: {path} is no policy document; write one with `locum policy get`") from exc
    if found:
        for key in ("threshold_by_tag", "calibrator"):
            found[0].pop(key, None)
        found[0].update(changes)
    else:
        tables.append({"type": policy, **changes})
    return msgspec.json.format(msgspec.json.encode(content), indent=2) + b"\n"


def _toml(value: object) -> str:
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{_key(key)} = {_toml(each)}" for key, each in value.items()) + " }"
    if isinstance(value, str):
        return msgspec.json.encode(value).decode()  # a JSON string is a TOML string
    return repr(value)


def _key(key: str) -> str:
    plain = key.isascii() and key.replace("_", "").replace("-", "").isalnum()
    return key if plain else msgspec.json.encode(key).decode()
