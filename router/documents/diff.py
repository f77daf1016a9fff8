"""What changed between two policy documents, by key."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec

from router.documents.document import PolicyDocument


class Change(msgspec.Struct, frozen=True, omit_defaults=True):
    """One key. `before` or `after` is left out where the key is not there."""

    key: str
    """Dotted; a policy stands under its type: `routing.policies.retrieval_confidence.escalate_below`."""
    before: Any | msgspec.UnsetType = msgspec.UNSET
    after: Any | msgspec.UnsetType = msgspec.UNSET


def changes(before: PolicyDocument, after: PolicyDocument) -> tuple[Change, ...]:
    """Every key that differs, in the order of the document."""
    return tuple(_between("", _keyed(before), _keyed(after)))


def _keyed(document: PolicyDocument) -> dict[str, Any]:
    """The document with its policies by type, so that inserting one does not change all behind it. Their order is a key
    of its own: the first that does not abstain decides."""
    fields: dict[str, Any] = document.model_dump(mode="json")
    tables: list[dict[str, Any]] = fields["routing"].pop("policies")
    names: list[str] = []
    policies: dict[str, Any] = {}
    for table in tables:
        name = table["type"]
        while name in policies:  # two of one type; the registry decides whether that is allowed
            name += "'"
        names.append(name)
        policies[name] = {key: value for key, value in table.items() if key != "type"}
    fields["routing"]["order"] = names
    fields["routing"]["policies"] = policies
    return fields


def _between(key: str, before: Any, after: Any) -> Iterator[Change]:
    if before == after and type(before) is type(after):
        return
    if not (isinstance(before, dict) and isinstance(after, dict)):
        yield Change(key, before, after)
        return
    for name in [*before, *(name for name in after if name not in before)]:
        inner = f"{key}.{name}" if key else name
        yield from _between(inner, before.get(name, msgspec.UNSET), after.get(name, msgspec.UNSET))
