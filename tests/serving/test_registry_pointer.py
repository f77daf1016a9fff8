"""The pointer of the registry and its history: promoting and rolling back."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from serving.errors import PromotionRefused, RegistryError, UnknownBundle
from serving.pointer import Change
from serving.registry import Registry
from tests.serving.bundles import added, pointed


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return Registry(tmp_path / "students", clock=lambda: 5.0)


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


def test_history_goes_on_when_the_damaged_pointer_was_removed(registry: Registry) -> None:
    a, b = added(registry, "a"), added(registry, "b")
    registry.promote(a)
    registry.promote(b)
    (registry.root / "current.json").unlink()
    assert registry.promote(a).sequence == 3
    assert [(change.sequence, change.bundle_id) for change in registry.history()] == [(1, a), (2, b), (3, a)]
