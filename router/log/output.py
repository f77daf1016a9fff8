"""Rows of a query as a table, as JSON or as CSV."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from decimal import Decimal
from typing import Any, TextIO

import msgspec
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

MAX_TABLE_ROWS = 1000
"""A table is for eyes; more rows need --json or --csv."""

Rows = Iterator[tuple[Any, ...]]


def _plain(value: Any) -> Any:
    if isinstance(value, Decimal):  # DuckDB's sums of whole numbers
        return int(value) if value == value.to_integral_value() else float(value)
    return str(value)


def write_json(names: list[str], rows: Rows, file: TextIO) -> None:
    """An array with one object a row, one a line."""
    encode = msgspec.json.Encoder(enc_hook=_plain, decimal_format="number").encode
    separator = "["
    for row in rows:
        file.write(f"{separator}\n{encode(dict(zip(names, row, strict=True))).decode()}")
        separator = ","
    file.write("[]\n" if separator == "[" else "\n]\n")


def write_csv(names: list[str], rows: Rows, file: TextIO) -> None:
    """A header and the rows; nested values as JSON, NULL as nothing."""
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(names)
    for row in rows:
        writer.writerow(["" if value is None else _text(value) for value in row])


def write_table(names: list[str], rows: Rows, console: Console) -> None:
    """For a terminal."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in names:
        table.add_column(escape(name), overflow="fold")
    for number, row in enumerate(rows):
        if number == MAX_TABLE_ROWS:
            table.caption = f"more than {MAX_TABLE_ROWS:,} rows: use LIMIT, --csv or --json"
            break
        table.add_row(*(Text("-" if value is None else _text(value)) for value in row))
    console.print(table)


def _text(value: Any) -> str:
    if isinstance(value, Decimal):
        value = _plain(value)
    if isinstance(value, dict | list | tuple):
        return msgspec.json.encode(value, enc_hook=_plain).decode()
    return str(value)
