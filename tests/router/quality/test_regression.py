"""The regression set in gateways: who asks when, what is kept, when it rings."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from loadtests.fake_backend import BackendThread
from policies import corpus
from policies.base import Route
from policies.quality.regression import RegressionError, Round
from router.app import Parts
from router.config.drift import RegressionConfig
from router.config_file import parse
from router.metrics import Metrics
from router.quality.regression import HISTORY_FILE, Regression, Runner
from router.state.memory import MemoryStore

NAMES = tuple(f"i{n}" for n in range(200))


class FakeRunner(Runner):
    """Answers as many items right as it is told."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.asked: list[Route] = []

    async def round(self, route: Route) -> Round:
        self.asked.append(route)
        await asyncio.sleep(0.02)  # others may come in between
        world = self.world
        right = world.right if route == "student" else 190
        return Round(
            started_s=world.now_s, duration_s=1.0, route=route, model=world.student if route == "student" else "t",
            right=NAMES[:right], wrong=NAMES[right:],
        )  # fmt: skip


class World:
    """Replicas that share a store."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.now_s, self.student, self.right = 1000.0, "s-1", 180
        self.store = MemoryStore(max_value_bytes=0, clock=lambda: self.now_s)
        self.config = RegressionConfig(file="set.jsonl", every_s=100.0, teacher_every_rounds=3)

    def replica(self, name: str = "a") -> Regression:
        return Regression(
            self.config, FakeRunner(self), store=self.store, metrics=Metrics(), folder=self.folder / name,
            student=lambda: self.student, clock=lambda: self.now_s,
        )  # fmt: skip


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def asked(regression: Regression) -> list[Route]:
    runner = regression._runner
    assert isinstance(runner, FakeRunner)
    return runner.asked


def gauge(regression: Regression, name: str, **labels: str) -> float | None:
    return regression._metrics.registry.get_sample_value(name, labels)


async def test_student_is_asked_at_once_then_on_schedule_and_after_each_promotion(world: World) -> None:
    replica = world.replica()
    for _ in range(3):
        await replica.once()
    assert asked(replica) == ["student", "teacher"]
    for _ in range(4):
        world.now_s += 101.0
        await replica.once()
    assert asked(replica)[2:] == ["student", "student", "student", "teacher", "student"]
    world.student, world.now_s = "s-2", world.now_s + 1.0
    await replica.once()
    assert asked(replica)[-1] == "student"
    assert replica.rounds[0].model == "s-2"


async def test_one_replica_asks_and_all_know(world: World) -> None:
    replicas = [world.replica("a"), world.replica("b")]
    await asyncio.gather(*(replica.once() for replica in replicas))
    assert sorted(map(len, map(asked, replicas))) == [0, 2]
    for replica in replicas:
        await replica.once()
        assert len(replica.rounds) == 2
        assert gauge(replica, "router_regression_score", route="student") == pytest.approx(0.9)


async def test_drop_rings_and_is_logged_once(world: World, caplog: pytest.LogCaptureFixture) -> None:
    replica = world.replica()
    await replica.once()
    assert gauge(replica, "router_regression_alarm") == 0
    world.now_s, world.right = world.now_s + 101.0, 150
    for _ in range(2):
        await replica.once()
    assert gauge(replica, "router_regression_alarm") == 1
    assert caplog.messages == ["regression: s-1 answers 15.0 points fewer items right than s-1 did"]
    assert replica.as_json()["compared"][0]["difference"]["high"] < 0


async def test_rounds_survive_a_lost_store_and_a_torn_line(world: World) -> None:
    replica = world.replica()
    await replica.once()
    path = world.folder / "a" / HISTORY_FILE
    path.write_bytes(path.read_bytes() + b'{"started_s": 1')
    world.store = MemoryStore(max_value_bytes=0, clock=lambda: world.now_s)
    again = world.replica()
    await again.once()
    assert asked(again) == []
    assert len(again.rounds) == 2


@pytest.fixture
def student() -> Iterator[BackendThread]:
    with BackendThread(models=("student",)) as running:
        yield running


def runner_of(student: BackendThread, path: Path, registry: Path | None) -> Runner:
    parts = Parts(
        parse(
            f'[student]\nbase_url = "{student.base_url}"\nmodel = "student"\n[teacher]\n'
            'base_url = "http://127.0.0.1:9/v1"\n[log]\ndir = ""'
        ),
        {},
    )
    return Runner(
        RegressionConfig(file=str(path), max_concurrency=3), generations=parts.generations, teacher=parts.teacher,
        metrics=parts.metrics, registry=None if registry is None else str(registry), environ={},
    )  # fmt: skip


def messages(n: int) -> list[dict[str, str]]:
    return [{"role": "user", "content": f"[[fake-echo]] answer {n}"}]


def write_items(path: Path, n: int) -> Path:
    rows = [{"messages": messages(k), "label": str(k), "grader": "numeric"} for k in range(n)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


async def test_items_that_the_student_was_trained_on_are_left_out(student: BackendThread, tmp_path: Path) -> None:
    path = write_items(tmp_path / "set.jsonl", 12)
    unknown = await runner_of(student, path, None).round("student")
    assert (len(unknown.right), unknown.left_out) == (12, None)
    bundle = tmp_path / "registry" / "student"
    bundle.mkdir(parents=True)
    corpus.write(bundle / corpus.FILE, [corpus.prompt_digest(messages(n)) for n in range(4)])
    known = await runner_of(student, path, tmp_path / "registry").round("student")
    assert (len(known.right), known.left_out) == (8, 4)
    corpus.write(bundle / corpus.FILE, [corpus.prompt_digest(messages(n)) for n in range(12)])
    with pytest.raises(RegressionError, match="was trained on all of its items"):
        await runner_of(student, path, tmp_path / "registry").round("student")


async def test_gateways_behind_the_student_learn_what_the_items_are_for(student: BackendThread, tmp_path: Path) -> None:
    await runner_of(student, write_items(tmp_path / "set.jsonl", 2), None).round("student")
    received = [each for each in student.state.received if each.path.endswith("/chat/completions")]
    assert len(received) == 2
    headers = dict(received[0].headers)
    assert headers[b"x-router-purpose"] == b"eval"
    assert headers[b"x-router-train"] == b"none"


def test_check_warns_of_a_set_that_cannot_be_read(tmp_path: Path) -> None:
    path = tmp_path / "set.jsonl"
    base = '[student]\nbase_url = "http://127.0.0.1:9/v1"\n[teacher]\nbase_url = "http://127.0.0.1:9/v1"\n'
    config = parse(f'{base}[quality.regression]\nfile = "{path}"')
    assert f"quality.regression.file: {path}: cannot be read" in "\n".join(config.warnings())
    write_items(path, 1)
    assert "quality.regression" not in "\n".join(config.warnings())
