"""The registry of bundles: adding, deriving, promoting, rolling back, and what damage and two writers do."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import resource
import signal
from pathlib import Path
from typing import Any

import msgspec
import pytest

from serving import bundles
from serving.errors import DamagedBundle, PromotionRefused, RegistryError, UnknownBundle
from serving.pointer import Change
from serving.registry import Registry
from tests.serving.bundles import added, build


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return Registry(tmp_path / "students", clock=lambda: 5.0)


def pointed(registry: Registry) -> tuple[str, tuple[str, ...]] | None:
    pointer = registry.pointer()
    return (pointer.bundle_id, pointer.earlier) if pointer else None


def entries(registry: Registry) -> list[str]:
    return sorted(path.name for path in registry.root.iterdir() if path.name != ".lock")


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


def test_promote_and_rollback_move_the_pointer_and_write_history(registry: Registry) -> None:
    a, b, c = (added(registry, weights) for weights in "abc")
    for bundle_id in (a, b, c):
        registry.promote(bundle_id)
    assert pointed(registry) == (c, (b, a))
    registry.rollback(reason="latency")
    assert pointed(registry) == (b, (a,))
    registry.promote(c)
    assert pointed(registry) == (c, (b, a))
    registry.rollback()
    registry.rollback()
    assert pointed(registry) == (a, ())
    with pytest.raises(PromotionRefused, match="no earlier bundle"):
        registry.rollback()
    history = registry.history()
    assert [change.sequence for change in history] == [1, 2, 3, 4, 5, 6, 7]
    assert history[3] == Change(
        sequence=4, time_s=5.0, action="rollback", bundle_id=b, before=c, verdict="pass", reason="latency"
    )
    current, previous = registry.current(), registry.previous()
    assert current is not None
    assert current.bundle_id == a
    assert previous is None


def test_promoting_the_current_bundle_raises_the_sequence_only(registry: Registry) -> None:
    a, b = added(registry, "a"), added(registry, "b")
    registry.promote(a)
    registry.promote(b)
    assert registry.promote(b).sequence == 3
    assert pointed(registry) == (b, (a,))


@pytest.mark.parametrize("verdict", ["fail", "inconclusive"])
def test_bundle_needs_force_and_a_reason_when_the_gate_did_not_pass_it(registry: Registry, verdict: str) -> None:
    bad = added(registry, verdict=verdict)  # type: ignore[arg-type]
    with pytest.raises(PromotionRefused, match=f"is {verdict}, not pass: parity is 3 points"):
        registry.promote(bad)
    with pytest.raises(PromotionRefused, match="needs a reason"):
        registry.promote(bad, force=True, reason="  ")
    assert registry.pointer() is None
    pointer = registry.promote(bad, force=True, reason="demo on Monday")
    assert pointer.change.forced
    assert (pointer.change.verdict, pointer.change.reason) == (verdict, "demo on Monday")


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


def test_renamed_bundle_is_refused(registry: Registry) -> None:
    a, b = added(registry, "a"), added(registry, "b")
    (registry.root / a).rename(registry.root / "student-000000000000")
    with pytest.raises(DamagedBundle, match="rename the folder back"):
        registry.promote("student-000000000000")
    assert registry.promote(b).bundle_id == b


def test_rollback_keeps_the_current_bundle_when_the_earlier_one_is_gone(registry: Registry) -> None:
    a, b = added(registry, "a"), added(registry, "b")
    registry.promote(a)
    registry.promote(b)
    (registry.root / a).rename(registry.root / "archived")
    with pytest.raises(UnknownBundle, match=a):
        registry.rollback()
    assert pointed(registry) == (b, (a,))


def test_pointer_edited_by_hand_is_reported(registry: Registry) -> None:
    registry.promote(added(registry))
    (registry.root / "current.json").write_text('{"schema": 1}')
    with pytest.raises(RegistryError, match=r"current\.json is damaged .* remove it and promote a bundle again"):
        registry.current()


def test_history_is_made_whole_when_its_last_line_was_torn(registry: Registry) -> None:
    a, b = added(registry, "a"), added(registry, "b")
    registry.promote(a)
    registry.promote(b)
    path = registry.root / "history.jsonl"
    data = path.read_bytes()
    for cut in range(data.index(b"\n") + 1, len(data)):
        path.write_bytes(data[:cut])
        assert [change.bundle_id for change in registry.history()] == [a, b]
    registry.rollback()
    assert [change.sequence for change in map(decode_change, path.read_bytes().splitlines())] == [1, 2, 3]


def decode_change(line: bytes) -> Change:
    return msgspec.json.decode(line, type=Change)


def test_orphaned_copies_are_removed_and_living_ones_kept_when_a_bundle_is_added(registry: Registry) -> None:
    added(registry, "a")
    orphan = registry.root / ".incoming-dead"
    (orphan / "model").mkdir(parents=True)
    with registry._incoming() as living:
        assert not orphan.exists()
        added(registry, "b")
        assert living.exists()
    assert not living.exists()


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


def promote_often(root: Path, bundle_ids: list[str]) -> None:
    for bundle_id in bundle_ids * 5:
        Registry(root).promote(bundle_id)


def test_every_change_is_kept_when_two_writers_promote_at_once(registry: Registry) -> None:
    ids = [added(registry, weights) for weights in "abc"]
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=promote_often, args=(registry.root, order)) for order in (ids, ids[::-1], ids)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(60)
        assert writer.exitcode == 0
    history = registry.history()
    assert [change.sequence for change in history] == list(range(1, 46))
    for before, after in itertools.pairwise(history):
        assert after.before == before.bundle_id
    assert pointed(registry) is not None
    assert registry.pointer().change == history[-1]  # type: ignore[union-attr]


def promote_without_room(root: Path, bundle_id: str) -> None:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    try:
        Registry(root).promote(bundle_id)
    except OSError:
        os._exit(3)


def test_pointer_stays_when_the_disk_takes_nothing_more(registry: Registry) -> None:
    a, b = added(registry, "a"), added(registry, "b")
    registry.promote(a)
    before = entries(registry)
    writer = multiprocessing.get_context("fork").Process(target=promote_without_room, args=(registry.root, b))
    writer.start()
    writer.join(60)
    assert writer.exitcode == 3
    assert pointed(registry) == (a, ())
    assert entries(registry) == before
    assert registry.promote(b).sequence == 2
    assert [change.sequence for change in registry.history()] == [1, 2]


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


def test_history_goes_on_when_the_damaged_pointer_was_removed(registry: Registry) -> None:
    a, b = added(registry, "a"), added(registry, "b")
    registry.promote(a)
    registry.promote(b)
    (registry.root / "current.json").unlink()
    assert registry.promote(a).sequence == 3
    assert [(change.sequence, change.bundle_id) for change in registry.history()] == [(1, a), (2, b), (3, a)]
