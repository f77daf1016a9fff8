"""A bundle is hashed once, and again when the file system says that one of its files has changed."""

from __future__ import annotations

import os
import shutil
import threading
from pathlib import Path

import pytest

from serving.errors import DamagedBundle
from serving.registry import Registry
from serving.verdicts import Stopped
from tests.serving.bundles import added


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return Registry(tmp_path / "students")


def overwrite(path: Path) -> None:
    """Other bytes of the same length in the same file."""
    with path.open("r+b") as file:
        data = file.read()
        file.seek(0)
        file.write(data[::-1])


def test_verdict_is_remembered_while_size_time_and_file_stay(registry: Registry) -> None:
    bundle_id = added(registry)
    bundle = registry.verified(bundle_id)
    path = registry.root / bundle_id / "model" / "tokenizer.json"
    before = path.stat()
    overwrite(path)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert registry.verified(bundle_id) == bundle  # so nothing was hashed
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns + 1))
    with pytest.raises(DamagedBundle, match=r"tokenizer\.json"):
        registry.verified(bundle_id)


def test_promotion_hashes_for_the_gateway_too_and_never_trusts_a_verdict(registry: Registry) -> None:
    bundle_id = added(registry)
    registry.promote(bundle_id)
    path = registry.root / bundle_id / "model" / "tokenizer.json"
    before = path.stat()
    overwrite(path)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    registry.verified(bundle_id)
    with pytest.raises(DamagedBundle):
        registry.promote(bundle_id)


@pytest.mark.parametrize("change", ["add", "remove", "replace", "manifest"])
def test_bundle_is_hashed_again_when_a_file_comes_goes_or_is_another(registry: Registry, change: str) -> None:
    bundle_id = added(registry)
    registry.verified(bundle_id)
    folder = registry.root / bundle_id
    path = folder / "model" / "tokenizer.json"
    if change == "add":
        (folder / "model" / "extra.py").write_text("import os")
    elif change == "remove":
        path.unlink()
    elif change == "manifest":
        overwrite(folder / "manifest.json")
    else:  # as a copy that keeps times does
        shutil.copy2(path, folder.parent / "copy")
        before = path.stat()
        overwrite(folder.parent / "copy")
        os.utime(folder.parent / "copy", ns=(before.st_atime_ns, before.st_mtime_ns))
        (folder.parent / "copy").replace(path)
    with pytest.raises(DamagedBundle):
        registry.verified(bundle_id)


@pytest.mark.parametrize("content", ["", "{}", "[1]"])
def test_damaged_verdict_only_costs_time(registry: Registry, content: str) -> None:
    bundle_id = added(registry)
    registry.verified(bundle_id)
    (verdict,) = (registry.root / ".verified").iterdir()
    verdict.write_text(content)
    assert registry.verified(bundle_id).bundle_id == bundle_id
    assert verdict.read_text() != content


def test_hashing_ends_when_nobody_wants_the_verdict(registry: Registry) -> None:
    bundle_id = added(registry)
    stop = threading.Event()
    stop.set()
    with pytest.raises(Stopped):
        registry.verified(bundle_id, stop=stop)
    assert registry.verified(bundle_id).bundle_id == bundle_id
