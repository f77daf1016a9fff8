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
    content, tables = _read(path)
    found = _table(tables, policy)
    if found is None:
        tables.append({"type": policy, **changes})
    else:
        for key in ("threshold_by_tag", *(["model"] if "calibrator" in changes else [])):
            found.pop(key, None)
        found.update(changes)
    return msgspec.json.format(msgspec.json.encode(content), indent=2) + b"\n"


def model_sha256(path: Path, policy: str) -> str:
    """Of the artefact that the policy's table names as its `model`; empty where it names none.

    Raises: DocumentError: the artefact is not there, OSError.
    """
    table = _table(_read(path)[1], policy) or {}
    model = table.get("model")
    if not isinstance(model, str):
        return ""
    try:
        return msgspec.json.decode(Path(model).read_bytes(), type=_Stated).sha256
    except (OSError, msgspec.MsgspecError) as exc:
        raise DocumentError(f"--document: the model of {policy}, {model}, cannot be read here: {exc}") from exc


class _Stated(msgspec.Struct):
    sha256: str


def _read(path: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The content, and within it the tables of its policies."""
    try:
        content = msgspec.json.decode(path.read_bytes(), type=dict[str, Any])
        tables = msgspec.convert(content.get("document", content)["routing"]["policies"], list[dict[str, Any]])
    except (msgspec.MsgspecError, KeyError, TypeError) as exc:
        raise DocumentError(f"--document: {path} is no policy document; write one with `locum policy get`") from exc
    content.get("document", content)["routing"]["policies"] = tables
    return content, tables


def _table(tables: list[dict[str, Any]], policy: str) -> dict[str, Any] | None:
    """Of the policy that decides; the same in shadow is another one."""
    found = (table for table in tables if table.get("type") == policy and table.get("mode") != "shadow")
    return next(found, None)


def _toml(value: object) -> str:
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{_key(key)} = {_toml(each)}" for key, each in value.items()) + " }"
    if isinstance(value, str):
        return msgspec.json.encode(value).decode()  # a JSON string is a TOML string
    return repr(value)


def _key(key: str) -> str:
    plain = key.isascii() and key.replace("_", "").replace("-", "").isalnum()
    return key if plain else msgspec.json.encode(key).decode()
