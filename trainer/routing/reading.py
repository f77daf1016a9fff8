"""Reads labelled outcomes from a user's CSV. What is wrong with a file is said by column and line, with the fix."""

from __future__ import annotations

import csv
import difflib
import gzip
import math
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO

import numpy as np

from policies.draft_signals import TAG
from trainer.routing.outcomes import Floats, Outcomes

ID = "id"
MIN_ROWS = 20
MAX_FIELD_CHARS = 8 * 2**20
MAX_CATEGORIES = 200
MAX_SIGNAL = 1e30
"""Beyond it a number is a mistake, and no model can compute with it."""
NUMERIC_SHARE = 0.9
"""A column with this share of numbers is meant to be one of numbers: the rest are faults, not categories."""
EMPTY = frozenset({"", "nan", "na", "n/a", "none", "null"})
TRUTH = {"true": 1.0, "false": 0.0}
GZIP_MAGIC = b"\x1f\x8b"


class DataError(ValueError):
    """The file cannot be evaluated; the message names the column or line and the fix."""


@dataclass(frozen=True)
class Columns:
    """The names of the columns, as the user gives them."""

    weak: str
    strong: str
    text: str | None = None
    signals: tuple[str, ...] = ()
    """Names, or NAME=COLUMN for a column that gets another name (one that the gateway measures, say)."""
    cost_weak: str | None = None
    cost_strong: str | None = None

    def by_option(self) -> list[tuple[str, str]]:
        """(option, column) of each that is given."""
        named = [("--weak", self.weak), ("--strong", self.strong), ("--text", self.text)]
        named += [("--signals", name) for name in self.signals]
        named += [("--cost-weak", self.cost_weak), ("--cost-strong", self.cost_strong)]
        return [(option, name) for option, name in named if name is not None]


def split_names(text: str) -> tuple[str, ...]:
    """Names of columns from `A,B,"C, with a comma"`. Raises: DataError: one is empty or given twice."""
    names = tuple(name.strip() for name in next(csv.reader([text], skipinitialspace=True), []))
    if not names or not all(names):
        raise DataError(f"--signals: {text!r} has an empty name; give column names with commas between them")
    return names


def read(path: Path, columns: Columns) -> Outcomes:
    """Read a CSV (plain or gzip) with a header line.

    Raises:
        DataError
    """
    _check(columns)
    try:
        header, lines, table, names = _table(path, columns)
    except UnicodeDecodeError as exc:
        byte = exc.object[exc.start]
        raise DataError(f"{path}: is not UTF-8 (it has a byte 0x{byte:02x}); save the file as UTF-8") from exc
    except csv.Error as exc:
        raise DataError(f"{path}: is no CSV file that can be read: {exc}") from exc
    except (EOFError, zlib.error, gzip.BadGzipFile) as exc:
        raise DataError(f"{path}: is a damaged gzip file: {exc}") from exc
    except OSError as exc:
        raise DataError(f"{path}: cannot be read: {exc.strerror or exc}") from exc
    if len(lines) < MIN_ROWS:
        raise DataError(
            f"{path}: has {len(lines)} rows; no less than {MIN_ROWS} can be cross-fitted, and hundreds say something"
        )
    source = _Source(path, lines)
    numeric: list[tuple[str, Floats]] = []
    categorical: dict[str, tuple[str, ...]] = {}
    for name, column in names.items():
        found = source.tag(column, table[column]) if name.startswith(TAG) else source.signal(column, table[column])
        if isinstance(found, tuple):
            categorical[name] = found
        else:
            numeric.append((name, found))
    return Outcomes(
        ids=source.ids(table.get(ID) if ID in header else None),
        text=source.texts(columns.text, table),
        weak=source.outcome("--weak", columns.weak, table[columns.weak]),
        strong=source.outcome("--strong", columns.strong, table[columns.strong]),
        signals=np.column_stack([values for _, values in numeric]) if numeric else np.empty((len(lines), 0)),
        signal_names=tuple(name for name, _ in numeric),
        categorical=categorical,
        cost_weak=source.cost("--cost-weak", columns.cost_weak, table),
        cost_strong=source.cost("--cost-strong", columns.cost_strong, table),
    )


def _check(columns: Columns) -> None:
    if columns.weak == columns.strong:
        raise DataError(f"--weak and --strong both name {columns.weak!r}; name the outcomes of two models")
    if columns.text is None and not columns.signals:
        raise DataError(
            "nothing to route by: give --text (the prompts), --signals (of the weak model's answer), or both"
        )
    if (columns.cost_weak is None) != (columns.cost_strong is None):
        raise DataError("--cost-weak and --cost-strong: give both or none; one cost alone compares nothing")
    if twice := sorted({name for name in columns.signals if columns.signals.count(name) > 1}):
        raise DataError(f"--signals: {twice[0]!r} is named twice; name it once")
    for name in columns.signals:
        if name in (columns.weak, columns.strong):
            raise DataError(
                f"--signals: {name!r} is an outcome; a policy cannot see it before it decides. Leave it out"
            )
        if name == columns.text:
            raise DataError(f"--signals: {name!r} is the text already; leave it out")


def _table(path: Path, columns: Columns) -> tuple[list[str], list[int], dict[str, list[str]], dict[str, str]]:
    """The header, the line in the file of each row, the columns that are asked for (with `id` if it is there), and the
    column of each signal."""
    with _opened(path) as file, _wide_fields():
        reader = csv.reader(file)
        header = next(reader, [])
        while header == [] and reader.line_num and (following := next(reader, None)) is not None:
            header = following
        names = dict(_named(entry, header) for entry in columns.signals)
        if len(names) < len(columns.signals):
            raise DataError("--signals: two of them have the same name; give each its own")
        columns = replace(columns, signals=tuple(names.values()))
        _check(columns)
        _check_header(path, header, columns)
        wanted = {name for _, name in columns.by_option()} | ({ID} & set(header))
        places = [(header.index(name), name) for name in sorted(wanted)]
        table: dict[str, list[str]] = {name: [] for name in wanted}
        lines: list[int] = []
        for row in reader:
            if not row:
                continue
            if len(row) != len(header):
                raise DataError(
                    f"{path}, line {reader.line_num}: has {len(row)} fields where the header has {len(header)}; "
                    "quote fields that hold commas or line breaks"
                )
            for place, name in places:
                table[name].append(row[place])
            lines.append(reader.line_num)
    return header, lines, table, names


def _named(entry: str, header: Sequence[str]) -> tuple[str, str]:
    """(name, column) of a signal."""
    name, equals, column = (part.strip() for part in entry.partition("="))
    return (entry, entry) if entry in header or not (name and equals and column) else (name, column)


def _check_header(path: Path, header: Sequence[str], columns: Columns) -> None:
    if not any(name.strip() for name in header):
        raise DataError(f"{path}: is empty; the first line must name the columns")
    for option, name in columns.by_option():
        if header.count(name) > 1:
            raise DataError(f"{path}: has {header.count(name)} columns {name!r} ({option}); rename all but one")
        if name in header:
            continue
        if len(header) == 1 and (other := next((sign for sign in ";\t|" if sign in header[0]), None)):
            raise DataError(f"{path}: its columns are parted by {other!r}; save it with commas between them")
        near = difflib.get_close_matches(name, header, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        listed = ", ".join(header[:20]) + (", ..." if len(header) > 20 else "")
        raise DataError(f"{path}: has no column {name!r} ({option}); {hint}it has: {listed}")
    if header.count(ID) > 1:
        raise DataError(f"{path}: has {header.count(ID)} columns {ID!r}; rename all but one")


@contextmanager
def _opened(path: Path) -> Iterator[IO[str]]:
    with path.open("rb") as raw:
        zipped = raw.read(2) == GZIP_MAGIC
    if zipped:
        with gzip.open(path, "rt", encoding="utf-8-sig", newline="") as text:
            yield text
    else:
        with path.open("r", encoding="utf-8-sig", newline="") as file:
            yield file


@contextmanager
def _wide_fields() -> Iterator[None]:
    """Prompts are longer than the 128 kB that the csv module takes by default."""
    before = csv.field_size_limit(MAX_FIELD_CHARS)
    try:
        yield
    finally:
        csv.field_size_limit(before)


@dataclass(frozen=True)
class _Source:
    """Turns the fields of a file into values, and knows the lines they stand in."""

    path: Path
    lines: Sequence[int]

    def ids(self, fields: Sequence[str] | None) -> tuple[str, ...]:
        if fields is None:
            return tuple(str(number) for number in range(1, len(self.lines) + 1))
        first: dict[str, int] = {}
        for line, value in zip(self.lines, fields, strict=True):
            if not value.strip():
                raise DataError(f"{self.path}, line {line}: {ID!r} is empty; give each query one, or rename the column")
            if value in first:
                raise DataError(
                    f"{self.path}: lines {first[value]} and {line} have the same {ID!r} {value[:80]!r}; "
                    "make the ids unique"
                )
            first[value] = line
        return tuple(fields)

    def texts(self, name: str | None, table: dict[str, list[str]]) -> tuple[str, ...] | None:
        if name is None:
            return None
        if not any(value.strip() for value in table[name]):
            raise DataError(
                f"{self.path}: --text: the column {name!r} is empty in all rows; name the one with the prompts"
            )
        return tuple(table[name])

    def outcome(self, option: str, name: str, fields: Sequence[str]) -> Floats:
        values = np.array([_number(value) for value in fields])
        if (empty := np.flatnonzero(np.isnan(values))).size:
            at = int(empty[0])
            what = f"is {fields[at][:40]!r}" if fields[at].strip() else "is empty"
            raise DataError(
                f"{self.path}, line {self.lines[at]}: {name!r} ({option}) {what}, as in {empty.size} rows; an "
                "outcome is a number from 0 (wrong) to 1 (right). Leave rows out that have none"
            )
        if (outside := np.flatnonzero((values < 0) | (values > 1))).size:
            at = int(outside[0])
            raise DataError(
                f"{self.path}, line {self.lines[at]}: {name!r} ({option}) is {fields[at].strip()}; outcomes are from 0 "
                "to 1: divide them by the highest score there is"
            )
        return values

    def cost(self, option: str, name: str | None, table: dict[str, list[str]]) -> Floats | None:
        if name is None:
            return None
        values = np.array([_number(value) for value in table[name]])
        wrong = np.flatnonzero(~(np.isfinite(values) & (values >= 0)))
        if wrong.size:
            at = int(wrong[0])
            raise DataError(
                f"{self.path}, line {self.lines[at]}: {name!r} ({option}) is {table[name][at][:40]!r}; a cost is a "
                "number from 0 on (USD or tokens) in every row"
            )
        if not values.any():
            raise DataError(f"{self.path}: {name!r} ({option}) is 0 in all rows; leave the costs out")
        return values

    def signal(self, name: str, fields: Sequence[str]) -> Floats | tuple[str, ...]:
        """[n] with NaN for what is empty; the words themselves where the column is one of categories."""
        empty = np.array([value.strip().lower() in EMPTY for value in fields])
        values = np.array([_number(value) for value in fields])
        wrong = np.flatnonzero(np.isnan(values) & ~empty)
        given = len(fields) - int(empty.sum())
        if wrong.size and given - wrong.size < NUMERIC_SHARE * given:
            return self._categories(
                name, [("" if gone else value.strip()) for gone, value in zip(empty, fields, strict=True)]
            )
        wrong = np.flatnonzero(~(np.abs(values) <= MAX_SIGNAL) & ~empty)
        if wrong.size:
            at = int(wrong[0])
            raise DataError(
                f"{self.path}, line {self.lines[at]}: {name!r} (--signals) is {fields[at].strip()[:40]!r} where other "
                f"rows have finite numbers (up to {MAX_SIGNAL:g}); correct it, or leave it empty"
            )
        return values

    def tag(self, name: str, fields: Sequence[str]) -> tuple[str, ...]:
        """[n] words, whatever they look like: a request's tag is one, be it `2`, `true` or `none`."""
        return self._categories(name, [value.strip() for value in fields])

    def _categories(self, name: str, values: Sequence[str]) -> tuple[str, ...]:
        distinct = len(set(values))
        if distinct > min(MAX_CATEGORIES, len(values) // 2):
            raise DataError(
                f"{self.path}: {name!r} (--signals) has {distinct:,} different texts: neither numbers nor categories. "
                "Give the prompts by --text; leave other free text out"
            )
        return tuple(values)


def _number(field: str) -> float:
    """NaN for what is none."""
    text = field.strip().lower()
    if text in TRUTH:
        return TRUTH[text]
    try:
        return float(text)
    except ValueError:
        return math.nan
