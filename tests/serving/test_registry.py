"""The registry of bundles: adding, deriving, listing."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from serving import bundles
from serving.errors import DamagedBundle, UnknownBundle
from serving.registry import Registry
from tests.serving.bundles import added, build, entries


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return Registry(tmp_path / "students", clock=lambda: 5.0)


def test_registry_is_empty_when_its_folder_does_not_exist(registry: Registry) -> None:
    assert registry.list() == ()
    assert (registry.current(), registry.previous(), registry.pointer()) == (None, None, None)
    assert registry.history() == ()
    with pytest.raises(UnknownBundle, match=r"no bundle 'x-0' .* \(bundles: none\)"):
        registry.get("x-0")


def test_bundle_is_moved_in_whole_when_added(registry: Registry, tmp_path: Path) -> None:
    bundle = build(tmp_path / "built", context_window_tokens=512, calibrator="calibrator.json", cascade_threshold=0.4)
    assert registry.add(tmp_path / "built") == bundle
    assert not (tmp_path / "built").exists()
    assert registry.list() == (bundle,)
    assert registry.get(bundle.bundle_id).cascade_threshold == 0.4
    assert registry.manifest(bundle.bundle_id).files.keys() == {
        "bundle.json", "calibrator.json", "model/config.json", "model/model.safetensors", "model/tokenizer.json", "report.html"
    }  # fmt: skip
    assert registry.current() is None
    assert entries(registry) == [bundle.bundle_id]


def test_bundle_gets_the_same_id_when_it_is_built_again_and_another_for_another_verdict(tmp_path: Path) -> None:
    first = build(tmp_path / "1", created_s=1.0)
    again = build(tmp_path / "2", created_s=2.0)
    failed = build(tmp_path / "3", verdict="fail")
    other = build(tmp_path / "4", "b")
    assert first.bundle_id == again.bundle_id
    assert len({first.bundle_id, failed.bundle_id, other.bundle_id}) == 3


def test_adding_again_changes_nothing_when_the_bundle_is_there(registry: Registry, tmp_path: Path) -> None:
    first = added(registry)
    build(tmp_path / "again", created_s=9.0)
    assert registry.add(tmp_path / "again").bundle_id == first
    assert not (tmp_path / "again").exists()
    assert registry.get(first).created_s == 1.0
    registry.add(registry.root / first)
    assert registry.promote(first).bundle_id == first


def test_twin_is_kept_when_the_bundle_there_is_damaged(registry: Registry, tmp_path: Path) -> None:
    first = added(registry)
    (registry.root / first / "model" / "config.json").write_text("{}")
    build(tmp_path / "again")
    with pytest.raises(DamagedBundle, match="truncated or was changed"):
        registry.add(tmp_path / "again")
    assert (tmp_path / "again" / "bundle.json").exists()


def test_bundle_is_copied_when_it_lies_on_another_file_system(registry: Registry) -> None:
    other = Path("/dev/shm")
    if not other.is_dir() or other.stat().st_dev == registry.root.parent.stat().st_dev:
        pytest.skip("needs a second file system")
    folder = other / f"locum-test-{os.getpid()}"
    bundle = build(folder)
    assert registry.add(folder) == bundle
    assert not folder.exists()
    assert registry.promote(bundle.bundle_id)
    assert bundles.verify_bundle(registry.folder(bundle.bundle_id))[0] == bundle


def test_derived_bundle_shares_the_model_and_has_its_own_calibrator(registry: Registry, tmp_path: Path) -> None:
    base = added(registry, calibrator="calibrator.json", cascade_threshold=0.5)
    (tmp_path / "fitted.json").write_text('{"slope": 2}')
    derived = registry.derive(base, calibrator=tmp_path / "fitted.json", cascade_threshold=0.25)
    folder, base_folder = registry.folder(derived.bundle_id), registry.folder(base)
    assert derived.bundle_id != base
    assert derived.model_sha256 == registry.get(base).model_sha256
    assert (folder / "model" / "model.safetensors").samefile(base_folder / "model" / "model.safetensors")
    assert (folder / "calibrator.json").read_text() == '{"slope": 2}'
    assert (base_folder / "calibrator.json").read_text() == "{}"
    assert registry.manifest(derived.bundle_id).derived_from == base
    assert registry.promote(derived.bundle_id).bundle_id == derived.bundle_id
    assert registry.promote(base).bundle_id == base
    kept = registry.derive(base, calibrator=None, cascade_threshold=0.125)
    assert (registry.folder(kept.bundle_id) / "calibrator.json").read_text() == "{}"
    assert registry.derive(base, calibrator=None, cascade_threshold=0.125).bundle_id == kept.bundle_id
    assert len(registry.list()) == 3
    with pytest.raises(DamagedBundle, match="probability"):
        registry.derive(base, calibrator=None, cascade_threshold=float("nan"))
    assert len(entries(registry)) == 5


def test_list_goes_on_when_a_folder_is_damaged_or_foreign(registry: Registry) -> None:
    good, bad = added(registry, "a"), added(registry, "b")
    (registry.root / bad / "bundle.json").write_text("{")
    (registry.root / "notes").mkdir()
    (registry.root / ".incoming-x").mkdir()
    assert [bundle.bundle_id for bundle in registry.list()] == [good]
    assert "bundle.json is damaged" in registry.damaged()[bad]
