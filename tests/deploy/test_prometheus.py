"""A real Prometheus scrapes real gateways under load, and every query of every panel returns data."""

from __future__ import annotations

import json
import math
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest

from deploy.dashboards.__main__ import FOLDER
from loadtests.fake_backend import BackendThread
from policies import artefact
from policies.calibration import MEAN_LOGPROB, CalibratorArtefact, fit
from router.metrics import Metrics
from serving.switch_state import SwitchState, write_state
from tests.deploy.test_dashboards import RULES, queries

pytestmark = [
    pytest.mark.system,
    pytest.mark.timeout(300),
    pytest.mark.skipif(shutil.which("prometheus") is None, reason="Debian's package prometheus is not installed"),
]

REPOSITORY = Path(__file__).parents[2]
SCRAPES = """
global: {{scrape_interval: 1s, evaluation_interval: 1s}}
rule_files: ["{rules}"]
scrape_configs:
  - job_name: locum
    static_configs: [{{targets: [{targets}]}}]
"""
GATEWAY = """
[server]
port = 0
workers = 2
probe_interval_s = 1.0
[student]
base_url = "{student}"
context_window_tokens = 8192
price_usd_per_1m_input_tokens = 0.02
price_usd_per_1m_output_tokens = 0.04
machine_usd_per_hour = 1.0
[teacher]
base_url = "{teacher}"
model = "student"
price_usd_per_1m_input_tokens = 2.5
price_usd_per_1m_output_tokens = 10.0
distillation = "allowed"
[cache]
enabled = true
[log]
dir = "{folder}/traffic"
write_timeout_s = 10.0
[log.scrub]
enabled = ["email"]
[quality.shadow]
student_share = 1.0
teacher_share = 1.0
[[quality.graders]]
type = "exact"
[quality.drift]
interval_s = 0.5
reference_requests = 200
reference_s = 0.0
window_requests = 400
window_labels = 200
[quality.regression]
file = "{folder}/regression.jsonl"
every_s = 5.0
[[routing.policies]]
type = "long_context"
[[routing.policies]]
type = "long_reasoning"
[[routing.policies]]
type = "retrieval_confidence"
[[routing.policies]]
type = "cascade"
calibrator = "{folder}/calibrator.json"
threshold = 0.5
[[routing.policies]]
type = "difficulty"
mode = "shadow"
"""
CALLS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("[[fake-logprob-0.1]] hi", {}),
    ("[[fake-logprob-3.0]] a draft that is thrown away", {}),
    ("[[fake-tokens-20-gap-0.01]] stream", {"stream": True}),
    ("write to jane.doe@example.com", {}),
    ("too little was found", {"router": {"retrieval_confidence": 0.1}}),
    ("[[fault-500-times-1]] falls back", {}),
    ("[[fake-tokens-20-gap-0.01]] stream", {"stream": True, "model": "teacher"}),
)
"""What clients send: text, and what else is in the body."""


@contextmanager
def process(command: list[str], log: Path, *, ready: str) -> Iterator[str]:
    """A process of ours, from the line of its log that tells where it listens to its end. Yields the log's text."""
    with log.open("wb") as file:
        running = subprocess.Popen(
            command, stderr=file, stdout=file, cwd=log.parent, env={"PYTHONPATH": str(REPOSITORY)}
        )
    try:
        eventually(lambda: ready in log.read_text() or running.poll() is not None)
        assert running.poll() is None, log.read_text()
        yield log.read_text()
    finally:
        running.send_signal(signal.SIGTERM)
        running.wait(60)


@contextmanager
def metrics_of_a_registry(folder: Path) -> Iterator[int]:
    """The metrics of a gateway that has promoted a student: no model runs here. Yields the port."""
    metrics = Metrics()
    metrics.watch_promotion(folder)
    write_state(folder, SwitchState(phase="serving", time_s=time.time(), since_s=time.time(), pid=1))

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = metrics.render()
            self.send_response(200)
            self.send_header("content-type", "text/plain; version=0.0.4")
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Nothing."""

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        thread.join()


def eventually(condition: Any) -> None:
    deadline_s = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline_s, "the condition never became true"
        time.sleep(0.1)


def prepare(folder: Path) -> None:
    """The files that the configuration names."""
    logprobs = [-turn / 20 for turn in range(100)]
    fitted = CalibratorArtefact(
        calibrator=fit(logprobs, [turn < 30 or turn % 7 == 0 for turn in range(100)]),
        raw=MEAN_LOGPROB,
        student="student",
        source="made up",
        n=100,
        n_sufficient=40,
        ece=0.1,
        reliability=(),
    )
    artefact.write(folder / "calibrator.json", fitted)
    items = [
        {
            "messages": [{"role": "user", "content": f"[[fake-echo]] item {turn}"}],
            "label": f"item {turn}",
            "grader": "contains",
        }
        for turn in range(10)
    ]
    (folder / "regression.jsonl").write_text("".join(json.dumps(item) + "\n" for item in items))


def load(url: str, stop: threading.Event) -> None:
    """Send what clients send, over and over, and judge every answer."""
    with httpx.Client(base_url=url, timeout=30) as client:
        turn = 0
        while not stop.is_set():
            text, more = CALLS[turn % len(CALLS)]
            turn += 1
            body = {"model": "auto", "max_tokens": 30, "messages": [{"role": "user", "content": text}], **more}
            answer = client.post("/v1/chat/completions", json=body)
            assert answer.status_code == 200, answer.text
            judged = {"decision_id": answer.headers["x-router-decision-id"], "score": 0.5 + turn % 3 / 4}
            client.post("/v1/feedback", json=judged)
            time.sleep(0.02)


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a Prometheus that has scraped loaded gateways for a while; the load goes on."""
    folder = tmp_path_factory.mktemp("prometheus")
    with ExitStack() as stack:
        student = stack.enter_context(BackendThread(models=("student",)))
        teacher = stack.enter_context(BackendThread(models=("student",)))
        config = folder / "locum.toml"
        config.write_text(GATEWAY.format(student=student.base_url, teacher=teacher.base_url, folder=folder))
        prepare(folder)
        serve = [sys.executable, "-c", "from router.cli import main; main()", "serve", "-c", str(config)]
        said = stack.enter_context(process(serve, folder / "serve.log", ready="listens on"))
        found = re.search(r"listens on http://(\S+)", said)
        assert found
        (folder / "registry").mkdir()
        registry = stack.enter_context(metrics_of_a_registry(folder / "registry"))
        targets = f'"{found[1]}", "127.0.0.1:{registry}"'
        (folder / "prometheus.yml").write_text(SCRAPES.format(rules=RULES / "locum.rules.yml", targets=targets))
        stop = threading.Event()
        crowd = stack.enter_context(ThreadPoolExecutor(4))
        loads = [crowd.submit(load, f"http://{found[1]}", stop) for _ in range(4)]
        stack.callback(stop.set)
        said = stack.enter_context(
            process(
                [
                    "/usr/bin/prometheus",
                    f"--config.file={folder / 'prometheus.yml'}",
                    f"--storage.tsdb.path={folder / 'tsdb'}",
                    "--web.listen-address=127.0.0.1:0",
                    "--log.level=info",
                ],
                folder / "prometheus.log",
                ready="Server is ready",
            )
        )
        address = re.search(r'msg="Listening on".*?address=(\S+)', said)
        assert address, said
        url = f"http://{address[1]}"
        for expression, at_least in (
            ("min(count_over_time(up[1m]))", 20),
            ("router_regression_score", 0.01),
            ('count(router_quality_score{source="shadow"})', 4),  # the rules of quality run every 30 s
        ):
            eventually(partial(reaches, url, expression, at_least))
        yield url
        stop.set()
        for each in loads:
            each.result()


def ask(url: str, expression: str) -> list[float]:
    """The values of an instant query."""
    answer = httpx.get(f"{url}/api/v1/query", params={"query": expression}, timeout=30).json()
    assert answer["status"] == "success", f"{expression}: {answer.get('error')}"
    return [float(sample["value"][1]) for sample in answer["data"]["result"]]


def reaches(url: str, expression: str, at_least: float) -> bool:
    return value(url, expression) >= at_least


def value(url: str, expression: str) -> float:
    return next(iter(ask(url, expression)), 0.0)


def filled_in(expression: str) -> str:
    """What Grafana makes of a query."""
    return expression.replace("$__rate_interval", "15s").replace("$__range", "1m").replace("$job", ".*")


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.json")), ids=lambda path: path.stem)
def test_every_query_of_every_panel_returns_data(path: Path, prometheus: str) -> None:
    empty = []
    for panel in json.loads(path.read_text())["panels"]:
        for expression in queries([panel]):
            values = ask(prometheus, filled_in(expression))
            if not [each for each in values if math.isfinite(each)]:
                empty.append(f"{panel['title']}: {expression}")
    assert empty == []


def test_figures_of_the_board_are_those_of_the_traffic(prometheus: str) -> None:
    share = value(
        prometheus, 'sum(router_requests_total{route="student"}) / sum(router_requests_total{route=~"student|teacher"})'
    )
    assert 0.2 < share < 0.8  # of six calls the student answers three, the teacher three, but for what is cached
    score = value(prometheus, 'router_quality_score{route="student", delivered="yes", source="feedback"}')
    assert 0.5 < score < 1.0
    low = value(prometheus, 'router_quality_score_low{route="student", delivered="yes", source="feedback"}')
    high = value(prometheus, 'router_quality_score_high{route="student", delivered="yes", source="feedback"}')
    assert low < score < high


def test_targets_are_up_and_no_rule_fails(prometheus: str) -> None:
    assert ask(prometheus, "up") == [1.0, 1.0]
    groups = httpx.get(f"{prometheus}/api/v1/rules", timeout=30).json()["data"]["groups"]
    assert len(groups) >= 4
    assert [rule["name"] for group in groups for rule in group["rules"] if rule["health"] != "ok"] == []
