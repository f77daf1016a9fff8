"""Whether a JSON value follows a JSON Schema, for schemas that clients send with their requests.

Such a schema is a program that somebody else wrote: `pattern` can take exponential time, and so can definitions that
name each other. So the work is bounded, patterns are not run, nothing is fetched, and a schema that uses what is not
known here is refused instead of judged wrongly. Known is what structured outputs are made of.

Source: JSON Schema 2020-12, Validation.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

MAX_STEPS = 100_000
MAX_DEPTH = 100
"""Schemas within each other; of a value as deep as its schema."""
WITHOUT_EFFECT = frozenset(
    {"$schema", "$id", "$comment", "$defs", "definitions", "title", "description", "default", "examples", "deprecated",
     "readOnly", "writeOnly", "strict"}
)  # fmt: skip
UNCHECKED = frozenset({"pattern", "format", "contentEncoding", "contentMediaType"})
"""What restricts texts further: a value that only breaks these passes."""


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _equal(value: Any, other: Any) -> bool:
    """1 is not true in JSON."""
    if isinstance(value, bool) or isinstance(other, bool):
        return value is other
    if isinstance(value, list) and isinstance(other, list):
        return len(value) == len(other) and all(map(_equal, value, other))
    if isinstance(value, dict) and isinstance(other, dict):
        return value.keys() == other.keys() and all(_equal(each, other[key]) for key, each in value.items())
    return bool(value == other)


_TYPES: dict[str, Callable[[Any], bool]] = {
    "object": lambda value: isinstance(value, dict),
    "array": lambda value: isinstance(value, list),
    "string": lambda value: isinstance(value, str),
    "boolean": lambda value: isinstance(value, bool),
    "null": lambda value: value is None,
    "number": _is_number,
    "integer": lambda value: _is_number(value) and float(value).is_integer(),
}
_BOUNDS: dict[str, Callable[[float, float], bool]] = {
    "minimum": lambda value, bound: value >= bound,
    "maximum": lambda value, bound: value <= bound,
    "exclusiveMinimum": lambda value, bound: value > bound,
    "exclusiveMaximum": lambda value, bound: value < bound,
    "multipleOf": lambda value, bound: math.isclose(value / bound, round(value / bound), abs_tol=1e-9),
}
_SIZES: dict[str, tuple[type[str | list[Any] | dict[str, Any]], Callable[[int, int], bool]]] = {
    "minLength": (str, lambda size, bound: size >= bound),
    "maxLength": (str, lambda size, bound: size <= bound),
    "minItems": (list, lambda size, bound: size >= bound),
    "maxItems": (list, lambda size, bound: size <= bound),
    "minProperties": (dict, lambda size, bound: size >= bound),
    "maxProperties": (dict, lambda size, bound: size <= bound),
}


class UnsupportedSchema(ValueError):
    """The schema is none, uses what is not known here, or takes too long. The message says which."""


def is_valid(value: object, schema: object, *, max_steps: int = MAX_STEPS) -> bool:
    """Whether the value follows the schema. Raises: UnsupportedSchema."""
    try:
        return _Check(schema, max_steps).follows(value, schema, 0)
    except (TypeError, ArithmeticError, AttributeError) as exc:  # `"minimum": "five"` and its like
        raise UnsupportedSchema("a keyword has a value of the wrong type") from exc


Json = Mapping[str, Any]


class _Check:
    def __init__(self, root: object, max_steps: int) -> None:
        self._root = root
        self._steps, self._max_steps = 0, max_steps

    def follows(self, value: Any, schema: Any, depth: int) -> bool:
        self._steps += 1
        if self._steps > self._max_steps or depth > MAX_DEPTH:
            raise UnsupportedSchema("the schema takes too long or is too deep")
        if isinstance(schema, bool):
            return schema
        if not isinstance(schema, dict):
            raise UnsupportedSchema("a schema is an object, true or false")
        return all(self._keyword(key, operand, value, schema, depth + 1) for key, operand in schema.items())

    def _keyword(self, key: str, operand: Any, value: Any, schema: Json, depth: int) -> bool:
        if key in WITHOUT_EFFECT or key in UNCHECKED:
            return True
        if key == "type":
            return any(self._has_type(value, kind) for kind in (operand if isinstance(operand, list) else [operand]))
        if key in ("enum", "const"):
            return any(_equal(value, each) for each in (operand if key == "enum" else [operand]))
        if key in _BOUNDS:
            return not _is_number(value) or _BOUNDS[key](value, operand)
        if key in _SIZES:
            kind, fits = _SIZES[key]
            return not isinstance(value, kind) or fits(len(value), operand)
        if key not in _APPLICATORS:
            raise UnsupportedSchema(f"{key[:40]} is not known")
        return _APPLICATORS[key](self, operand, value, schema, depth)

    def ref(self, operand: Any, value: Any, schema: Json, depth: int) -> bool:
        return self.follows(value, self._target(operand), depth)

    def all_of(self, operand: Any, value: Any, schema: Json, depth: int) -> bool:
        return all(self.follows(value, each, depth) for each in operand)

    def any_of(self, operand: Any, value: Any, schema: Json, depth: int) -> bool:
        return any(self.follows(value, each, depth) for each in operand)

    def one_of(self, operand: Any, value: Any, schema: Json, depth: int) -> bool:
        return sum(self.follows(value, each, depth) for each in operand) == 1

    def negated(self, operand: Any, value: Any, schema: Json, depth: int) -> bool:
        return not self.follows(value, operand, depth)

    def required(self, operand: Any, value: Any, schema: Json, depth: int) -> bool:
        return not isinstance(value, dict) or all(name in value for name in operand)

    def properties(self, operand: Any, value: Any, schema: Json, depth: int) -> bool:
        return not isinstance(value, dict) or all(
            self.follows(value[name], each, depth) for name, each in operand.items() if name in value
        )

    def additional(self, operand: Any, value: Any, schema: Json, depth: int) -> bool:
        known = schema.get("properties", {})
        return not isinstance(value, dict) or all(
            self.follows(each, operand, depth) for name, each in value.items() if name not in known
        )

    def items(self, operand: Any, value: Any, schema: Json, depth: int) -> bool:
        first = len(schema.get("prefixItems", ()))
        return not isinstance(value, list) or all(self.follows(each, operand, depth) for each in value[first:])

    def prefix_items(self, operand: Any, value: Any, schema: Json, depth: int) -> bool:
        return not isinstance(value, list) or all(
            self.follows(each, part, depth) for each, part in zip(value, operand, strict=False)
        )

    def _has_type(self, value: Any, kind: Any) -> bool:
        if kind not in _TYPES:
            raise UnsupportedSchema("a type is not known")
        return _TYPES[kind](value)

    def _target(self, ref: Any) -> Any:
        """What `#/$defs/Name` stands for."""
        if not isinstance(ref, str) or not ref.startswith("#"):
            raise UnsupportedSchema("$ref leads outside of the schema")
        found = self._root
        for part in ref[1:].split("/")[1:]:
            name = part.replace("~1", "/").replace("~0", "~")
            if not isinstance(found, dict) or name not in found:
                raise UnsupportedSchema("$ref leads nowhere")
            found = found[name]
        return found


_APPLICATORS: dict[str, Callable[[_Check, Any, Any, Json, int], bool]] = {
    "$ref": _Check.ref,
    "allOf": _Check.all_of,
    "anyOf": _Check.any_of,
    "oneOf": _Check.one_of,
    "not": _Check.negated,
    "required": _Check.required,
    "properties": _Check.properties,
    "additionalProperties": _Check.additional,
    "items": _Check.items,
    "prefixItems": _Check.prefix_items,
}
"""Keywords that apply schemas, or names. `patternProperties` is not among them, so `additionalProperties` is exact."""
