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
from router.quality.certificates import Certificates, NoCertificate, NotAcknowledged
from router.quality.shared_book import FILE, SharedBook
from router.state.memory import MemoryStore
from tests.policies.test_certificate import table


class World:
    """One gateway process: what serves, and what drift detection has found."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.monitor: Monitor | None = Monitor(student="s-1")
        self.generations = SimpleNamespace()
        self.serve("s-1", [table(folder, created_s=1.0, first_s=1.0)])
        self.store = MemoryStore(max_value_bytes=2**20)
        self.start()

    def start(self) -> None:
        """As after a restart: what this process knew is gone."""
        self.metrics = Metrics()
        self.book = SharedBook(self.store, self.folder / FILE)
        self.certificates = Certificates(
            cast(Generations, self.generations),
            self.metrics,
            teacher="big",
            monitor=lambda: self.monitor,
            book=self.book,
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


def look(world: World, at_s: float, **findings: Finding) -> None:
    """Drift detection compares, and finds this."""
    assert world.monitor is not None
    world.monitor.looked_s, world.monitor.findings = at_s, cast(Any, findings)


def test_certificate_stays_void_when_an_alarm_of_drift_has_ended(world: World) -> None:
    look(world, 50.0, inputs=alarm(effect=0.1))
    assert world.valid() == 1
    look(world, 100.0, inputs=alarm())
    assert world.valid() == 0
    look(world, 200.0, inputs=alarm(effect=0.1))
    assert world.valid() == 0


def test_certificate_stays_void_when_somebody_takes_the_new_traffic_for_normal(world: World) -> None:
    assert world.monitor is not None
    world.monitor.asked_s = 2.5  # after the certificate was made
    assert world.valid() == 0
    world.monitor = Monitor(student="s-1")
    assert world.valid() == 0


def test_certificate_stays_void_when_the_teacher_has_stated_a_new_fingerprint(world: World) -> None:
    assert world.monitor is not None
    world.monitor.new_fingerprints = {"fp-9": 5.0}
    assert world.valid() == 0
    world.monitor.restart("s-2", 6.0)  # another student is seen, and with it nothing is known of fingerprints
    assert world.valid() == 0


def test_certificate_is_valid_when_it_was_tuned_on_labels_from_after_the_alarm(world: World) -> None:
    look(world, 100.0, inputs=alarm())
    assert world.valid() == 0
    world.serve("s-1", [table(world.folder, created_s=300.0, first_s=150.0)])
    assert world.valid() == 1  # though it rings against the old reference


async def test_voiding_is_not_forgotten_when_the_gateway_restarts_with_an_empty_store(world: World) -> None:
    look(world, 100.0, inputs=alarm())
    world.certificates.refresh()
    await world.book.exchange()
    world.monitor, world.store = Monitor(student="s-1"), MemoryStore(max_value_bytes=2**20)
    world.start()
    await world.certificates.start()
    assert world.metrics.registry.get_sample_value("router_certificate_valid", {"policy": "cascade"}) == 0
    assert (await world.store.read_document("quality/alarms")) is not None  # given back, for the others


async def test_voiding_is_seen_by_a_replica_with_a_disk_of_its_own(world: World, tmp_path: Path) -> None:
    look(world, 100.0, inputs=alarm())
    world.certificates.refresh()
    await world.book.exchange()
    other = World(tmp_path / "other")
    other.store, other.monitor = world.store, None
    other.start()
    await other.certificates.start()
    assert other.valid() == 0


async def test_acknowledged_certificate_is_valid_until_drift_rings_anew(world: World) -> None:
    look(world, 100.0, inputs=alarm(), length=alarm(detector="length"))
    assert world.valid() == 0
    standing = await world.certificates.acknowledge("cascade", by="ops", comment="looked")
    assert standing.valid
    look(world, 160.0, inputs=alarm())  # rings on; the other one has ended
    assert world.valid() == 1
    world.start()
    await world.certificates.start()
    assert world.valid() == 1
    acknowledged_s = standing.as_json()["acknowledged"]["at_s"]
    look(world, acknowledged_s + 100.0, length=alarm(detector="length"))
    assert world.valid() == 0
    with pytest.raises(NoCertificate):
        await world.certificates.acknowledge("difficulty", by="ops", comment="looked")


async def test_nothing_is_acknowledged_when_the_certificate_is_valid_or_another_student_serves(world: World) -> None:
    with pytest.raises(NotAcknowledged, match="valid"):
        await world.certificates.acknowledge("cascade", by="ops", comment="looked")
    look(world, 100.0, inputs=alarm())
    world.serve("s-2", [table(world.folder, created_s=1.0, first_s=1.0)])
    with pytest.raises(NotAcknowledged, match=r"student_changed.*tune again"):
        await world.certificates.acknowledge("cascade", by="ops", comment="looked")
    assert world.book.book.acknowledged == {}


async def test_damaged_file_is_named_and_the_gateway_goes_on(world: World, caplog: pytest.LogCaptureFixture) -> None:
    (world.folder / FILE).write_text("{")
    await world.certificates.start()
    assert world.valid() == 1
    assert "cannot be read" in caplog.text


def test_alarms_about_another_student_do_not_count(world: World) -> None:
    world.monitor = Monitor(student="s-0", looked_s=100.0, findings={"inputs": alarm()})
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
