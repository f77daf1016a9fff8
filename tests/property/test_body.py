"""Splicing never touches what it was not asked to touch."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.body import JsonBody
from router.errors import InvalidRequest

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=12,
)
objects = st.dictionaries(st.text(max_size=8), values, max_size=8)
blanks = st.text(alphabet=" \t\r\n", max_size=3)


@st.composite
def written_objects(draw: st.DrawFn) -> tuple[dict[str, object], str]:
    """An object, and one of the many ways to write it."""
    given_object = draw(objects)
    ascii_only = draw(st.booleans())
    members = [
        f"{draw(blanks)}{json.dumps(key, ensure_ascii=ascii_only)}{draw(blanks)}:{draw(blanks)}"
        f"{json.dumps(value, ensure_ascii=ascii_only)}{draw(blanks)}"
        for key, value in given_object.items()
    ]
    inner = ",".join(members) or draw(blanks)
    return given_object, f"{draw(blanks)}{{{inner}}}{draw(blanks)}"


def encodable(text: str) -> bool:
    return all(not 0xD800 <= ord(char) < 0xE000 for char in text)


@given(written_objects())
def test_parse_finds_every_member_where_it_stands(written: tuple[dict[str, object], str]) -> None:
    expected, text = written
    body = JsonBody.parse(text.encode("utf-8", "surrogatepass") if encodable(text) else b"{}")
    if encodable(text):
        assert body.values == expected
        for key, value in expected.items():
            assert json.loads(body.raw(key)) == value
        assert body.splice() == text.encode()


@given(written_objects(), st.data())
def test_splice_changes_exactly_what_it_is_told(written: tuple[dict[str, object], str], data: st.DataObject) -> None:
    expected, text = written
    if not encodable(text):
        return
    body = JsonBody.parse(text.encode())
    keys = sorted(expected)
    removed = data.draw(st.sets(st.sampled_from(keys)) if keys else st.just(set()))
    kept = [key for key in keys if key not in removed]
    replaced = data.draw(st.sets(st.sampled_from(kept)) if kept else st.just(set()))
    added = data.draw(st.sets(st.sampled_from(["new1", "new2"]).filter(lambda key: key not in expected)))
    result = body.splice(
        replace=dict.fromkeys(replaced, '"R"'), remove=removed, add=dict.fromkeys(sorted(added), "[1]")
    )
    after = JsonBody.parse(result)
    assert list(after.values) == [key for key in expected if key not in removed] + sorted(added)
    for key in kept:
        assert after.raw(key) == ('"R"' if key in replaced else body.raw(key))


@given(st.binary(max_size=60) | st.text(alphabet='{}[]",:\\ 0189.eE+-truefalsn\u00e9', max_size=60).map(str.encode))
def test_parse_accepts_only_what_the_standard_parser_accepts(data: bytes) -> None:
    try:
        parsed = JsonBody.parse(data).values
    except InvalidRequest:
        return
    assert json.loads(data) == parsed


@pytest.mark.parametrize("text", ['{"a":1,"a":2}', '{"a":1,"\\u0061":2}'])
def test_key_that_appears_twice_is_refused_however_it_is_spelled(text: str) -> None:
    with pytest.raises(InvalidRequest, match="twice"):
        JsonBody.parse(text.encode())
