"""Erasure beside what goes on: crashes at any step, gateways that write, queries and compactions under way."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from policies.record import encode
from policies.traffic.compacted import FOLDER, LOCK
from policies.traffic.folder import Storage, describe
from policies.traffic.reader import TrafficError, read
from policies.traffic.segments import SUFFIX
from router.config import LogConfig
from router.log import cleaning, erasure
from router.log.compaction import compact
from router.log.erasure import Choice
from router.log.segment_rewriting import REWRITING
from router.metrics import Metrics
from router.traffic_log import TrafficLog
from tests.router.log.erasing import erase, everything, of, quiet, texts
from tests.traffic_records import decision_id, judgement, write_segment


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
