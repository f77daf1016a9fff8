"""`locum student list | promote | rollback | status` on a registry, as a person runs them."""

from __future__ import annotations

import json
import os
import re
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner, Result

from router.cli import main
from serving.registry import Registry
from serving.switch_state import Phase, SwitchState, own, write_state
from tests.serving.bundles import added

CONFIG = """
[student]
registry = "{registry}"
[student.vllm]
port = 23999
[teacher]
base_url = "http://127.0.0.1:9/v1"
"""


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return Registry(tmp_path / "students")


@pytest.fixture
def gateway(registry: Registry) -> Iterator[SwitchState]:
    """The registry belongs to a running gateway."""
    registry.root.mkdir()
    descriptor = own(registry.root)
    assert descriptor is not None
    yield SwitchState(phase="empty", time_s=1.0, since_s=1.0, pid=1)
    os.close(descriptor)


def student(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["student", *map(str, arguments)])


def test_list_shows_verdicts_and_marks_current_and_previous(registry: Registry) -> None:
    a, b = added(registry, "a", created_s=1.0), added(registry, "b", created_s=2.0, cascade_threshold=0.25)
    bad = added(registry, "c", verdict="fail", created_s=3.0)
    registry.promote(a)
    registry.promote(b)
    result = student("list", "--registry", registry.root)
    assert result.exit_code == 0
    first, second, third = result.stdout.splitlines()
    assert first.startswith(f"< {a}  pass ")
    assert second.startswith(f"* {b}  pass ")
    assert second.endswith("threshold 0.250")
    assert third.startswith(f"  {bad}  fail ")
    (registry.root / bad / "bundle.json").write_text("{")
    answer = json.loads(student("list", "--registry", registry.root, "--json").stdout)
    assert (answer["current"], answer["previous"]) == (b, a)
    assert [row["bundle_id"] for row in answer["bundles"]] == [a, b]
    assert "is damaged" in answer["damaged"][bad]


def test_promote_reads_the_registry_of_the_configuration(registry: Registry, tmp_path: Path) -> None:
    a = added(registry)
    (tmp_path / "locum.toml").write_text(CONFIG.format(registry=registry.root))
    result = student("promote", a, "-c", tmp_path / "locum.toml")
    assert (result.exit_code, result.stdout) == (0, f"current: {a}\n")
    status = student("status", "-c", tmp_path / "locum.toml")
    assert status.exit_code == 1
    assert f"current:  {a}" in status.stdout
    assert "none runs on this registry" in status.stdout


def test_promote_refuses_what_the_gate_did_not_pass(registry: Registry) -> None:
    bad = added(registry, verdict="inconclusive")
    result = student("promote", bad, "--registry", registry.root)
    assert result.exit_code == 1
    assert "is inconclusive, not pass: parity is 3 points below the margin" in result.stderr
    assert student("promote", bad, "--registry", registry.root, "--force").exit_code == 2
    forced = student("promote", bad, "--registry", registry.root, "--force", "--reason", "a demo", "--json")
    assert forced.exit_code == 0
    assert json.loads(forced.stdout)["change"]["forced"] is True
    assert registry.history()[0].reason == "a demo"


def test_commands_say_what_is_wrong_when_their_input_is(registry: Registry, tmp_path: Path) -> None:
    a = added(registry)
    plain = tmp_path / "plain.toml"
    plain.write_text('[student]\nbase_url = "http://127.0.0.1:9/v1"\n[teacher]\nbase_url = "http://127.0.0.1:9/v1"\n')
    for arguments, message in [
        (("promote", "nobody-000000000000", "--registry", registry.root), f"no bundle 'nobody-000000000000' .*{a}"),
        (("promote", "../x", "--registry", registry.root), "no bundle '../x'"),
        (("promote", a), "give either --registry DIR or -c FILE"),
        (("list", "--registry", tmp_path / "none"), "is not a folder"),
        (("list", "-c", plain), "names no registry"),
        (("status", "--registry", registry.root, "--model", "m"), "give one of"),
    ]:
        result = student(*arguments)
        assert result.exit_code == 2, result.output
        assert re.search(message, result.stderr), result.stderr
    result = student("rollback", "--registry", registry.root)
    assert (result.exit_code, "no earlier bundle" in result.stderr) == (1, True)


def test_nothing_is_changed_when_a_file_of_the_bundle_is_truncated(registry: Registry) -> None:
    a, b = added(registry, "a"), added(registry, "b")
    registry.promote(a)
    os.truncate(registry.root / b / "model" / "model.safetensors", 30)
    result = student("promote", b, "--registry", registry.root)
    assert result.exit_code == 1
    assert "model.safetensors (30 bytes)" in result.stderr
    assert "nothing was changed" in result.stderr
    assert registry.pointer().bundle_id == a  # type: ignore[union-attr]


def tell(registry: Registry, state: SwitchState, phases: list[tuple[Phase, str | None]]) -> threading.Thread:
    """A gateway's states, one after the other, once it has seen the pointer."""

    def run() -> None:
        while (pointer := registry.pointer()) is None:
            time.sleep(0.01)
        for phase, process in phases:
            time.sleep(0.25)
            seen = msgspec.structs.replace(
                state, phase=phase, process=process, sequence=pointer.sequence, message=f"now {phase}", log_tail=("x",)
            )
            write_state(registry.root, seen)

    thread = threading.Thread(target=run)
    thread.start()
    return thread


def test_wait_ends_well_when_the_gateway_serves_it(registry: Registry, gateway: SwitchState) -> None:
    a = added(registry)
    write_state(registry.root, msgspec.structs.replace(gateway, phase="serving", process="ready", sequence=0))
    thread = tell(registry, gateway, [("starting", None), ("serving", "starting"), ("serving", "ready")])
    result = student("promote", a, "--registry", registry.root, "--wait")
    thread.join()
    assert result.exit_code == 0
    assert "starting: now starting" in result.stderr


def test_wait_ends_with_the_reason_when_the_student_fails(registry: Registry, gateway: SwitchState) -> None:
    a = added(registry)
    thread = tell(registry, gateway, [("starting", None), ("failed", None)])
    result = student("promote", a, "--registry", registry.root, "--wait", "--json")
    thread.join()
    assert result.exit_code == 1
    assert "now failed" in result.stderr
    assert json.loads(result.stdout)["serving"] is False


def test_wait_gives_up_when_no_gateway_runs(registry: Registry) -> None:
    a = added(registry)
    result = student("promote", a, "--registry", registry.root, "--wait", "--timeout", "0.3")
    assert result.exit_code == 1
    assert "does not serve after 0.3 s (no gateway runs on this registry); it is current all the same" in result.stderr
    assert registry.pointer().bundle_id == a  # type: ignore[union-attr]


def test_status_merges_the_probe_with_the_registry(registry: Registry, gateway: SwitchState) -> None:
    a, b = added(registry, "a"), added(registry, "b")
    registry.promote(a)
    registry.promote(b)
    dead = "http://127.0.0.1:9/v1"
    state = msgspec.structs.replace(gateway, phase="starting", serving=a, wanted=b, sequence=2, base_url=dead)
    write_state(registry.root, state)
    result = student("status", "--registry", registry.root, "--json")
    answer = json.loads(result.stdout)
    assert result.exit_code == 1
    assert (answer["base_url"], answer["ready"]) == (dead, False)
    assert (answer["registry"]["current"], answer["registry"]["previous"]) == (b, a)
    assert answer["registry"]["gateway_runs"] is True
    assert answer["registry"]["state"]["serving"] == a
    assert f"starting: ; serves {a}" in student("status", "--registry", registry.root).stdout
