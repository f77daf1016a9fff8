"""What tests of erasure share: people's records, and a look at every byte that is left."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import fsspec
import pyarrow.parquet

from policies.record import DecisionRecord
from policies.traffic.tombstones import SubjectKey
from router.log import erasure
from router.log.erasure import Choice, forget
from tests.traffic_records import DAY_S, NOON_S, decision

AFTER_S = NOON_S + 10 * DAY_S
PLAIN = SubjectKey(b"", "")


def quiet(message: str) -> None:
    """Progress that nobody looks at."""


def of(person: str, number: int, **fields: Any) -> DecisionRecord:
    """A request that names a person, with a text that is nobody else's."""
    request = f'{{"model":"auto","messages":[{{"role":"user","content":"secret-{number}"}}],"user":"{person}"}}'
    return decision(
        number, **{"subject": PLAIN.hash(person), "request": request, "completion": f"reply-{number}"} | fields
    )


def erase(folder: Path, choice: Choice, **options: Any) -> erasure.Erasure:
    return forget(folder, choice, **{"progress": quiet, "now": lambda: AFTER_S, "wait_s": 0.2} | options)


def everything(folder: Path, store: str | None = None) -> bytes:
    """All bytes of all files, those that are left over too, and what is compressed in Parquet."""
    found = [path.read_bytes() for path in folder.rglob("*") if path.is_file()]
    if store is not None:
        files = fsspec.filesystem("memory")
        found += [files.cat_file(path) for path in files.find(store)]
    for data in list(found):
        if data.startswith(b"PAR1"):
            table = pyarrow.parquet.read_table(io.BytesIO(data))
            found += [str(column.to_pylist()).encode() for column in table.columns]
    return b"\0".join(found)


def texts(*numbers: int) -> list[bytes]:
    return [f"{kind}-{number}".encode() for number in numbers for kind in ("secret", "reply", "better")]
