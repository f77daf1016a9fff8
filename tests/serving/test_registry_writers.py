"""The registry between processes: several writers, a full disk, and what killed ones leave behind."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import resource
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from serving.registry import Registry
from serving.switch_state import SwitchState, own, write_state
from tests.serving.bundles import added, entries, pointed


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return Registry(tmp_path / "students", clock=lambda: 5.0)


def test_orphaned_copies_are_removed_and_living_ones_kept_when_a_bundle_is_added(registry: Registry) -> None:
    added(registry, "a")
    orphan = registry.root / ".incoming-dead"
    (orphan / "model").mkdir(parents=True)
    with registry._incoming() as living:
        assert not orphan.exists()
        added(registry, "b")
        assert living.exists()
    assert not living.exists()


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


def killed_before_rename(number: int, action: Callable[[], object]) -> None:
    """Run an action in a child that kills itself instead of giving its n-th file its final name."""
    child = os.fork()
    if not child:
        renames = itertools.count(1)

        def replace(*_: object) -> None:
            if next(renames) == number:
                os.kill(os.getpid(), signal.SIGKILL)

        Path.replace = replace  # type: ignore[method-assign, assignment]
        action()
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL


@pytest.mark.parametrize(("number", "leftover"), [(1, ".verified/*.partial"), (2, "current.json.*.partial")])
def test_unfinished_files_of_a_killed_writer_are_removed_by_the_next_one(
    registry: Registry, number: int, leftover: str
) -> None:
    a, b = added(registry, "a"), added(registry, "b")
    registry.promote(a)
    killed_before_rename(number, lambda: registry.promote(b))
    assert len(list(registry.root.glob(leftover))) == 1
    registry.tidy()
    assert not list(registry.root.rglob("*.partial"))
    assert pointed(registry) == (a, ())


def test_unfinished_state_of_a_killed_gateway_is_removed_by_the_next_one(registry: Registry) -> None:
    registry.promote(added(registry))
    state = SwitchState(phase="empty", time_s=1.0, since_s=1.0, pid=1)

    def serve() -> None:
        assert own(registry.root) is not None
        write_state(registry.root, state)

    killed_before_rename(1, serve)
    assert len(list(registry.root.glob("state.json.*.partial"))) == 1
    owner = own(registry.root)
    assert owner is not None
    assert not list(registry.root.glob("*.partial"))
    (registry.root / "state.json.1.partial").write_text("of the living owner")
    assert own(registry.root) is None
    assert (registry.root / "state.json.1.partial").exists()
    os.close(owner)
