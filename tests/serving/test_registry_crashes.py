"""`kill -9` at every line of every change: the registry is the old one or the new one, and goes on from there."""

from __future__ import annotations

import itertools
import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from serving.bundles import verify_bundle
from serving.errors import PromotionRefused
from serving.registry import Registry
from tests.serving.bundles import added, build

pytestmark = pytest.mark.system

KILLED, DONE = 9, 0
TRACED_FILES = tuple(
    f"serving/{name}.py" for name in ("registry", "bundles", "pointer", "verdicts", "leftovers", "locks", "store")
)
READING = frozenset(
    [
        "hash_files",
        "sha256_of",
        "model_files",
        "content_hash",
        "verify_bundle",
        "read_bundle",
        "read_manifest",
        "_read",
        "_form_problem",
        "_id_of",
        "_id_of_files",
        "_is_inside",
        "fingerprints",
        "is_known",
        "_bundle_id",
        "read_pointer",
        "_sequence",
        "_scan",
        "list",
        "folder",
        "get",
        "manifest",
        "pointer",
        "_flock",
        "try_lock",
        "__init__",
        "sync",
        "_sync_tree",
        "<dictcomp>",
        "<listcomp>",
        "<setcomp>",
        "<genexpr>",
    ]
)
"""Functions that change nothing: being killed in one is being killed before its caller's next line."""


@pytest.fixture(autouse=True)
def page_cache_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """A killed process leaves the page cache alone: fsync, most of the time of these tests, changes nothing here."""
    monkeypatch.setattr(os, "fsync", lambda _: None)


def run_until_killed(action: Callable[[], object], line: int) -> bool:
    """Run an action in a child that ends, without any cleanup, before the n-th line that it executes of the registry's
    code. True when it got to its end."""
    child = os.fork()
    if child:
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        assert status in (KILLED, DONE), status
        return status == DONE
    code = 1
    try:
        sys.settrace(killer(line))
        action()
        code = DONE
    finally:
        os._exit(code)


def killer(line: int) -> Callable[[FrameType, str, Any], Any]:
    lines = itertools.count(1)

    def trace(frame: FrameType, event: str, argument: object) -> Any:
        if not frame.f_code.co_filename.endswith(TRACED_FILES) or frame.f_code.co_name in READING:
            return None
        if event == "line" and next(lines) >= line:
            os._exit(KILLED)
        return trace

    return trace


def test_killer_kills_at_every_line_and_not_later(tmp_path: Path) -> None:
    registry = Registry(tmp_path)
    assert not run_until_killed(registry.rollback, 1)
    assert run_until_killed(registry.pointer, 1_000)


def snapshot(registry: Registry) -> object:
    """What readers see, which must never fail."""
    pointer = registry.pointer()
    for bundle in registry.list():
        verify_bundle(registry.folder(bundle.bundle_id))
    assert not registry.damaged()
    assert [change.sequence for change in registry.history()] == list(range(1, pointer.sequence + 1 if pointer else 1))
    return (
        (pointer.bundle_id, pointer.earlier, pointer.sequence) if pointer else None,
        [bundle.bundle_id for bundle in registry.list()],
    )


CHANGE: dict[str, Callable[[Registry, str, Path], object]] = {
    "promote": lambda registry, bundle_id, _: registry.promote(bundle_id),
    "rollback": lambda registry, *_: registry.rollback(),
    "add": lambda registry, _, built: registry.add(built),
    "derive": lambda registry, bundle_id, _: registry.derive(bundle_id, calibrator=None, cascade_threshold=0.5),
}


@pytest.mark.parametrize("action", CHANGE)
def test_registry_is_old_or_new_when_killed_at_any_line(tmp_path: Path, action: str) -> None:
    template = Registry(tmp_path / "template" / "students", clock=lambda: 5.0)
    a, b = added(template, "a"), added(template, "b")
    template.promote(a)
    template.promote(b)
    build(tmp_path / "template" / "built", "c")
    seen = set()
    for line in itertools.count(1):
        root = tmp_path / str(line)
        shutil.copytree(tmp_path / "template", root)
        registry = Registry(root / "students", clock=lambda: 5.0)
        change = partial(CHANGE[action], registry, a, root / "built")
        old = snapshot(registry)
        finished = run_until_killed(change, line)
        now = snapshot(registry)
        if action == "add":
            assert (root / "built").exists() or now != old, "the bundle is lost"
        # Whatever the killed writer left behind must not be in the way of the next one.
        promoted = registry.promote(a)
        assert snapshot(registry) != now
        assert promoted.bundle_id == a
        with registry._incoming():
            pass
        assert not list(registry.root.glob(".incoming-*"))
        shutil.rmtree(root)
        seen.add(now == old)
        if finished:
            assert now != old
            break
    assert seen == {True, False}


CHANGES = st.tuples(st.sampled_from(["a", "b", "c", "rollback", "derive"]), st.one_of(st.none(), st.integers(1, 250)))


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(changes=st.lists(CHANGES, min_size=1, max_size=6))
def test_pointer_follows_the_finished_changes_whatever_was_killed(changes: list[tuple[str, int | None]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        registry = Registry(Path(folder) / "students")
        ids = {weights: added(registry, weights) for weights in "abc"}
        served = None
        for change, line in changes:
            before = snapshot(registry)

            def act(change: str = change) -> object:
                if change == "rollback":
                    try:
                        return registry.rollback()
                    except PromotionRefused:
                        return None
                if change == "derive":
                    return registry.derive(ids["a"], calibrator=None, cascade_threshold=0.25)
                return registry.promote(ids[change])

            finished = run_until_killed(act, line or 1_000_000)
            after = snapshot(registry)
            assert finished or line is not None
            if finished and change in ids:
                assert registry.pointer() is not None
                assert registry.pointer().bundle_id == ids[change]  # type: ignore[union-attr]
            if not finished and after != before and change in ids:
                served = registry.pointer()
                assert served is not None
                assert served.bundle_id == ids[change]
