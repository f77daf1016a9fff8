"""Finds policies by name: entry points in the group `locum.policies`, or `module:Class`."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from importlib.metadata import entry_points
from typing import Any

from pydantic import ValidationError

from policies.base import Policy, PolicyConfigError

ENTRY_POINT_GROUP = "locum.policies"
DEFAULT_POLICY_TYPES = ("long_context", "retrieval_confidence", "long_reasoning")


def available() -> list[str]:
    """Names of all installed policies, built-in and third-party."""
    return sorted({entry.name for entry in entry_points(group=ENTRY_POINT_GROUP)})


def build(type_name: str, options: Mapping[str, Any]) -> Policy:
    """Build one policy from the `type` and the other keys of its configuration table.

    Raises:
        PolicyConfigError: unknown type, a class that cannot be imported, a bad option; the message says which.
    """
    policy_class = _load(type_name)
    try:
        policy = policy_class(**options)
    except ValidationError as exc:
        first = exc.errors(include_url=False)[0]
        key = ".".join(str(part) for part in first["loc"]) or "options"
        raise PolicyConfigError(f"{key}: {first['msg']}") from exc
    except (TypeError, ValueError) as exc:
        raise PolicyConfigError(str(exc)) from exc
    if not isinstance(policy, Policy):
        missing = [part for part in ("name", "reasons", "needs", "decide") if not hasattr(policy, part)]
        raise PolicyConfigError(f"type: {type_name!r} is not a policy; it lacks {', '.join(missing)}")
    return policy


def build_all(tables: Sequence[Mapping[str, Any]]) -> list[Policy]:
    """Build the policies of a document in order; names are made unique so that each labels its own metrics.

    Raises:
        PolicyConfigError: prefixed with the index of the table.
    """
    built: list[Policy] = []
    for index, table in enumerate(tables):
        options = {key: value for key, value in table.items() if key != "type"}
        try:
            policy = build(str(table["type"]), options)
            if any(policy.name == other.name for other in built):
                raise PolicyConfigError(f"type: a policy named {policy.name!r} is already in the chain")
        except PolicyConfigError as exc:
            raise PolicyConfigError(f"{index}.{exc}") from exc
        built.append(policy)
    return built


def _load(type_name: str) -> Any:
    if ":" in type_name:
        module_name, _, class_name = type_name.partition(":")
        try:
            return getattr(importlib.import_module(module_name), class_name)
        except (ImportError, AttributeError) as exc:
            raise PolicyConfigError(f"type: cannot import {type_name!r}: {exc}") from exc
    for entry in entry_points(group=ENTRY_POINT_GROUP):
        if entry.name == type_name:
            try:
                return entry.load()
            except (ImportError, AttributeError) as exc:
                raise PolicyConfigError(f"type: cannot load {type_name!r} ({entry.value}): {exc}") from exc
    raise PolicyConfigError(
        f"type: unknown policy {type_name!r}; installed are {', '.join(available())}, or use 'module:Class'"
    )
