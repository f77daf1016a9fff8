"""Boards and rules fit the code: generated files are fresh, every metric exists, and the rules do what they promise."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from deploy.dashboards.__main__ import FOLDER, rendered
from router.reference import metric_families

RULES = Path(__file__).parents[2] / "deploy" / "prometheus"
BOARDS = sorted(FOLDER.glob("*.json"))


def queries(panels: list[dict[str, Any]]) -> Iterator[str]:
    for panel in panels:
        yield from (target["expr"] for target in panel.get("targets", ()))
        yield from queries(panel.get("panels", []))


def metrics_in(text: str) -> set[str]:
    """Names of metrics, without what a histogram's parts add."""
    return {re.sub(r"_(bucket|sum|count)$", "", name) for name in re.findall(r"\brouter_[a-z0-9_:]+", text)}


def known_metrics() -> set[str]:
    recorded = re.findall(r"record: (\S+)", (RULES / "locum.rules.yml").read_text())
    return {name for name, *_ in metric_families()} | set(recorded)


def test_boards_are_what_the_code_makes() -> None:
    assert {path.name for path in BOARDS} == set(rendered())
    for name, text in rendered().items():
        assert (FOLDER / name).read_text() == text, f"{name} is stale: python -m deploy.dashboards"


@pytest.mark.parametrize("path", BOARDS, ids=lambda path: path.stem)
def test_every_metric_of_a_board_exists(path: Path) -> None:
    board = json.loads(path.read_text())
    found = metrics_in(" ".join(queries(board["panels"])))
    assert len(found) > 5
    assert found <= known_metrics()


def test_every_metric_of_the_rules_exists() -> None:
    text = (RULES / "locum.rules.yml").read_text()
    assert metrics_in(" ".join(re.findall(r"expr: (.*(?:\n {10,}.*)*)", text))) <= known_metrics()


@pytest.mark.parametrize("path", BOARDS, ids=lambda path: path.stem)
def test_every_panel_explains_itself_and_selects_by_job(path: Path) -> None:
    for panel in json.loads(path.read_text())["panels"]:
        if panel["type"] == "row":
            continue
        assert panel["title"] and panel["description"].endswith((".", '"'))
        for target in panel["targets"]:
            assert 'job=~"$job"' in target["expr"]


@pytest.mark.system
@pytest.mark.skipif(not Path("/usr/bin/promtool").exists(), reason="promtool (Debian: prometheus) is not installed")
def test_rules_pass_their_unit_tests() -> None:
    result = subprocess.run(
        ["/usr/bin/promtool", "test", "rules", "locum.rules.test.yml"],
        cwd=RULES,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr


def test_every_alert_has_a_unit_test_and_says_what_to_do() -> None:
    text, tests = (RULES / "locum.rules.yml").read_text(), (RULES / "locum.rules.test.yml").read_text()
    alerts = re.findall(r"- alert: (\S+)", text)
    assert len(alerts) >= 10
    assert text.count("action:") == len(alerts)
    assert all(f"alertname: {name}\n        exp_alerts:\n" in tests for name in alerts)
