"""A JSON text stays the JSON text that it was, but for the values that were replaced."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.scrub.engine import BuiltInEngine
from router.scrub.json_text import JsonText
from router.scrub.patterns import PATTERNS
from router.scrub.placeholders import Sheet

ENGINE = BuiltInEngine(list(PATTERNS), {})


def rewritten(text: str) -> str:
    sheet = Sheet()
    part = JsonText(text, sheet)
    sheet.scrub(ENGINE)
    return str(part)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"a": "ann@example.org"}', '{"a": "[EMAIL_1]"}'),
        ('{"a": "ann\\u0040example.org", "n": 2.50}', '{"a": "[EMAIL_1]", "n": 2.50}'),
        ('{"a":"\\u0061nn@example.org \\ud83d\\ude00"}', '{"a":"[EMAIL_1] 😀"}'),
        ('{"b":"caf\\u00e9 1.0","a":"x\\nann@example.org\\t\\"y\\""}', '{"b":"caf\\u00e9 1.0","a":"x\\n[EMAIL_1]\\t\\"y\\""}'),
        ('{"ann@example.org": 1}', '{"[EMAIL_1]": 1}'),
        ('{"n": 4111111111111111, "m": -4111111111111111, "f": 4111111111111111.5}', '{"n": "[CARD_1]", "m": -4111111111111111, "f": 4111111111111111.5}'),
        ('{"arguments": "{\\"card\\": 4111111111111111, \\"to\\": \\"ann\\\\u0040example.org\\"}"}', '{"arguments": "{\\"card\\": \\"[CARD_1]\\", \\"to\\": \\"[EMAIL_1]\\"}"}'),
        ('{"a": "ann@example.org \\ud800"}', '{"a": "[EMAIL_1] \\ud800"}'),
        ('["ann@example.org", "bob@example.org", "ANN@example.org"]', '["[EMAIL_1]", "[EMAIL_2]", "[EMAIL_1]"]'),
        ('{"password": "hunter2hunter2"}', '{"password": "[SECRET_1]"}'),
        ('{"a": "[not json] ann@example.org"}', '{"a": "[not json] [EMAIL_1]"}'),
    ],
)  # fmt: skip
def test_value_is_replaced_and_every_other_byte_stays(text: str, expected: str) -> None:
    assert rewritten(text) == expected
    json.loads(rewritten(text))


values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(), max_size=20)
    | st.sampled_from(["ann@example.org", "a\\u0040b", '{"x": "ann@example.org"}', '["4111111111111111", 4111111111111111]', "+49 30 901820", 4111111111111111]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)  # fmt: skip


@given(values.map(lambda value: [value]), st.booleans(), st.sampled_from([None, 1]))
def test_any_json_stays_json_and_holds_no_address(value: Any, ascii_only: bool, indent: int | None) -> None:
    text = json.dumps(value, ensure_ascii=ascii_only, indent=indent)
    after = rewritten(text)
    parsed = json.loads(after)
    assert "ann@example.org" not in json.dumps(parsed)
    assert "4111111111111111" not in after.replace("-4111111111111111", "")
    if "@" not in text and not any(char.isdigit() for char in text):
        assert after == text
    assert shape(parsed) == shape(value)


def shape(value: Any) -> Any:
    """The value without what may be replaced."""
    if isinstance(value, dict):
        return [shape(inner) for inner in value.values()]
    if isinstance(value, list):
        return [shape(inner) for inner in value]
    return 0 if isinstance(value, str | int | float) else value


def test_json_within_json_within_json_is_rewritten_to_a_bounded_depth() -> None:
    text = '"ann@example.org"'
    for _ in range(8):
        text = json.dumps([text])
    assert "ann@example.org" not in rewritten(text)
    json.loads(rewritten(text))
