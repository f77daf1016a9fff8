"""Quality estimates, drift and the regression set on a real gateway, by its admin API and its metrics."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from click.testing import CliRunner

from policies.record import Grade, ShadowRecord, encode
from policies.traffic.segments import frame
from router.cli import main
from tests.contract.conftest import RunningGateway, StartGateway
from tests.contract.test_admin import AUTH, ENVIRON, KEY
from tests.traffic_records import shadow

Wait = Callable[[Callable[[], bool]], None]
CLIENT = {"authorization": "Bearer client-key-1"}


def ask(gateway: RunningGateway, path: str, method: str = "GET") -> httpx.Response:
    headers = {"authorization": f"Bearer {KEY}"}
    return httpx.request(method, f"{gateway.origin}/admin/{path}", headers=headers, timeout=60, trust_env=False)


def serve(gateway: RunningGateway, n: int, **fields: Any) -> None:
    with httpx.Client(base_url=gateway.origin, headers=CLIENT, timeout=20, trust_env=False) as client:
        for number in range(n):
            body = {"model": "auto", "messages": [{"role": "user", "content": f"question {number}"}], **fields}
            assert client.post("/v1/chat/completions", json=body).status_code == 200


@pytest.fixture
def items(tmp_path: Path) -> Path:
    """20 right answers, 10 wrong ones and one that fails."""
    path = tmp_path / "held-out.jsonl"
    lines = [("[[fake-echo]] red", "red"), ("[[fake-echo]] blue", "red")]
    texts = [(f"{text} {n}", label) for text, label in lines for n in range(20 if "red" in text else 10)]
    rows = [
        {"messages": [{"role": "user", "content": content}], "label": label, "grader": "contains"}
        for content, label in [*texts, ("[[fault-500]]", "red")]
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def config(tmp_path: Path, *tables: str) -> str:
    return "\n".join([AUTH.format(folder=tmp_path / "admin"), *tables])


def test_quality_is_estimated_from_the_gateways_own_log(start_gateway: StartGateway, tmp_path: Path) -> None:
    gateway = start_gateway(environ=ENVIRON, rest=config(tmp_path))
    serve(gateway, 40)
    shadows: list[ShadowRecord] = [
        shadow(0, decision_id=record.decision_id, tenant=record.tenant, created_s=record.created_s, propensity=1.0,
               grades=(Grade(grader="exact", student=0.5, teacher=1.0),))
        for record in gateway.records()
    ]  # fmt: skip
    (tmp_path / "traffic" / "other.seg").write_bytes(b"".join(frame(encode(each)) for each in shadows))
    answer = ask(gateway, "quality?by=route&window_s=3600")
    assert answer.status_code == 200, answer.text
    found = answer.json()
    assert found["total"]["quality_loss"]["value"] == pytest.approx(0.5)
    assert found["parts"][0]["name"] == "student"
    assert ask(gateway, "quality?by=colour").status_code == 400
    assert ask(gateway, "quality?by=--help").status_code == 400


def test_drift_is_watched_and_its_reference_begun_anew_on_request(
    start_gateway: StartGateway, tmp_path: Path, wait_until: Wait
) -> None:
    drift = "[quality.drift]\nreference_requests = 200\nreference_s = 0.0\nwindow_requests = 400\ninterval_s = 0.05"
    gateway = start_gateway(environ=ENVIRON, rest=config(tmp_path, drift))
    serve(gateway, 210)
    wait_until(lambda: ask(gateway, "drift").json()["reference"]["fixed_s"] is not None)
    found = ask(gateway, "drift").json()
    assert found["student"] == "student"
    assert found["reference"]["requests"] >= 200
    assert gateway.metric('router_drift_alarm{detector="length"}') == 0
    assert (tmp_path / "admin" / "drift-reference.json").is_file()
    again = ask(gateway, "drift/reference", "POST")
    assert again.status_code == 200
    assert ask(gateway, "drift").json()["reference"]["fixed_s"] is None
    assert any(entry["action"] == "drift.reference" for entry in ask(gateway, "audit").json()["entries"])


def test_regression_set_is_asked_on_schedule_and_survives_a_restart(
    start_gateway: StartGateway, tmp_path: Path, items: Path, wait_until: Wait
) -> None:
    table = f'[quality.regression]\nfile = "{items}"'
    gateway = start_gateway(environ=ENVIRON, rest=config(tmp_path, table))
    wait_until(lambda: len(ask(gateway, "regression").json()["rounds"]) == 2)
    teacher, student = ask(gateway, "regression").json()["rounds"]
    assert (student["route"], student["model"], student["failed"]) == ("student", "student", 1)
    assert student["score"]["value"] == pytest.approx(20 / 30)
    assert teacher["route"] == "teacher"
    assert gateway.metric('router_regression_score{route="student"}') == pytest.approx(20 / 30)
    assert gateway.metric('router_regression_items_total{outcome="error"}') == 2
    assert gateway.records() == []  # no traffic
    gateway.stop()
    later = start_gateway(environ=ENVIRON, rest=config(tmp_path, table))
    wait_until(lambda: len(ask(later, "regression").json()["rounds"]) == 2)
    assert later.metric('router_regression_items_total{outcome="right"}') == 0  # nothing is due


def test_what_is_off_says_so(start_gateway: StartGateway, tmp_path: Path) -> None:
    gateway = start_gateway(environ=ENVIRON, rest=config(tmp_path, "[quality.drift]\nenabled = false"))
    for path, key in (("drift", "quality.drift.enabled"), ("regression", "quality.regression.file")):
        answer = ask(gateway, path)
        assert answer.status_code == 404
        assert key in answer.json()["error"]["message"]
    assert httpx.get(f"{gateway.origin}/admin/quality", trust_env=False).status_code == 401


async def test_command_asks_the_set_once(gateway: RunningGateway, tmp_path: Path, items: Path) -> None:
    path = tmp_path / "locum.toml"
    path.write_text(
        f'[student]\nbase_url = "{gateway.config.student.base_url}"\n[teacher]\n'
        f'base_url = "{gateway.config.teacher.base_url}"\n[quality.regression]\nfile = "{items}"\n'
    )

    def run(*arguments: str) -> Any:
        return CliRunner().invoke(main, ["quality", "regression", "-c", str(path), *arguments])

    right = await asyncio.to_thread(run)
    assert right.exit_code == 0, right.output
    assert "student: 20 of 30 right: 0.667" in right.output
    below = await asyncio.to_thread(run, "--min-score", "0.95", "--json")
    assert below.exit_code == 1
    assert json.loads(below.stdout)["score"]["n"] == 30
    missing = await asyncio.to_thread(run, "--file", "nowhere.jsonl")
    assert missing.exit_code == 2
    assert "nowhere.jsonl: cannot be read" in missing.output
