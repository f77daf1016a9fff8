"""The registry of bundles: what is damaged, edited or points elsewhere is refused, and nothing is changed."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from serving.errors import DamagedBundle
from serving.registry import Registry
from tests.serving.bundles import added, build, entries, pointed


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return Registry(tmp_path / "students", clock=lambda: 5.0)


def truncate(folder: Path) -> None:
    os.truncate(folder / "model" / "model.safetensors", 20)


def remove(folder: Path) -> None:
    (folder / "model" / "tokenizer.json").unlink()


def grow(folder: Path) -> None:
    (folder / "model" / "extra.py").write_text("import os")


def link(folder: Path) -> None:
    (folder / "report.html").unlink()
    (folder / "report.html").symlink_to("/etc/hostname")


def scribble(folder: Path) -> None:
    (folder / "manifest.json").write_text('{"schema": 1')


def polish(folder: Path) -> None:
    manifest = folder / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"verdict": "pass"', '"verdict": "inconclusive"'))


DAMAGES = [
    (truncate, r"model/model\.safetensors \(20 bytes\) has sha256 .* truncated or was changed"),
    (remove, r"model/tokenizer\.json is missing"),
    (grow, r"model/extra\.py is not in the manifest"),
    (link, r"report\.html is a link"),
    (scribble, r"manifest\.json is damaged"),
    (polish, r"manifest\.json was edited"),
]


@pytest.mark.parametrize(("damage", "message"), DAMAGES)
def test_bundle_is_refused_and_kept_when_it_is_damaged_before_it_is_added(
    registry: Registry, tmp_path: Path, damage: object, message: str
) -> None:
    build(tmp_path / "built")
    assert callable(damage)
    damage(tmp_path / "built")
    with pytest.raises(DamagedBundle, match=message):
        registry.add(tmp_path / "built")
    assert (tmp_path / "built").exists()
    assert registry.list() == ()


@pytest.mark.parametrize(("damage", "message"), DAMAGES)
def test_pointer_stays_when_the_promoted_bundle_is_damaged(registry: Registry, damage: object, message: str) -> None:
    good, bad = added(registry, "a"), added(registry, "b")
    registry.promote(good)
    assert callable(damage)
    damage(registry.root / bad)
    with pytest.raises(DamagedBundle, match=message):
        registry.promote(bad)
    assert pointed(registry) == (good, ())
    assert len(registry.history()) == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": "../elsewhere"}, "no files|inside the bundle"),
        ({"calibrator": None, "cascade_threshold": 1.5}, "must be a probability"),
        ({"name": "two words"}, "must be letters"),
    ],
)
def test_bundle_is_refused_when_its_fields_make_no_sense(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(DamagedBundle, match=message):
        build(tmp_path / "built", **changes)


def test_bundle_is_refused_when_it_was_written_by_another_version(registry: Registry, tmp_path: Path) -> None:
    build(tmp_path / "built", schema=99)
    with pytest.raises(DamagedBundle, match="schema 99 is not the 1"):
        registry.add(tmp_path / "built")


def test_renamed_bundle_is_refused(registry: Registry) -> None:
    a, b = added(registry, "a"), added(registry, "b")
    (registry.root / a).rename(registry.root / "student-000000000000")
    with pytest.raises(DamagedBundle, match="rename the folder back"):
        registry.promote("student-000000000000")
    assert registry.promote(b).bundle_id == b


@pytest.mark.parametrize("path", ["../outside.json", "/etc/hostname"])
def test_derived_bundle_takes_no_file_from_outside_when_the_manifest_names_one(registry: Registry, path: str) -> None:
    base = added(registry)
    (registry.root / "outside.json").write_text("{}")
    manifest = registry.root / base / "manifest.json"
    manifest.write_text(manifest.read_text().replace("report.html", path))
    with pytest.raises(DamagedBundle, match="must be a path inside the bundle"):
        registry.derive(base, calibrator=None, cascade_threshold=0.5)
    assert set(entries(registry)) == {base, "outside.json"}


def test_bundle_is_not_read_when_its_model_lies_outside(registry: Registry) -> None:
    base = added(registry)
    described = registry.root / base / "bundle.json"
    described.write_text(described.read_text().replace('"model": "model"', '"model": "../other/model"'))
    with pytest.raises(DamagedBundle, match="must be a path inside the bundle"):
        registry.get(base)
    assert base in registry.damaged()
