"""The gateway's view of certificates, as student, teacher and traffic change."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from click.testing import CliRunner

from policies.base import StudentDefaults
from policies.quality.drift import Finding, Monitor
from policies.registry import build_all
from router.cli import main
from router.generations import Generations
from router.metrics import Metrics
from router.quality.certificates import Certificates
from tests.policies.test_certificate import table


class World:
    """One gateway process: what serves, and what drift detection has found."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.metrics = Metrics()
        self.monitor: Monitor | None = Monitor(student="s-1")
        self.generations = SimpleNamespace()
        self.serve("s-1", [table(folder)])
        self.certificates = Certificates(
            cast(Generations, self.generations), self.metrics, teacher="big", monitor=lambda: self.monitor
        )

    def serve(self, student: str, tables: list[dict[str, Any]]) -> None:
        standings = tuple(build_all(tables, student=StudentDefaults(bundle_id=student)).standings)
        decider = SimpleNamespace(chain=SimpleNamespace(standings=standings))
        self.generations.current = SimpleNamespace(bundle_id=student, decider=decider)

    def valid(self) -> float | None:
        self.certificates.refresh()
        return self.metrics.registry.get_sample_value("router_certificate_valid", {"policy": "cascade"})


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def alarm(**changes: Any) -> Finding:
    fields: dict[str, Any] = {
        "detector": "inputs", "measure": "words", "effect": 0.5, "threshold": 0.2, "evidence": 2.0, "n": 500,
        "reference_n": 500,
    }  # fmt: skip
    return Finding(**(fields | changes))


def test_certificate_is_void_for_as_long_as_an_alarm_of_drift_rings(world: World) -> None:
    assert world.valid() == 1
    assert world.monitor is not None
    world.monitor.findings = {"inputs": alarm()}
    assert world.valid() == 0
    world.monitor.findings = {"inputs": alarm(effect=0.1)}
    assert world.valid() == 1


def test_certificate_stays_void_when_somebody_takes_the_new_traffic_for_normal(world: World) -> None:
    assert world.monitor is not None
    world.monitor.asked_s = 2.5e9  # after the certificate was made
    assert world.valid() == 0


def test_certificate_is_void_when_the_teacher_states_a_new_fingerprint(world: World) -> None:
    assert world.monitor is not None
    world.monitor.new_fingerprints = {"fp-9": 1.0}
    assert world.valid() == 0


def test_alarms_about_another_student_do_not_count(world: World) -> None:
    world.monitor = Monitor(student="s-0", findings={"inputs": alarm()})
    assert world.valid() == 1


def test_certificate_is_void_when_another_student_serves_and_valid_when_the_old_one_is_back(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    world.valid()
    world.serve("s-2", [table(world.folder)])
    world.monitor = None
    assert world.valid() == 0
    assert "certificate void (student_changed)" in caplog.text
    caplog.clear()
    assert world.valid() == 0
    assert not caplog.text  # said once
    world.serve("s-1", [table(world.folder)])
    assert world.valid() == 1


def test_metric_is_no_alarm_when_the_policy_has_no_certificate_any_more(world: World) -> None:
    world.serve("s-2", [table(world.folder)])
    assert world.valid() == 0
    world.serve("s-2", [{"type": "cascade"}])
    assert world.valid() == 1


@pytest.mark.parametrize(
    ("student", "told"), [("s-1", "note: cascade: certificate valid"), ("s-2", "(student_changed)")]
)
def test_check_tells_whether_a_certificate_is_valid(tmp_path: Path, student: str, told: str) -> None:
    entry = table(tmp_path)
    config = tmp_path / "locum.toml"
    config.write_text(
        f"""
[student]
base_url = "http://127.0.0.1:1/v1"
model = "{student}"
[teacher]
base_url = "http://127.0.0.1:2/v1"
model = "big"
[log]
dir = ""
[[routing.policies]]
type = "cascade"
threshold = {entry["threshold"]}
certificate = "{entry["certificate"]}"
"""
    )
    result = CliRunner().invoke(main, ["check", "-c", str(config)])
    assert result.exit_code == 0, result.output
    assert told in result.stderr
    assert "at most 1 points lost" in result.stderr
