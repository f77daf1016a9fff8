"""Erasure: what goes, that nothing of it is left or comes back, and what crashes do to it."""

from __future__ import annotations

import asyncio
import io
import shutil
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import fsspec
import pyarrow.parquet
import pytest

from policies.record import DecisionRecord, encode
from policies.traffic.compacted import FOLDER, LOCK
from policies.traffic.folder import TOMBSTONES, LogFolder, Storage, describe
from policies.traffic.reader import TrafficError, read
from policies.traffic.segments import SUFFIX
from policies.traffic.sql import open_log
from policies.traffic.survey import ledger_of, survey
from policies.traffic.tombstones import SubjectKey, subject_keys
from router.config import LogConfig
from router.log import cleaning, erasure
from router.log.compaction import compact
from router.log.erasure import Choice, forget
from router.log.segment_rewriting import REWRITING
from router.log.training_use import runs_that_used
from router.metrics import Metrics
from router.traffic_log import TrafficLog
from tests.traffic_records import DAY_S, NOON_S, decision, decision_id, judgement, shadow, write_segment

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


@pytest.fixture
def store() -> Iterator[str]:
    name = f"memory://log-{uuid.uuid4().hex}"
    yield name
    files = fsspec.filesystem("memory")
    if files.exists(name):
        files.rm(name, recursive=True)


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


def test_torn_tail_of_a_killed_process_is_cut_off(tmp_path: Path) -> None:
    path = write_segment(tmp_path, "a", [of("bob", 1), of("ann", 2)])
    path.write_bytes(path.read_bytes()[:-5])
    assert erase(tmp_path, Choice(subject="ann")).complete
    assert b"secret-2" not in everything(tmp_path)
    assert [record.decision_id for record in read(tmp_path)] == [decision_id(1)]


@pytest.mark.parametrize(
    "step",
    ["rewrite_segments", "clean_part", "publish", "sweep", "_verify", "replace"],
)
def test_crash_at_any_step_is_made_good_by_the_next_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    write_segment(tmp_path, "a", [of("ann", 1), of("bob", 2), judgement(1, correction="better-1")])
    compact(tmp_path, progress=quiet)
    write_segment(tmp_path, "b", [of("ann", 3), of("bob", 4)])

    def crash(*_: Any, **__: Any) -> Any:
        raise RuntimeError("power cut")

    if step == "replace":  # the new segment is written, and does not have its name yet
        replace = Path.replace
        monkeypatch.setattr(Path, "replace", lambda old, new: crash() if old.suffix == REWRITING else replace(old, new))
    else:
        monkeypatch.setattr(cleaning if step in ("publish", "sweep") else erasure, step, crash)
    with pytest.raises(RuntimeError):
        erase(tmp_path, Choice(subject="ann"))
    monkeypatch.undo()
    assert {record.decision_id for record in read(tmp_path)} == {decision_id(2), decision_id(4)}
    assert erase(tmp_path, Choice()).complete
    assert not any(text in everything(tmp_path) for text in texts(1, 3))
    assert {record.decision_id for record in read(tmp_path)} == {decision_id(2), decision_id(4)}
    assert {path.suffix for path in tmp_path.iterdir() if path.is_file()} == {SUFFIX}


def test_files_that_a_query_reads_are_waited_for_and_named(tmp_path: Path) -> None:
    write_segment(tmp_path, "a", [of("ann", 1), of("bob", 2)])
    compact(tmp_path, progress=quiet)
    with (tmp_path / FOLDER / LOCK).open("rb") as lock:
        import fcntl

        fcntl.flock(lock, fcntl.LOCK_SH)
        done = erase(tmp_path, Choice(subject="ann"))
        assert (done.complete, len(done.waiting)) == (False, 1)
    assert erase(tmp_path, Choice()).complete
    assert b"secret-1" not in everything(tmp_path)


def test_conflict_with_another_machines_compaction_is_begun_again(
    tmp_path: Path, store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    for folder in (here, there):
        describe(folder, Storage(store=store))
    write_segment(there, "a", [of("ann", 1), of("bob", 2)])
    compact(there, progress=quiet)
    write_segment(there, "b", [of("bob", 3)])
    write_segment(here, "a", [of("ann", 4)])
    publish = cleaning.publish

    def meanwhile(*arguments: Any, **options: Any) -> Any:
        monkeypatch.setattr(cleaning, "publish", publish)
        compact(there, progress=quiet)
        return publish(*arguments, **options)

    monkeypatch.setattr(cleaning, "publish", meanwhile)
    assert erase(here, Choice(subject="ann")).complete
    assert not any(text in everything(tmp_path, store) for text in texts(1, 4))
    assert {record.decision_id for record in read(here)} == {decision_id(2), decision_id(3)}


@pytest.mark.parametrize("encrypted", [False, True])
async def test_records_are_erased_while_a_gateway_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, encrypted: bool
) -> None:
    monkeypatch.setenv("LOG_KEY", "a2V5IG9mIHRoaXJ0eS10d28gYnl0ZXMgZm9yIHRlc3Q=")
    settings = LogConfig(
        dir=str(tmp_path), fsync_interval_s=0.02, write_timeout_s=20.0, encryption_key_env="LOG_KEY" if encrypted else None,
    )  # fmt: skip
    log = TrafficLog(settings, Metrics())
    await log.start()
    stop, under_way, written = asyncio.Event(), asyncio.Event(), 0

    async def traffic() -> None:
        nonlocal written
        while not stop.is_set():
            person = "ann" if written % 3 == 0 else "bob"
            assert await log.append(encode(of(person, written, subject=log.subject_of(person))))
            written += 1
            if written == 50:
                under_way.set()

    load = asyncio.create_task(traffic())
    try:
        await under_way.wait()
        done = await asyncio.to_thread(erase, tmp_path, Choice(subject="ann"), wait_s=10.0)
    finally:
        stop.set()
        await load
        await log.stop()
    assert done.complete
    assert done.removed["decisions"] >= 17
    # The clock of the test is ahead: all that was written meanwhile is from before the erasure, too.
    assert {record.decision_id for record in read(tmp_path)} == {
        decision_id(number) for number in range(written) if number % 3
    }
    assert not read(tmp_path).damage
    assert erase(tmp_path, Choice()).complete
    if not encrypted:
        data = everything(tmp_path)
        assert not any(f'secret-{number}"'.encode() in data for number in range(0, written, 3))


def test_segment_that_is_not_let_go_of_is_named(tmp_path: Path) -> None:
    import fcntl

    path = write_segment(tmp_path, "a", [of("ann", 1)])
    with path.open("rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        done = erase(tmp_path, Choice(subject="ann"))
        assert (done.complete, done.in_use) == (False, ["a.seg"])
        assert list(read(tmp_path)) == []


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


def test_compaction_that_is_under_way_is_waited_for(tmp_path: Path) -> None:
    import fcntl

    write_segment(tmp_path, "a", [of("ann", 1)])
    compact(tmp_path, progress=quiet)
    with (tmp_path / FOLDER / "compacting").open("rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(TrafficError, match="another process"):
            erase(tmp_path, Choice(subject="ann"), lock_wait_s=0.0)
        with ThreadPoolExecutor(1) as other:
            erasing = other.submit(erase, tmp_path, Choice(subject="ann"))
            assert not erasing.done()
            fcntl.flock(held, fcntl.LOCK_UN)
            assert erasing.result().complete


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
