"""The columns of records in SQL, derived from the records' own definition.

`STORED` fields are columns of the compacted files; the others, which hold the texts, are read out of the record's JSON
when a query asks for them. Defaults that a record leaves out are filled in.
"""

# ruff: noqa: S608 - identifiers and texts are quoted here; what a user types runs in a database without any power

from __future__ import annotations

import hashlib
import json
from functools import cache
from typing import Any

import msgspec
from msgspec import inspect

from policies.record import DecisionRecord, FeedbackRecord, ShadowRecord

WITH_TEXTS = frozenset({"request", "completion", "features", "token_ids", "draft"})
"""Fields of a decision record that are not stored a second time as columns."""
BASE_COLUMNS = ("payload", "crc32", "decision_id", "created_s")
_SCALARS: dict[type[inspect.Type], str] = {
    inspect.IntType: "BIGINT",
    inspect.FloatType: "DOUBLE",
    inspect.StrType: "VARCHAR",
    inspect.BoolType: "BOOLEAN",
    inspect.LiteralType: "VARCHAR",
    inspect.EnumType: "VARCHAR",
}


def quoted(name: str) -> str:
    """An SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


def literal(text: str) -> str:
    """An SQL string."""
    return "'" + text.replace("'", "''") + "'"


def timestamp(seconds: str) -> str:
    """A TIMESTAMP in UTC from Unix time; what no calendar holds becomes its first or last day."""
    return f"make_timestamp((least(greatest({seconds}, 0), 253402300799) * 1e6)::BIGINT)"


def stored_select(source: str) -> str:
    """Every column of a compacted file of decisions, made of rows with `BASE_COLUMNS`."""
    fields = [field for field in _fields(DecisionRecord) if field.name not in WITH_TEXTS.union(BASE_COLUMNS)]
    structure = literal(json.dumps({field.name: _structure(field.type) for field in fields}))
    columns = [*BASE_COLUMNS, *(_with_default(f"parsed.{quoted(field.name)}", field) for field in fields)]
    parsed = f"SELECT *, from_json(payload, {structure}) AS parsed FROM {source}"
    return f"SELECT {', '.join(columns)} FROM ({parsed})"


@cache
def columns_version() -> str:
    """Changes when the columns of compacted files do: files of another version are read from their JSON."""
    return hashlib.sha256(stored_select("").encode()).hexdigest()[:12]


def records_view(source: str) -> str:
    """The view `records` over rows with the stored columns."""
    columns = [f"{timestamp('created_s')} AS created_at"]
    for field in _fields(DecisionRecord):
        columns.append(_from_json(field) if field.name in WITH_TEXTS else quoted(field.name))
    return f"SELECT {', '.join(columns)}, payload FROM {source}"


def annotations_view(record: type[FeedbackRecord] | type[ShadowRecord], source: str) -> str:
    """The view over one kind of annotations, among rows with `payload`."""
    fields = _fields(record)
    start = literal(f'{{"kind":"{record.__struct_config__.tag}"')
    structure = literal(json.dumps({field.name: _structure(field.type) for field in fields}))
    columns = ", ".join(_with_default(f"parsed.{quoted(field.name)}", field) for field in fields)
    return (
        f"SELECT {timestamp('parsed.created_s')} AS created_at, {columns} "
        f"FROM (SELECT from_json(payload, {structure}) AS parsed FROM {source} WHERE starts_with(payload, {start}))"
    )


JUDGEMENTS_VIEW = """
SELECT decision_id, records.tenant, given.score,
       CASE WHEN records.capture = 'full' THEN given.label END AS label,
       CASE WHEN records.capture = 'full' THEN given.correction END AS correction
FROM records JOIN (
    SELECT decision_id, tenant,
           arg_max(score, created_s) FILTER (WHERE score IS NOT NULL) AS score,
           arg_max(label, created_s) FILTER (WHERE label IS NOT NULL) AS label,
           arg_max(correction, created_s) FILTER (WHERE correction IS NOT NULL) AS correction
    FROM feedback GROUP BY ALL
) AS given USING (decision_id)
WHERE given.tenant = records.tenant AND (given.score IS NOT NULL OR records.capture = 'full')
"""
"""The newest judgement of each kind, by the rules of policies/quality/judgements.py."""


@cache  # 15 ms, and asked for with every file
def _fields(record: type[msgspec.Struct]) -> tuple[inspect.Field, ...]:
    info = inspect.type_info(record)
    assert isinstance(info, inspect.StructType)  # noqa: S101 - tells the type checker what was asked for
    return info.fields


def _from_json(field: inspect.Field) -> str:
    structure = literal(json.dumps({field.name: _structure(field.type)}))
    return f"from_json(payload, {structure}).{quoted(field.name)} AS {quoted(field.name)}"


def _with_default(column: str, field: inspect.Field) -> str:
    default = field.default
    if isinstance(default, str):
        column = f"COALESCE({column}, {literal(default)})"
    elif field.default_factory is dict:
        column = f"COALESCE({column}, MAP {{}})"
    return f"{column} AS {quoted(field.name)}"


def _structure(kind: inspect.Type) -> Any:
    """What `from_json` takes: a type's name, or objects and lists of them."""
    match kind:
        case inspect.UnionType():
            return _structure(next(each for each in kind.types if not isinstance(each, inspect.NoneType)))
        case inspect.StructType():
            return {field.name: _structure(field.type) for field in kind.fields}
        case inspect.VarTupleType() | inspect.ListType():
            return [_structure(kind.item_type)]
        case inspect.DictType():
            return "MAP(VARCHAR, VARCHAR)"
        case inspect.Metadata():
            return _structure(kind.type)
        case _:
            return _SCALARS.get(type(kind), "JSON")
