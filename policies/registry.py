"""Finds policies by name: entry points in the group `locum.policies`, or `module:Class`."""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any, NamedTuple

from pydantic import BaseModel, ValidationError

from policies.adapter import adapt
from policies.base import Policy, PolicyConfigError, Reviewer, StudentDefaults
from policies.governor import Governor
from policies.shadowing import DEFAULT_MEASURE_SHARE, Shadowed
from policies.standing import CertificateGuard, Standing, standing_of

ENTRY_POINT_GROUP = "locum.policies"
DEFAULT_POLICY_TYPES = ("long_context", "retrieval_confidence", "long_reasoning")
BUILT_IN_POLICY_TYPES = (*DEFAULT_POLICY_TYPES, "difficulty", "cascade", "budget", "explore")

AnyPolicy = Policy | Reviewer | Governor
MODES = ("decide", "shadow")
MEASURE_SHARE = "shadow_measure_share"
COMMON_KEYS = frozenset({"type", "mode", MEASURE_SHARE, "certificate", "on_void"})
"""Keys of every policy table; the others are the policy's own options."""
PolicyFactory = Callable[..., object]
"""A class, or any callable, that builds a policy from its options as keyword arguments."""


def available() -> list[str]:
    """Names of all installed policies, built-in and third-party."""
    return sorted({entry.name for entry in _installed(tuple(sys.path))})


@lru_cache(maxsize=4)
def _installed(path: tuple[str, ...]) -> tuple[EntryPoint, ...]:
    """Looking through every installed package takes 20 ms, for each policy of each document that is built."""
    return tuple(entry_points(group=ENTRY_POINT_GROUP))


class BuiltPolicies(NamedTuple):
    """The policies of a document, by the time at which they are asked; one with several methods is in several."""

    policies: list[Policy]
    """Asked before generation."""
    reviewers: list[Reviewer]
    """Asked about the student's draft. When there are none, nothing has to be held back for them."""
    governors: list[Governor]
    """Asked behind all others."""
    shadows: list[Shadowed]
    """Asked, and without a say."""
    standings: list[Standing]
    """Of the policies that have a certificate."""


def build(type_name: str, options: Mapping[str, Any], *, student: StudentDefaults | None = None) -> AnyPolicy:
    """Build one policy from the `type` and the other keys of its configuration table.

    Args:
        student: what the served student brings along; None where none is served (`locum check`).
    Raises:
        PolicyConfigError: unknown type, a class that cannot be imported, a bad option; the message says which.
    """
    factory = _load(type_name)
    _check_option_names(factory, type_name, options)
    try:
        policy = factory(**options)
        for_student = getattr(policy, "for_student", None)
        if student is not None and for_student is not None:
            policy = for_student(student)
    except PolicyConfigError:
        raise
    except ValidationError as exc:
        first = exc.errors(include_url=False)[0]
        message = first["msg"].removeprefix("Value error, ")
        key = ".".join(str(part) for part in first["loc"])
        if isinstance(first.get("ctx", {}).get("error"), PolicyConfigError):
            raise PolicyConfigError(message) from exc
        raise PolicyConfigError(f"{key or 'options'}: {message}") from exc
    except Exception as exc:  # a third-party constructor may raise anything; the user gets the key and the cause
        raise PolicyConfigError(f"type: {type_name!r} cannot be built: {_describe(exc)}") from exc
    return adapt(policy, type_name=type_name)


def build_all(tables: Sequence[Mapping[str, Any]], *, student: StudentDefaults | None = None) -> BuiltPolicies:
    """Build the policies of a document in order.

    Two with the same name are refused, since a name labels metrics; but a shadow may have the name of a policy that
    decides, so that a new artefact can be watched beside the one in force.

    Raises:
        PolicyConfigError: prefixed with the index of the table.
    """
    deciding: list[AnyPolicy] = []
    shadows: list[Shadowed] = []
    standings: list[Standing] = []
    for index, table in enumerate(tables):
        options = {key: value for key, value in table.items() if key not in COMMON_KEYS}
        try:
            in_shadow = _mode(table) == "shadow"
            measure_share = _measure_share(table, in_shadow=in_shadow)
            policy = build(str(table["type"]), options, student=student)
            same_mode = [each.policy for each in shadows] if in_shadow else deciding
            if any(policy.name == other.name for other in same_mode):
                where = "in shadow" if in_shadow else "in the chain"
                raise PolicyConfigError(f"type: a policy named {policy.name!r} is already {where}")
            standing = None if in_shadow else standing_of(table, policy, policy.name, student)
        except PolicyConfigError as exc:
            raise PolicyConfigError(f"{index}.{exc}") from exc
        if in_shadow:
            shadows.append(Shadowed(policy, measure_share))
            continue
        if standing is not None:
            standings.append(standing)
            if standing.on_void == "teacher":
                deciding.append(CertificateGuard(standing))
        deciding.append(policy)
    # Which methods a class has says what it is; the adapter has checked that it has one.
    return BuiltPolicies(
        policies=[policy for policy in deciding if isinstance(policy, Policy)],
        reviewers=[policy for policy in deciding if isinstance(policy, Reviewer)],
        governors=[policy for policy in deciding if isinstance(policy, Governor)],
        shadows=shadows,
        standings=standings,
    )


def _mode(table: Mapping[str, Any]) -> str:
    """Raises: PolicyConfigError."""
    mode = table.get("mode", "decide")
    if mode not in MODES:
        raise PolicyConfigError(f"mode: must be 'decide' or 'shadow', not {mode!r}")
    return str(mode)


def _measure_share(table: Mapping[str, Any], *, in_shadow: bool) -> float:
    """Raises: PolicyConfigError."""
    share = table.get(MEASURE_SHARE)
    if share is None:
        return DEFAULT_MEASURE_SHARE
    if not in_shadow:
        raise PolicyConfigError(f'{MEASURE_SHARE}: has no effect without mode = "shadow"')
    if isinstance(share, bool) or not isinstance(share, int | float) or not 0.0 <= share <= 1.0:
        raise PolicyConfigError(f"{MEASURE_SHARE}: must be a number from 0 to 1, not {share!r}")
    return float(share)


def _load(type_name: str) -> PolicyFactory:
    loaded = _import_class(type_name) if ":" in type_name else _entry_point(type_name)
    if not callable(loaded):
        raise PolicyConfigError(f"type: {type_name!r} is not a class that builds a policy")
    factory: PolicyFactory = loaded
    return factory


def _import_class(type_name: str) -> Any:
    module_name, _, class_name = type_name.partition(":")
    try:
        return getattr(importlib.import_module(module_name), class_name)
    except ModuleNotFoundError as exc:
        raise PolicyConfigError(
            f"type: cannot import {type_name!r}: {exc}; is its folder on PYTHONPATH, or its package installed?"
        ) from exc
    except Exception as exc:  # a module runs third-party code when it is imported
        raise PolicyConfigError(f"type: cannot import {type_name!r}: {_describe(exc)}") from exc


def _entry_point(type_name: str) -> Any:
    found = {entry.value: entry for entry in _installed(tuple(sys.path)) if entry.name == type_name}
    if not found:
        raise PolicyConfigError(
            f"type: unknown policy {type_name!r}; installed are {', '.join(available())}, or use 'module:Class'"
        )
    if len(found) > 1:
        raise PolicyConfigError(
            f"type: {type_name!r} is provided more than once, by {' and '.join(sorted(found))}: "
            "use one of these spellings"
        )
    entry = next(iter(found.values()))
    try:
        return entry.load()
    except Exception as exc:  # as above
        raise PolicyConfigError(f"type: cannot load {type_name!r} ({entry.value}): {_describe(exc)}") from exc


def _check_option_names(factory: PolicyFactory, type_name: str, options: Mapping[str, Any]) -> None:
    """Name the option that a plain class does not know or misses; a pydantic model says more by itself."""
    model = isinstance(factory, type) and issubclass(factory, BaseModel)
    try:
        parameters = inspect.signature(factory).parameters
    except (TypeError, ValueError):  # a class in C without a signature
        return
    if any(each.kind in (each.VAR_KEYWORD, each.VAR_POSITIONAL) for each in parameters.values()):
        return
    for key in options:
        if key not in parameters:
            known = ", ".join(sorted(parameters)) or "none"
            raise PolicyConfigError(f"{key}: unknown option of policy {type_name!r}; its options are: {known}")
    missing = [each.name for each in parameters.values() if each.default is each.empty and each.name not in options]
    if missing and not model:
        raise PolicyConfigError(f"{missing[0]}: is required by policy {type_name!r}")


def _describe(exc: Exception) -> str:
    return f"{type(exc).__name__}: {exc}"
