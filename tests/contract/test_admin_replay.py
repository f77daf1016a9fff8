"""`/admin/replay` on a real gateway, over its own traffic log."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from router.admin.replay import ANSWER_TIMEOUT_S
from tests.contract.conftest import RunningGateway, StartGateway
from tests.contract.test_admin import AUTH, ENVIRON, KEY

ROUTING = {"policies": [{"type": "long_context"}, {"type": "retrieval_confidence", "escalate_below": 0.5}]}


@pytest.fixture
def gateway(start_gateway: StartGateway, tmp_path: Path) -> RunningGateway:
    return start_gateway(environ=ENVIRON, rest=AUTH.format(folder=tmp_path / "admin"))


def ask(gateway: RunningGateway, method: str, path: str, **options: Any) -> httpx.Response:
    headers = {"authorization": f"Bearer {KEY}"}
    return httpx.request(
        method,
        f"{gateway.origin}/admin/{path}",
        headers=headers,
        timeout=ANSWER_TIMEOUT_S + 30,
        trust_env=False,
        **options,
    )


def serve(gateway: RunningGateway, confidences: list[float]) -> None:
    for confidence in confidences:
        body = {
            "model": "auto",
            "messages": [{"role": "user", "content": "hi"}],
            "router": {"retrieval_confidence": confidence},
        }
        assert gateway.post(body, headers={"authorization": "Bearer client-key-1"}).status_code == 200


def test_options_name_every_number_that_can_be_turned(gateway: RunningGateway) -> None:
    answer = ask(gateway, "GET", "replay/options").json()
    by_policy = {
        each["policy"]: {option["option"]: option for option in each["options"]} for each in answer["policies"]
    }
    assert list(by_policy) == ["long_context", "retrieval_confidence", "long_reasoning"]
    threshold = by_policy["retrieval_confidence"]["escalate_below"]
    assert (threshold["type"], threshold["value"], threshold["min"], threshold["max"]) == ("number", 0.55, 0.0, 1.0)
    assert by_policy["retrieval_confidence"]["k"]["type"] == "integer"


@pytest.mark.system
def test_replay_compares_a_document_with_the_one_in_force(gateway: RunningGateway) -> None:
    serve(gateway, [0.2, 0.4, 0.52, 0.7, 0.9, 0.95])
    answer = ask(
        gateway,
        "POST",
        "replay",
        json={
            "document": {"routing": ROUTING},
            "sweep": {"policy": "retrieval_confidence", "option": "escalate_below", "values": [0.0, 0.3, 1.0]},
        },
    )
    assert answer.status_code == 200, answer.text
    found = answer.json()
    assert found["records"] == 6
    assert found["baseline"]["student_share"]["value"] == pytest.approx(3 / 6)
    assert found["candidate"]["student_share"]["value"] == pytest.approx(4 / 6)
    assert [row["report"]["student_share"]["value"] for row in found["sweep"]] == pytest.approx([1.0, 5 / 6, 0.0])
    assert found["baseline"]["quality"] is None
    assert any("quality is not estimated" in each for each in found["warnings"])


def test_replay_refuses_a_document_that_put_would_refuse(gateway: RunningGateway) -> None:
    document = {"routing": {"policies": [{"type": "retrieval_confidence", "escalate_below": 7}]}}
    answer = ask(gateway, "POST", "replay", json={"document": document})
    assert answer.status_code == 400
    assert "escalate_below" in answer.json()["error"]["message"]


@pytest.mark.system
def test_replay_says_so_when_there_is_no_traffic(gateway: RunningGateway) -> None:
    answer = ask(gateway, "POST", "replay", json={})
    assert (answer.status_code, answer.json()["error"]["code"]) == (409, "no_traffic")


@pytest.mark.system
def test_replay_never_holds_the_gateway_up(gateway: RunningGateway) -> None:
    serve(gateway, [0.2, 0.9])
    with ThreadPoolExecutor(1) as threads:
        asked = threads.submit(ask, gateway, "POST", "replay", json={})
        served = 0
        while not asked.done():  # reading and estimating takes a new process seconds, a health check milliseconds
            assert httpx.get(f"{gateway.origin}/healthz", trust_env=False, timeout=60).status_code == 200
            served += 1
            time.sleep(0.01)  # leaves the cores to the process that is waited for
    assert asked.result().status_code == 200
    assert served >= 5


@pytest.mark.system
def test_replay_goes_on_when_its_process_was_killed(gateway: RunningGateway) -> None:
    serve(gateway, [0.2, 0.9])
    assert ask(gateway, "POST", "replay", json={}).status_code == 200
    for process in children(os.getpid(), "router.replay.worker"):
        os.kill(process, signal.SIGKILL)
    for _ in range(100):
        if ask(gateway, "POST", "replay", json={}).status_code == 200:
            return
        time.sleep(0.1)
    raise AssertionError("replay never came back")


def children(parent: int, name: str) -> list[int]:
    """Process ids of the children that have this in their command line."""
    command = ["ps", "-o", "pid=,args=", "--ppid", str(parent)]
    listed = subprocess.run(command, capture_output=True, text=True, check=True)
    return [int(line.split()[0]) for line in listed.stdout.splitlines() if name in line]
