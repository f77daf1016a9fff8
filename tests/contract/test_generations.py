"""A student is replaced under load: no request fails, and every one of them has exactly one student."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import Future
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest

from loadtests.fake_backend import BackendThread
from policies import artefact
from policies.bundle import BUNDLE_SCHEMA_VERSION, Bundle
from policies.calibration import MEAN_LOGPROB, CalibratorArtefact, Platt
from router.app import Install
from router.config import ConfigError
from router.config_file import parse
from tests.contract.conftest import RunningGateway
from tests.contract.test_disconnect import WaitUntil

HI = [{"role": "user", "content": "hi"}]
SIGNATURES = {"alpha-000000000001": "ALPHA", "beta-000000000002": "BETA"}
CONFIG = """
[server]
port = 0
probe_interval_s = 60.0
drain_timeout_s = 0.2
[student]
registry = "{folder}/students"
price_usd_per_1m_input_tokens = 7.0
price_usd_per_1m_output_tokens = 7.0
[student.vllm]
port = 22090
[teacher]
base_url = "{teacher}"
price_usd_per_1m_input_tokens = 2.5
price_usd_per_1m_output_tokens = 10.0
[log]
dir = "{folder}/traffic"
[[routing.policies]]
type = "cascade"
"""


class Switching:
    """A gateway whose student the test replaces, as the switch of a registry would."""

    def __init__(self, teacher: BackendThread, folder: Path) -> None:
        self.folder = folder
        self._hook: Install | None = None
        self.gateway = RunningGateway(
            parse(CONFIG.format(folder=folder, teacher=teacher.base_url)), {}, self._background
        )

    @asynccontextmanager
    async def _background(self, install: Install) -> AsyncIterator[None]:
        self._loop = asyncio.get_running_loop()
        self._hook = install
        yield

    def begin(self, bundle: Bundle, backend: BackendThread) -> Future[None]:
        assert self._hook is not None
        coroutine = self._hook(bundle, self.folder / "students" / bundle.bundle_id, backend.base_url)
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop)  # type: ignore[arg-type]

    def install(self, bundle: Bundle, backend: BackendThread) -> None:
        self.begin(bundle, backend).result(20)

    def bundle(self, bundle_id: str, **fields: object) -> Bundle:
        folder = self.folder / "students" / bundle_id
        folder.mkdir(parents=True, exist_ok=True)
        fitted = CalibratorArtefact(
            calibrator=Platt(slope=2.0, intercept=3.0), raw=MEAN_LOGPROB, source="test", n=200, n_sufficient=150,
            ece=0.02, reliability=(),
        )  # fmt: skip
        artefact.write(folder / "calibrator.json", fitted)
        values: dict[str, object] = {
            "schema": BUNDLE_SCHEMA_VERSION, "bundle_id": bundle_id, "name": bundle_id.partition("-")[0],
            "created_s": 1.0, "model_sha256": "0" * 64, "model_bytes": 1,
        }  # fmt: skip
        return Bundle(**(values | fields))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def alpha() -> Iterator[BackendThread]:
    with BackendThread(models=("student",), signature="ALPHA") as running:
        yield running


@pytest.fixture(scope="module")
def beta() -> Iterator[BackendThread]:
    with BackendThread(models=("student",), signature="BETA", window_tokens=4096) as running:
        yield running


@pytest.fixture
def switching(teacher: BackendThread, tmp_path: Path) -> Iterator[Switching]:
    teacher.state.reset()
    made = Switching(teacher, tmp_path)
    made.gateway.start()
    yield made
    made.gateway.stop()


def test_teacher_answers_while_no_student_is_loaded(switching: Switching) -> None:
    gateway = switching.gateway
    response = gateway.post({"model": "auto", "messages": HI})
    assert response.status_code == 200
    assert (response.headers["x-router-route"], response.headers["x-router-student"]) == ("teacher", "none")
    assert response.headers["x-router-reason"] == "student_loading"
    assert gateway.metric('router_spills_total{reason="student_loading"}') == 1
    ready = httpx.get(f"{gateway.origin}/readyz")
    assert ready.status_code == 200
    assert ready.json()["student"]["reachable"] is False


def test_everything_follows_the_installed_bundle(switching: Switching, beta: BackendThread) -> None:
    gateway = switching.gateway
    before = gateway.post({"model": "auto", "messages": HI})
    prices = {"price_usd_per_1m_input_tokens": 1.0, "price_usd_per_1m_output_tokens": 2.0}
    bundle = switching.bundle("beta-000000000002", **prices)
    switching.install(bundle, beta)
    response = gateway.post({"model": "auto", "messages": HI})
    assert response.headers["x-router-student"] == bundle.bundle_id
    assert response.headers["x-router-policy-version"] != before.headers["x-router-policy-version"]
    record = gateway.records()[-1]
    assert (record.student, record.decision.version) == (bundle.bundle_id, response.headers["x-router-policy-version"])
    usage = record.usage
    assert usage is not None
    assert record.cost_usd == pytest.approx((usage.prompt_tokens * 1 + usage.completion_tokens * 2) / 1e6)
    ready = httpx.get(f"{gateway.origin}/readyz").json()
    (replica,) = ready["student"].pop("replicas")
    assert ready["student"] == {
        "bundle": bundle.bundle_id, "model": "student", "reachable": True, "context_window_tokens": 4096,
    }  # fmt: skip
    assert (replica["name"], replica["reachable"], replica["breaker"]) == ("student", True, "closed")
    assert ready["policy_version"] == response.headers["x-router-policy-version"]
    assert httpx.get(f"{gateway.origin}/v1/models/student").json()["max_model_len"] == 4096
    assert gateway.metric(f'router_student_info{{student="{bundle.bundle_id}"}}') == 1
    assert gateway.metric('router_student_info{student="none"}') == 0


def test_threshold_changes_with_the_bundle_and_nothing_else(switching: Switching, alpha: BackendThread) -> None:
    gateway = switching.gateway
    body = {"model": "auto", "messages": [{"role": "user", "content": "[[fake-logprob-1.5]]"}]}  # P(wrong) = 0.5
    routes = []
    for number, threshold in enumerate((0.9, 0.1, None)):
        bundle = switching.bundle(
            f"alpha-00000000000{number}", calibrator="calibrator.json", cascade_threshold=threshold
        )
        switching.install(bundle, alpha)
        routes.append(gateway.post(body).headers["x-router-route"])
    assert routes == ["student", "teacher", "student"]
    assert [record.votes[-1].reason for record in gateway.records()] == ["confident", "low_confidence", "no_threshold"]
    assert len({record.decision.version for record in gateway.records()}) == 3


def test_bundle_that_cannot_be_used_leaves_the_present_one_in_place(switching: Switching, alpha: BackendThread) -> None:
    good = switching.bundle("alpha-000000000001")
    switching.install(good, alpha)
    broken = switching.bundle("broken-000000000003", calibrator="missing.json", cascade_threshold=0.5)
    with pytest.raises(ConfigError, match=r"broken-000000000003.*calibrator"):
        switching.install(broken, alpha)
    assert switching.gateway.post({"model": "auto", "messages": HI}).headers["x-router-student"] == good.bundle_id


def test_install_waits_for_the_requests_of_the_old_student(
    switching: Switching, alpha: BackendThread, beta: BackendThread, wait_until: WaitUntil
) -> None:
    switching.install(switching.bundle("alpha-000000000001"), alpha)
    alpha.state.reset()
    answers: list[httpx.Response] = []
    slow = {"model": "auto", "messages": [{"role": "user", "content": "[[fake-delay-1]]"}]}
    client = threading.Thread(target=lambda: answers.append(switching.gateway.post(slow)))
    client.start()
    wait_until(lambda: alpha.state.in_flight == 1)
    installed = switching.begin(switching.bundle("beta-000000000002"), beta)
    wait_until(lambda: student_of(switching.gateway.post({"model": "auto", "messages": HI})) == "beta-000000000002")
    assert not installed.done()
    client.join()
    installed.result(5)
    assert student_of(answers[0]) == "alpha-000000000001"
    assert "ALPHA" in answers[0].text
    assert alpha.state.aborted == 0
    wait_until(lambda: alpha.state.connections <= 1)  # the prober keeps one


def student_of(response: httpx.Response) -> str:
    return response.headers["x-router-student"]


@pytest.mark.parametrize("stream", [False, True])
def test_no_request_fails_or_mixes_students_while_they_are_swapped_under_load(
    switching: Switching, alpha: BackendThread, beta: BackendThread, stream: bool
) -> None:
    bundles = [(switching.bundle(name), backend) for name, backend in zip(SIGNATURES, (alpha, beta), strict=True)]
    switching.install(*bundles[0])
    responses: list[httpx.Response] = []
    stop = threading.Event()
    body = {
        "model": "auto", "stream": stream,
        "messages": [{"role": "user", "content": "[[fake-delay-0.01-gap-0.005]]"}],
    }  # fmt: skip

    def ask() -> None:
        while not stop.is_set():
            responses.append(switching.gateway.post(body))

    clients = [threading.Thread(target=ask) for _ in range(6)]
    for client in clients:
        client.start()
    swap_while_busy(lambda turn: switching.install(*bundles[turn % 2]), lambda: len(responses))
    stop.set()
    for client in clients:
        client.join()
    records = {record.decision_id: record for record in switching.gateway.records()}
    assert len(records) == len(responses)
    for response in responses:
        assert response.status_code == 200
        bundle_id = student_of(response)
        record = records[response.headers["x-router-decision-id"]]
        assert (record.student, record.outcome, record.route) == (bundle_id, "ok", "student")
        assert {name for name, signature in SIGNATURES.items() if signature in response.text} == {bundle_id}
        assert record.completion is not None
        assert record.completion.startswith(SIGNATURES[bundle_id])
        assert record.decision.version == response.headers["x-router-policy-version"]
    assert {student_of(response) for response in responses} == set(SIGNATURES)


def swap_while_busy(install: Callable[[int], None], answered: Callable[[], int]) -> None:
    """Six swaps, each after a few more answers."""
    for turn in range(1, 7):
        seen, deadline = answered(), time.monotonic() + 15
        while answered() < seen + 12:
            assert time.monotonic() < deadline, "no answers come"
            time.sleep(0.005)
        install(turn)
