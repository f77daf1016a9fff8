"""Files that are whole or not there."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from policies.durable import UNFINISHED, sha256_of, sync, write_atomically


def test_a_file_is_replaced_and_nothing_is_left_beside_it(tmp_path: Path) -> None:
    file = tmp_path / "state.json"
    write_atomically(file, b"old")
    write_atomically(file, b"new")
    assert file.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [file]


def test_a_file_keeps_its_content_when_the_new_one_cannot_be_written(tmp_path: Path) -> None:
    file = tmp_path / "state.json"
    write_atomically(file, b"old")
    (tmp_path / f"state.json.{os.getpid()}.partial").mkdir()  # in the way of the writer
    with pytest.raises(OSError):
        write_atomically(file, b"new")
    assert file.read_bytes() == b"old"


def test_nothing_unfinished_is_left_when_the_file_cannot_be_replaced(tmp_path: Path) -> None:
    (tmp_path / "state.json" / "full").mkdir(parents=True)
    with pytest.raises(OSError):
        write_atomically(tmp_path / "state.json", b"new")
    assert not list(tmp_path.glob(f"state.json{UNFINISHED}"))


def test_sync_takes_files_and_folders_and_tells_what_is_missing(tmp_path: Path) -> None:
    file = tmp_path / "a"
    file.write_bytes(b"x")
    sync(file)
    sync(tmp_path)
    with pytest.raises(FileNotFoundError):
        sync(tmp_path / "b")


def test_the_hash_is_that_of_the_content(tmp_path: Path) -> None:
    file = tmp_path / "a"
    file.write_bytes(b"x" * 3_000_000)
    assert sha256_of(file) == hashlib.sha256(b"x" * 3_000_000).hexdigest()
