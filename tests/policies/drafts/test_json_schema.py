"""Schemas of clients: what they say is checked, what they could do to us is not."""

from __future__ import annotations

from typing import Any

import pytest

from policies.drafts.json_schema import UnsupportedSchema, is_valid

PERSON: dict[str, Any] = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "minLength": 1},
        "age": {"type": ["integer", "null"], "minimum": 0, "exclusiveMaximum": 150},
        "tags": {"type": "array", "items": {"enum": ["a", "b"]}, "maxItems": 2},
        "boss": {"anyOf": [{"$ref": "#"}, {"type": "null"}]},
        "home": {"$ref": "#/$defs/Home"},
    },
    "required": ["name", "age"],
    "additionalProperties": False,
    "$defs": {"Home": {"type": "object", "properties": {"zip": {"type": "string"}}, "required": ["zip"]}},
}


@pytest.mark.parametrize(
    "value",
    [
        {"name": "x", "age": 3},
        {"name": "x", "age": None, "tags": ["a"], "boss": {"name": "y", "age": 149.0}},
        {"name": "x", "age": 1, "home": {"zip": "1", "street": "s"}, "boss": None},
    ],
)
def test_value_is_valid_when_it_follows_its_schema(value: object) -> None:
    assert is_valid(value, PERSON)


@pytest.mark.parametrize(
    "value",
    [
        [],
        {"name": "x"},
        {"name": "", "age": 3},
        {"name": "x", "age": True},
        {"name": "x", "age": 3.5},
        {"name": "x", "age": 150},
        {"name": "x", "age": 3, "more": 1},
        {"name": "x", "age": 3, "tags": ["c"]},
        {"name": "x", "age": 3, "tags": ["a", "b", "a"]},
        {"name": "x", "age": 3, "boss": {"name": "y"}},
        {"name": "x", "age": 3, "home": {}},
    ],
)
def test_value_is_invalid_when_it_breaks_its_schema(value: object) -> None:
    assert not is_valid(value, PERSON)


@pytest.mark.parametrize(
    ("schema", "valid", "invalid"),
    [
        ({"const": 1}, 1.0, True),
        ({"oneOf": [{"minimum": 2}, {"maximum": 3}]}, 5, 2.5),
        ({"allOf": [{"type": "number"}, {"multipleOf": 0.1}]}, 0.3, 0.35),
        ({"not": {"type": "string"}}, 1, "x"),
        ({"prefixItems": [{"type": "string"}], "items": {"type": "number"}}, ["x", 1], ["x", "y"]),
        ({"minProperties": 1, "additionalProperties": {"type": "number"}}, {"a": 1}, {"a": "b"}),
        ({"anyOf": [True]}, 1, None),
    ],
)
def test_each_keyword_tells_values_apart(schema: dict[str, Any], valid: object, invalid: object) -> None:
    assert is_valid(valid, schema)
    assert invalid is None or not is_valid(invalid, schema)


def _bomb() -> dict[str, Any]:
    twice = {f"d{n}": {"allOf": [{"$ref": f"#/$defs/d{n + 1}"}] * 2} for n in range(40)}
    return {"$defs": {**twice, "d40": True}, "$ref": "#/$defs/d0"}


@pytest.mark.parametrize(
    "schema",
    [
        _bomb(),
        {"$ref": "#"},
        {"$ref": "http://169.254.169.254/latest"},
        {"$ref": "#/$defs/none"},
        {"patternProperties": {"(a+)+$": {}}},
        {"unevaluatedProperties": False},
        {"type": "wat"},
        {"minimum": "five"},
        {"required": 3},
        [],
    ],
)
def test_schema_is_refused_when_it_is_unknown_wrong_or_too_much_work(schema: object) -> None:
    with pytest.raises(UnsupportedSchema):
        is_valid(5 if isinstance(schema, dict) and "minimum" in schema else {"a" * 30: 1}, schema)


def test_pattern_is_not_run_when_it_would_take_forever() -> None:
    assert is_valid("a" * 40 + "!", {"type": "string", "pattern": "^(a+)+$"})
