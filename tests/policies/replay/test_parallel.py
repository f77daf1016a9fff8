"""Files of a log read by several processes: the same columns, and a clear end when one of them dies."""

from __future__ import annotations

import io
import os
import pickle
import signal
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from policies.base import RequestFeatures
from policies.record import DecisionRecord
from policies.replay.columns import Columns, joined
from policies.replay.files import FilePart, ScoreText, files_of
from policies.replay.parallel import ReaderDied, reading
from policies.traffic.reader import parquet_rows
from policies.traffic.survey import open_folder
from router.log.compaction import compact
from tests.traffic_records import decision, judgement, shadow, write_segment

BARE = RequestFeatures(
    prompt_bytes=10, message_count=1, approx_prompt_tokens=3, requested_output_tokens=1, last_user_turn="hi"
)


def record(number: int) -> DecisionRecord:
    """Tenants and tags come in another order in every segment."""
    return decision(number, features=BARE, tenant=f"tenant-{number % 7}", tags={"team": f"t{number % 5}"})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A compacted file, and three segments."""
    write_segment(tmp_path, "first", [*(record(n) for n in range(20)), shadow(3), judgement(4, score=1.0)])
    compact(tmp_path, progress=lambda _: None)
    for number in range(1, 4):
        write_segment(tmp_path, f"later-{number}", [record(number * 100 + n) for n in range(number, 12)])
    return tmp_path


def read(folder: Path, jobs: int, score_text: ScoreText | None = None) -> list[FilePart]:
    log = open_folder(folder)
    with reading(log, files_of(log), score_text, jobs, parallel_from_bytes=0) as parts:
        return list(parts)


def length(text: str) -> float:
    return float(len(text))


def killed(text: str) -> float:
    """As the kernel does when memory is short."""
    os.kill(os.getpid(), signal.SIGKILL)
    return 0.0


@pytest.mark.system
def test_two_processes_find_what_one_finds(folder: Path) -> None:
    alone, together = read(folder, 1, length), read(folder, 2, length)
    assert [part[1:] for part in together] == [part[1:] for part in alone]
    assert [len(part.shadows) + len(part.feedback) for part in alone] == [0, 2, 0, 0, 0]
    one, two = joined([part.columns for part in alone]), joined([part.columns for part in together])
    assert len(one) == 20 + 11 + 10 + 9
    for each in fields(Columns):
        assert np.array_equal(getattr(one, each.name), getattr(two, each.name), equal_nan=is_float(one, each.name))


def is_float(columns: Columns, name: str) -> bool:
    return getattr(getattr(columns, name), "dtype", None) == np.float64


def test_joined_codes_mean_what_they_meant_in_every_part(folder: Path) -> None:
    columns = joined([part.columns for part in read(folder, 1)])
    number = (columns.created_s - decision(0).created_s).astype(int)
    assert [columns.names[code] for code in columns.tenant] == [f"tenant-{each % 7}" for each in number]
    assert [columns.tag_sets[code] for code in columns.tags] == [(("team", f"t{each % 5}"),) for each in number]


@pytest.mark.system
def test_reading_ends_with_a_clear_error_when_a_process_is_killed(folder: Path) -> None:
    with pytest.raises(ReaderDied, match="SIGKILL"):
        read(folder, 2, killed)


@pytest.mark.system
def test_file_that_is_gone_is_told_by_the_process_that_missed_it(folder: Path) -> None:
    log = open_folder(folder)
    files = files_of(log)
    (folder / "later-2.seg").unlink()
    with pytest.raises(FileNotFoundError), reading(log, files, None, 2, parallel_from_bytes=0) as parts:
        list(parts)


@pytest.mark.system
def test_process_ends_when_the_one_that_started_it_is_gone(folder: Path) -> None:
    command = [sys.executable, "-m", "policies.replay.reader"]
    done = subprocess.run(command, input=pickle.dumps((folder, None)), capture_output=True, timeout=60, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


@pytest.mark.parametrize("parts", [1, 3, 9])
def test_parts_of_a_compacted_file_are_the_whole_of_it(parts: int) -> None:
    rows = [(f'{{"n":{number}}}', number) for number in range(10)]
    file = io.BytesIO()
    pq.write_table(pa.table({"payload": [row[0] for row in rows], "crc32": [row[1] for row in rows]}), file,
                   row_group_size=3)  # fmt: skip
    read_rows = [row for part in range(parts) for row in parquet_rows(file, part, parts)]
    assert read_rows == [(payload.encode(), crc32) for payload, crc32 in rows]
