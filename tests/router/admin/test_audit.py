"""The audit log: a chain that shows what was changed, and that outlives killed writers."""

from __future__ import annotations

import json
import multiprocessing
import stat
from pathlib import Path

import pytest

from router.admin.audit import NO_LINE, Actor, Audit, AuditError

ANN = Actor("ann", "x7Qz")


def filled(folder: Path, lines: int = 4) -> Audit:
    audit = Audit(folder, clock=lambda: 1.5)
    for number in range(lines):
        audit.record(ANN, "policy.put", "ok", from_version=number, to_version=number + 1)
    return audit


def test_lines_follow_each_other(tmp_path: Path) -> None:
    audit = filled(tmp_path, 3)
    entries, problem = audit.entries()
    assert problem is None
    assert [entry.sequence for entry in entries] == [1, 2, 3]
    assert [entry.previous for entry in entries] == [NO_LINE, entries[0].sha256, entries[1].sha256]
    assert (entries[2].actor, entries[2].key_end, entries[2].to_version) == ("ann", "x7Qz", 3)
    assert stat.S_IMODE(audit.path.stat().st_mode) == 0o600


def edit_value(lines: list[str]) -> list[str]:
    fields = json.loads(lines[1])
    return [lines[0], json.dumps(fields | {"actor": "bob"}), *lines[2:]]


@pytest.mark.parametrize(
    ("tamper", "problem"),
    [
        (edit_value, "line 2 was changed"),
        (lambda lines: [lines[0], *lines[2:]], "line 2 does not follow"),
        (lambda lines: lines[1:], "line 1 does not follow"),
        (lambda lines: [lines[1], lines[0], *lines[2:]], "line 1 does not follow"),
        (lambda lines: [*lines[:2], "nonsense", *lines[2:]], "line 3 is not an entry"),
        (lambda lines: [*lines, lines[-1]], "line 5 does not follow"),
    ],
)
def test_chain_breaks_when_somebody_touches_a_line(tmp_path: Path, tamper: object, problem: str) -> None:
    audit = filled(tmp_path)
    lines = audit.path.read_text().splitlines()
    audit.path.write_text("\n".join(tamper(lines)) + "\n")  # type: ignore[operator]
    assert (audit.entries()[1] or "").startswith(problem)


def test_chain_goes_on_when_a_writer_was_killed_in_the_middle_of_a_line(tmp_path: Path) -> None:
    audit = filled(tmp_path, 2)
    with audit.path.open("ab") as file:
        file.write(b'{"sequence": 3, "ti')
    assert len(audit.entries()[0]) == 2
    audit.record(ANN, "policy.rollback", "refused", detail="no version 9")
    entries, problem = audit.entries()
    assert problem is None
    assert [entry.sequence for entry in entries] == [1, 2, 3]


def _write(folder: Path, name: str) -> None:
    for _ in range(20):
        Audit(folder).record(Actor(name), "policy.put", "ok")


def test_chain_holds_when_several_processes_write(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    writers = [context.Process(target=_write, args=(tmp_path, name)) for name in ("a", "b", "c")]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    entries, problem = Audit(tmp_path).entries()
    assert (len(entries), problem) == (60, None)


def test_error_names_the_key_when_the_log_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(AuditError, match=r"admin\.dir"):
        Audit(tmp_path / "file").check()
