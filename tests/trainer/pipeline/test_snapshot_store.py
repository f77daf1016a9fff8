"""A run's snapshot of a log whose files are encrypted and in a store, and that something was erased from."""

from __future__ import annotations

import base64
import uuid
from collections.abc import Callable
from pathlib import Path

import fsspec
import pytest

from policies.traffic.folder import Storage, describe, read_storage
from policies.traffic.reader import read
from router.log.compaction import compact
from router.log.erasure import Choice, forget
from tests.traffic_records import decision, decision_id, write_segment
from trainer import snapshot
from trainer.recipe import Recipe


def quiet(message: str) -> None:
    """Progress that nobody looks at."""


def test_snapshot_holds_what_the_log_hands_out_and_needs_no_store(
    tmp_path: Path, recipe: Callable[..., Recipe], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOG_KEY", base64.b64encode(bytes(32)).decode())
    folder, run, url = tmp_path / "traffic", tmp_path / "run", f"memory://log-{uuid.uuid4().hex}"
    describe(folder, Storage(store=url, encryption_key_env="LOG_KEY"))
    write_segment(folder, "a", [decision(number, tenant="ab"[number % 2]) for number in range(4)])
    compact(folder, progress=quiet)
    forget(folder, Choice(tenant="a"), progress=quiet)
    write_segment(folder, "b", [decision(5, tenant="b"), decision(0, tenant="a")])
    run.mkdir()
    snapshot.pin(recipe(export={"log_dir": str(folder)}), run, renew=True, now=lambda: 1.0)
    fsspec.filesystem("memory").rm(url, recursive=True)
    pinned = run / snapshot.FOLDER
    assert sorted(record.decision_id for record in read(pinned)) == [decision_id(number) for number in (1, 3, 5)]
    assert (read_storage(pinned).store, read_storage(pinned).encryption_key_env) == ("", "LOG_KEY")
    assert not any(b"question" in path.read_bytes() for path in (pinned / "compacted").iterdir())
