"""Erasure: what goes, and that nothing of it is left or comes back."""

from __future__ import annotations

import shutil
from pathlib import Path

import pyarrow.parquet
import pytest

from policies.traffic.compacted import FOLDER
from policies.traffic.folder import TOMBSTONES, LogFolder, Storage, describe
from policies.traffic.reader import TrafficError, read
from policies.traffic.sql import open_log
from policies.traffic.survey import ledger_of, survey
from policies.traffic.tombstones import subject_keys
from router.log.compaction import compact
from router.log.erasure import Choice
from router.log.training_use import runs_that_used
from tests.router.log.erasing import AFTER_S, PLAIN, erase, everything, of, quiet, texts
from tests.traffic_records import DAY_S, NOON_S, decision_id, judgement, shadow, write_segment


@pytest.mark.parametrize("place", ["segments", "folder", "store"])
def test_every_record_of_a_person_is_erased_with_its_annotations(tmp_path: Path, store: str, place: str) -> None:
    folder = tmp_path / "log"
    describe(folder, Storage(store=store if place == "store" else ""))
    correction = judgement(1, correction="better-1")
    write_segment(folder, "a", [of("ann", 1), of("bob", 2), of("ann", 3, created_s=NOON_S + DAY_S)])
    write_segment(folder, "b", [correction, judgement(2, score=0.5), shadow(3, completion="better-3"), of("ann", 4)])
    if place != "segments":
        compact(folder, progress=quiet)
        write_segment(folder, "c", [of("ann", 5), of("bob", 6)])
    done = erase(folder, Choice(subject="ann"))
    assert done.complete
    assert done.removed == {"decisions": 3 + (place != "segments"), "feedback": 1, "shadows": 1}
    assert not any(text in everything(folder, store) for text in (*texts(1, 3, 4, 5), b"ann"))
    left = [decision_id(2), decision_id(2)] + [decision_id(6)] * (place != "segments")
    assert sorted(record.decision_id for record in read(folder)) == left
    with open_log(folder) as log:
        assert {record.decision_id for record in log.decisions()} == set(left)


def test_tenant_session_and_id_choose_and_all_must_hold(tmp_path: Path) -> None:
    write_segment(
        tmp_path,
        "a",
        [
            of("ann", 1, tenant="acme", session="s"), of("ann", 2, tenant="acme"), of("bob", 3, session="s"),
            judgement(9, tenant="acme", score=0.1),
        ],
    )  # fmt: skip
    assert erase(tmp_path, Choice(tenant="acme", session="s")).removed == {"decisions": 1}
    assert erase(tmp_path, Choice(decision_ids=frozenset([decision_id(3)]))).removed == {"decisions": 1}
    assert erase(tmp_path, Choice(tenant="acme")).removed == {"decisions": 1, "feedback": 1}
    assert list(read(tmp_path)) == []


def test_records_from_before_subjects_were_hashed_are_found_by_their_text(tmp_path: Path) -> None:
    anthropic = '{"model":"auto","max_tokens":9,"messages":[],"metadata":{"user_id":"ann"}}'
    other = '{"model":"auto","messages":[{"role":"user","content":"I am ann, the user"}]}'
    write_segment(
        tmp_path,
        "a",
        [
            of("ann", 1, subject=None),
            of("bob", 2, subject=None, request=anthropic),
            of("", 3, subject=None, request=other),
        ],
    )
    assert erase(tmp_path, Choice(subject="ann")).removed == {"decisions": 2}
    assert [record.decision_id for record in read(tmp_path)] == [decision_id(3)]


def test_tombstone_names_nobody_and_keeps_late_feedback_and_backups_out(tmp_path: Path) -> None:
    folder, backup = tmp_path / "log", tmp_path / "backup"
    write_segment(folder, "a", [of("ann", 1), of("bob", 2)])
    compact(folder, progress=quiet)
    write_segment(folder, "b", [of("ann", 3)])
    shutil.copytree(folder, backup)
    erase(folder, Choice(subject="ann"))
    for path in (folder / TOMBSTONES).iterdir():
        data = path.read_bytes()
        assert not any(needle in data for needle in (b"ann", decision_id(1).encode(), PLAIN.hash("ann").encode()))
    late = judgement(1, correction="better-1", created_s=AFTER_S + 100)
    write_segment(folder, "late", [late, of("ann", 7, created_s=AFTER_S + 50)])
    shutil.copy(backup / "b.seg", folder / "b.seg")
    seen = {record.decision_id for record in read(folder)}
    assert seen == {decision_id(2), decision_id(7)}  # who comes back later is a new matter
    compact(folder, progress=quiet)
    assert not any(text in everything(folder) for text in texts(1, 3))
    shutil.rmtree(folder / FOLDER)
    shutil.copytree(backup / FOLDER, folder / FOLDER)  # with the manifest of that time
    assert {record.decision_id for record in read(folder)} == {decision_id(2)}
    with open_log(folder) as log:
        assert [record.decision_id for record in log.decisions()] == [decision_id(2)]
    compact(folder, progress=quiet)
    assert b"secret-1" not in everything(folder)


def test_other_machines_segments_are_filtered_and_cleaned_by_their_compaction(tmp_path: Path, store: str) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    for folder in (here, there):
        describe(folder, Storage(store=store))
    write_segment(there, "a", [of("ann", 1), of("bob", 2)])
    compact(there, progress=quiet)
    write_segment(there, "b", [of("ann", 3), judgement(1, correction="better-1"), of("bob", 4)])
    write_segment(here, "a", [of("ann", 5)])
    done = erase(here, Choice(subject="ann"))
    assert done.complete
    assert done.removed == {"decisions": 2}
    assert done.elsewhere == [LogFolder(there).storage.instance]
    assert {record.decision_id for record in read(there)} == {decision_id(2), decision_id(4)}
    compact(there, progress=quiet)
    assert not any(text in everything(tmp_path, store) for text in texts(1, 3, 5))


def test_damaged_lines_that_name_the_person_go_and_others_are_reported(tmp_path: Path) -> None:
    path = write_segment(tmp_path, "a", [of("ann", 1), of("bob", 2), of("bob", 3)])
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(lines[0].replace(b"reply-1", b"reply-X") + lines[1] + lines[2].replace(b"reply-3", b"reply-Y"))
    done = erase(tmp_path, Choice(subject="ann"))
    assert (done.complete, done.removed, done.unreadable) == (False, {"damaged": 1}, ["a.seg: 1 damaged lines"])
    assert b"secret-1" not in everything(tmp_path)
    done = erase(tmp_path, Choice(), drop_damaged=True)
    assert (done.complete, done.removed) == (True, {"damaged": 1})
    assert [record.decision_id for record in read(tmp_path)] == [decision_id(2)]


def test_whole_records_inside_damaged_lines_are_told_apart(tmp_path: Path) -> None:
    path = write_segment(tmp_path, "a", [of("bob", 1), of("ann", 2), of("bob", 3), of("ann", 4)])
    path.write_bytes(path.read_bytes().replace(b"\n", b" ", 3))  # line ends are damaged: all four share one line
    assert {record.decision_id for record in read(tmp_path)} >= {decision_id(1), decision_id(4)}
    assert erase(tmp_path, Choice(subject="ann")).removed == {"decisions": 2}
    assert not any(text in everything(tmp_path) for text in texts(2, 4))
    assert {record.decision_id for record in read(tmp_path)} == {decision_id(1), decision_id(3)}


def test_subjects_are_found_under_every_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old, new = "an old key of the subjects", "a new key of the subjects"
    monkeypatch.setenv("SUBJECTS", f"{new},{old}")
    describe(tmp_path, Storage(subject_key_env="SUBJECTS"))
    first, second = (key.hash("ann") for key in subject_keys("SUBJECTS"))
    assert first != second
    nameless = '{"model":"auto","messages":[]}'
    write_segment(
        tmp_path,
        "a",
        [of("ann", number, subject=subject, request=nameless) for number, subject in enumerate((first, second), 1)],
    )
    assert erase(tmp_path, Choice(subject="ann")).removed == {"decisions": 2}
    write_segment(tmp_path, "b", [of("ann", 5, subject=second, request=nameless)])
    assert list(read(tmp_path)) == []
    monkeypatch.setenv("SUBJECTS", old)
    with pytest.raises(TrafficError, match="made with another key"):
        list(read(tmp_path))
    monkeypatch.delenv("SUBJECTS")
    with pytest.raises(TrafficError, match=r"log\.subject_key_env: the environment variable SUBJECTS is not set"):
        list(read(tmp_path))


def test_training_runs_that_used_the_records_are_named(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    for name, number in (("one", 1), ("two", 2)):
        folder = runs / name / "export" / "abc"
        folder.mkdir(parents=True)
        pyarrow.parquet.write_table(pyarrow.table({"decision_id": [decision_id(number)]}), folder / "examples.parquet")
        (folder / "notes.parquet").write_bytes(b"no Parquet")
    write_segment(runs / "three" / "snapshot", "a", [of("ann", 1)])
    assert runs_that_used(runs, {decision_id(1)}) == [
        str(runs / "one" / "export" / "abc"), str(runs / "three" / "snapshot"),
    ]  # fmt: skip


def test_ledger_knows_what_it_has_cleaned(tmp_path: Path) -> None:
    """Whatever is read behind a manifest that does not name every tombstone is read record by record."""
    write_segment(tmp_path, "a", [of("ann", 1), of("bob", 2)])
    compact(tmp_path, progress=quiet)
    erase(tmp_path, Choice(subject="ann"))
    assert set(survey(LogFolder(tmp_path)).own.manifest.tombstones) == ledger_of(LogFolder(tmp_path)).names
