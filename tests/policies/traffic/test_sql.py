"""SQL over the log: the same answers from segments and from Parquet, and nothing but the log in reach."""

from __future__ import annotations

import datetime
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from policies.base import Chunk, RequestFeatures
from policies.quality.judgements import judgements
from policies.record import DecisionRecord, Draft, Grade, ShadowRecord, TokenIds
from policies.traffic.columns import BASE_COLUMNS, WITH_TEXTS
from policies.traffic.compacted import FOLDER, read_manifest, write_manifest
from policies.traffic.reader import decisions
from policies.traffic.sql import LogDatabase, QueryError, open_log
from router.log.compaction import compact
from tests.traffic_records import NOON_S, decision, judgement, shadow, write_segment

FEATURES = RequestFeatures(
    prompt_bytes=12, message_count=1, approx_prompt_tokens=3, requested_output_tokens=10,
    last_user_turn="größer'?", chunks=(Chunk(text="c", score=0.5),), tags={"team": "docs"},
)  # fmt: skip
RECORDS = [
    decision(1, features=FEATURES, tags={"team": "docs"}, token_ids=TokenIds(prompt=(1, 2), completion=(3,))),
    decision(2, route="student", usage=None, cost_usd=None, capture="metadata", request=None, completion=None),
    decision(3, draft=Draft(text="draft", mean_logprob=-0.5, tokens=4), purpose="eval", tenant="acme"),
]
FEEDBACK = [
    judgement(1, score=0.0, label="old", created_s=NOON_S + 10),
    judgement(1, score=1.0, created_s=NOON_S + 20),
    judgement(2, score=0.5, label="hidden", created_s=NOON_S + 10),
    judgement(3, score=0.5, created_s=NOON_S + 10),
]
SHADOWS = [
    shadow(1, tags={"team": "docs"}, grades=(Grade(grader="judge", student=0.5, teacher=0.75, preferred="tie"),)),
    shadow(2, status="skipped_budget", completion=None, usage=None, cost_usd=None, grades=()),
]


@pytest.fixture(params=["segments", "parquet", "both", "older columns"])
def log(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """The same records in every form in which a log can be."""
    write_segment(tmp_path, "a", [RECORDS[0], FEEDBACK[0], SHADOWS[0]])
    if request.param == "both":
        compact(tmp_path, progress=lambda _: None)
    write_segment(tmp_path, "b", [RECORDS[1], FEEDBACK[1], SHADOWS[1], RECORDS[2], *FEEDBACK[2:]])
    if request.param in ("parquet", "older columns"):
        compact(tmp_path, progress=lambda _: None)
    if request.param == "older columns":
        import msgspec

        manifest = read_manifest(tmp_path)
        files = tuple(msgspec.structs.replace(file, columns="of an earlier version") for file in manifest.files)
        write_manifest(tmp_path / FOLDER, msgspec.structs.replace(manifest, files=files))
    return tmp_path


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LogDatabase]:
    """One opened log, half of it in Parquet, for tests that change nothing."""
    folder = tmp_path_factory.mktemp("log")
    write_segment(folder, "a", RECORDS[:1])
    compact(folder, progress=lambda _: None)
    write_segment(folder, "b", RECORDS[1:])
    with open_log(folder) as opened:
        yield opened


def rows(folder: Path, sql: str) -> list[tuple[Any, ...]]:
    with open_log(folder) as opened:
        return list(opened.query(sql)[1])


def test_nested_fields_are_reached_with_dots(log: Path) -> None:
    assert rows(
        log,
        "SELECT decision.reason, usage.prompt_tokens, features.chunks[1].score, features.last_user_turn, tags['team'], "
        "token_ids.prompt, created_at FROM records WHERE usage IS NOT NULL ORDER BY created_s LIMIT 1",
    ) == [
        ("multi_step", 100, 0.5, "größer'?", "docs", [1, 2], datetime.datetime(2025, 11, 22, 12, 0, 1)),
    ]
    assert rows(log, "SELECT draft.mean_logprob, purpose, tenant FROM records WHERE draft IS NOT NULL") == [
        (-0.5, "eval", "acme")
    ]
    assert rows(log, "SELECT DISTINCT purpose FROM records WHERE draft IS NULL") == [("traffic",)]


def test_every_field_of_a_record_is_a_column(log: Path) -> None:
    with open_log(log) as opened:
        names, _ = opened.query("SELECT * FROM records")
    assert set(names) == {*DecisionRecord.__struct_fields__, "created_at", "payload"}
    assert set(DecisionRecord.__struct_fields__) >= WITH_TEXTS | (set(BASE_COLUMNS) - {"payload", "crc32"})


def test_records_selected_by_sql_are_those_of_the_log(log: Path) -> None:
    with open_log(log) as opened:
        assert list(opened.decisions()) == RECORDS
        assert list(opened.decisions("route = 'teacher' -- all of them")) == [RECORDS[0], RECORDS[2]]
        assert opened.count("cost_usd IS NULL") == 1


def test_shadows_view_shows_every_field_and_nothing_but_shadows(log: Path) -> None:
    with open_log(log) as opened:
        names, _ = opened.query("SELECT * FROM shadows")
    assert set(names) == {*ShadowRecord.__struct_fields__, "created_at"}
    assert rows(
        log,
        "SELECT decision_id, asked, status, purpose, tags['team'], grades[1].teacher, grades[1].preferred, "
        "usage.completion_tokens FROM shadows ORDER BY created_s",
    ) == [
        (SHADOWS[0].decision_id, "teacher", "ok", "shadow", "docs", 0.75, "tie", 12),
        (SHADOWS[1].decision_id, "teacher", "skipped_budget", "shadow", None, None, None, None),
    ]
    assert rows(log, "SELECT count(*) FROM feedback") == [(len(FEEDBACK),)]


def test_judgements_view_follows_the_rules_of_the_join(log: Path) -> None:
    found = {row[0]: row[1:] for row in rows(log, "SELECT decision_id, score, label, correction FROM judgements")}
    judged = judgements(log)
    expected = {}
    for record in decisions(log):
        joined = judged.of(record)
        if joined is not None:
            expected[record.decision_id] = (joined.score, joined.label, joined.correction)
    assert found == expected
    assert found[RECORDS[0].decision_id] == (1.0, "old", None)
    assert found[RECORDS[1].decision_id] == (0.5, None, None)  # captured below full
    assert RECORDS[2].decision_id not in found  # of another tenant


@pytest.mark.parametrize(
    "sql",
    [
        "",
        "SELECT 1; SELECT 2",
        "COPY records TO 'stolen.csv'",
        "DROP VIEW records",
        "SET enable_external_access = true",
        "ATTACH 'other.db'",
        "INSTALL httpfs",
        "LOAD httpfs",
        "CREATE TABLE t AS SELECT 1",
        "INSERT INTO fresh SELECT * FROM fresh",
        "EXPLAIN ANALYZE COPY records TO 'stolen.csv'",
        "PRAGMA database_list",
        "SELECT * FROM read_text('/etc/hostname')",
        "SELECT * FROM read_csv('/etc/passwd')",
        "SELECT * FROM '/etc/passwd'",
        "SELECT * FROM glob('/*')",
        "SELECT * FROM read_parquet('https://example.org/x.parquet')",
        "SELECT * FROM os",
        "SELECT * FROM nothing",
        "SELECT",
    ],
)
def test_statement_that_is_not_a_select_over_the_log_is_refused(
    opened: LogDatabase, sql: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(QueryError):
        list(opened.query(sql)[1])
    assert not (tmp_path / "stolen.csv").exists()


@pytest.mark.parametrize("where", ["true); DROP VIEW records; --", "decision", "nonsense", "true) ORDER BY (1", ""])
def test_condition_cannot_end_the_statement_that_it_is_put_into(opened: LogDatabase, where: str) -> None:
    with pytest.raises(QueryError):
        list(opened.payloads(where))
    assert opened.count("true") == 3


def test_error_while_rows_are_computed_is_a_query_error(opened: LogDatabase) -> None:
    with pytest.raises(QueryError):
        list(opened.query("SELECT completion::INTEGER FROM records WHERE completion IS NOT NULL")[1])


@pytest.mark.parametrize("value", ["TIMESTAMP '290000-01-01'", "DATE '290000-01-01'"])
def test_value_that_python_cannot_hold_is_a_query_error(opened: LogDatabase, value: str) -> None:
    with pytest.raises(QueryError, match="cast it to VARCHAR"):
        list(opened.query(f"SELECT {value}")[1])
    assert len(list(opened.query(f"SELECT ({value})::VARCHAR")[1])) == 1


def test_record_is_not_judged_when_all_of_its_judgement_is_hidden(tmp_path: Path) -> None:
    write_segment(tmp_path, "a", [decision(1, capture="metadata"), judgement(1, score=None, label="hidden")])
    with open_log(tmp_path) as log:
        assert list(log.query("SELECT * FROM judgements")[1]) == []


def test_segment_that_was_copied_back_is_not_counted_twice(tmp_path: Path) -> None:
    write_segment(tmp_path, "a", [decision(1), judgement(1, score=1.0)])
    compact(tmp_path, progress=lambda _: None)
    write_segment(tmp_path, "restored", [decision(1), judgement(1, score=1.0), decision(2)])
    assert rows(tmp_path, "SELECT (SELECT count(*) FROM records), (SELECT count(*) FROM feedback)") == [(2, 1)]


def test_two_results_can_be_read_at_the_same_time(opened: LogDatabase) -> None:
    for record in opened.decisions():
        assert opened.count(f"decision_id = '{record.decision_id}'") == 1
