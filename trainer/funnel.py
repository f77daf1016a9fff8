"""The funnel: what every stage dropped and why, as JSON and as one HTML page. Ids only, no text of a request."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import msgspec

from policies.durable import write_atomically
from trainer.run_folder import StageRecord
from trainer.stage import Json, Summary
from trainer.tables import DROPPED

FUNNEL_JSON = "funnel.json"
FUNNEL_HTML = "funnel.html"
TEMPLATE = "funnel.html.j2"
FIRST_IDS = 5
COUNTS = ("rows_in", "rows_out", "dropped", "alarms")
HIDDEN = ("licences",)


class Cause(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    rows: int
    first_ids: tuple[str, ...] = ()
    """Decision ids of the first rows that it dropped."""


class FunnelStage(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    address: str
    rows_in: int
    rows_out: int
    seconds: float
    causes: tuple[Cause, ...]
    facts: dict[str, Json]
    """The rest of the stage's summary."""


class Licence(msgspec.Struct, frozen=True, kw_only=True):
    source: str
    flag: str
    rows: int
    decision: str
    reason: str


class Funnel(msgspec.Struct, frozen=True, kw_only=True):
    recipe: str
    rows_in: int
    """Decision records of the log that the recipe looked at."""
    rows_out: int
    train_rows: int | None
    validation_rows: int | None
    stages: tuple[FunnelStage, ...]
    licences: tuple[Licence, ...] = ()
    alarms: tuple[str, ...] = ()


def build(recipe: str, finished: Iterable[tuple[StageRecord, Path]]) -> Funnel:
    """From the finished stages in their order, with their folders. Stages without row counts are left out."""
    stages: list[FunnelStage] = []
    alarms: list[str] = []
    licences: tuple[Licence, ...] = ()
    sizes: dict[str, int] = {}
    for record, folder in finished:
        summary = record.summary
        alarms += [f"{record.stage}: {each}" for each in _list(summary.get("alarms"))]
        rows_in, rows_out = summary.get("rows_in"), summary.get("rows_out")
        if not isinstance(rows_in, int) or not isinstance(rows_out, int):
            continue
        for name in ("train_rows", "validation_rows"):
            if isinstance(count := summary.get(name), int):
                sizes.setdefault(name, count)
        licences = licences or _licences(summary)
        stages.append(
            FunnelStage(
                name=record.stage, address=record.address[:12], rows_in=rows_in, rows_out=rows_out,
                seconds=record.seconds, causes=_causes(summary, folder / DROPPED),
                facts={key: value for key, value in summary.items() if key not in COUNTS + HIDDEN},
            )
        )  # fmt: skip
    return Funnel(
        recipe=recipe, rows_in=stages[0].rows_in if stages else 0, rows_out=stages[-1].rows_out if stages else 0,
        train_rows=sizes.get("train_rows"), validation_rows=sizes.get("validation_rows"), stages=tuple(stages),
        licences=licences, alarms=tuple(alarms),
    )  # fmt: skip


def write(funnel: Funnel, folder: Path) -> tuple[Path, Path]:
    """(HTML, JSON) files. Raises: OSError."""
    html, data = folder / FUNNEL_HTML, folder / FUNNEL_JSON
    write_atomically(data, msgspec.json.format(msgspec.json.encode(funnel), indent=1))
    write_atomically(html, render(funnel).encode())
    return html, data


def render(funnel: Funnel) -> str:
    """One self-contained page."""
    import jinja2  # noqa: PLC0415 - part of the extra `loop`

    source = Path(__file__).with_name(TEMPLATE).read_text(encoding="utf-8")
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    return environment.from_string(source).render(funnel=funnel, widest=max(funnel.rows_in, 1))


def _causes(summary: Summary, dropped: Path) -> tuple[Cause, ...]:
    counts = summary.get("dropped")
    if not isinstance(counts, dict) or not counts:
        return ()
    first = _first_ids(dropped)
    ordered = sorted(((name, count) for name, count in counts.items() if isinstance(count, int)), key=lambda x: -x[1])
    return tuple(Cause(name=name, rows=count, first_ids=tuple(first.get(name, ()))) for name, count in ordered)


def _first_ids(path: Path) -> Mapping[str, list[str]]:
    import pyarrow.parquet as pq  # noqa: PLC0415 - heavy

    found: dict[str, list[str]] = {}
    if not path.is_file():
        return found
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(columns=["decision_id", "cause"]):
            columns = batch.to_pydict()
            for decision_id, cause in zip(columns["decision_id"], columns["cause"], strict=True):
                ids = found.setdefault(cause, [])
                if len(ids) < FIRST_IDS:
                    ids.append(decision_id)
    return found


def _licences(summary: Summary) -> tuple[Licence, ...]:
    licences = summary.get("licences")
    if not isinstance(licences, dict):
        return ()
    return tuple(msgspec.convert(_list(licences.get("sources")), list[Licence]))


def _list(value: Json) -> list[Json]:
    return value if isinstance(value, list) else []
