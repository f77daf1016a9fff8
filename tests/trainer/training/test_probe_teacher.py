"""`locum train probe-teacher` against an endpoint that answers like vLLM."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from click.testing import CliRunner

from tests.trainer.training.conftest import FakeTeacher
from trainer.probe_teacher import probe, probe_teacher_command
from trainer.recipe import Recipe

RECIPE = """
name = "test"
[export]
log_dir = "log"
[teacher]
base_url = "{url}"
model = "{model}"
tokenizer = "{base}"
[student]
base_model = "{base}"
[evaluate]
dataset = "x.jsonl"
sha256 = "{zeros}"
provenance = "human"
"""


def run(teacher: FakeTeacher, base_model: Path, tmp_path: Path, *args: str, model: str = "teacher"):
    path = tmp_path / "recipe.toml"
    path.write_text(RECIPE.format(url=teacher.url, model=model, base=base_model, zeros="0" * 64))
    return CliRunner().invoke(probe_teacher_command, ["-c", str(path), *args])


def test_probe_says_what_the_endpoint_gives(teacher: FakeTeacher, base_model: Path, tmp_path: Path) -> None:
    result = run(teacher, base_model, tmp_path, "--json")
    report = json.loads(result.stdout)
    assert result.exit_code == 0 and report["topk_possible"] and report["reachable"] and report["token_ids"]
    assert report["top_k"] == 20 and report["fingerprint"] == "vllm-0.32.0-abc" and report["server_version"] == "0.32.0"
    assert report["context_window_tokens"] == 1000
    assert "topk is possible" in run(teacher, base_model, tmp_path).stdout


def test_probe_warns_when_fewer_logprobs_are_allowed(teacher: FakeTeacher, base_model: Path, tmp_path: Path) -> None:
    teacher.max_logprobs = 5
    result = run(teacher, base_model, tmp_path)
    assert result.exit_code == 0
    assert "top_k           5 (wanted 20)" in result.stdout and "--max-logprobs 20" in result.stdout


def test_probe_exits_with_1_when_topk_is_impossible(teacher: FakeTeacher, base_model: Path, tmp_path: Path) -> None:
    teacher.gives_logprobs = False
    result = run(teacher, base_model, tmp_path)
    assert result.exit_code == 1 and "gives no prompt_logprobs" in result.stdout and "method = 'sft'" in result.stdout
    result = run(teacher, base_model, tmp_path, model="other")
    assert result.exit_code == 1 and "not among the models" in result.stdout and "no such model" in result.stdout


async def test_probe_reports_an_endpoint_that_is_down(teacher: FakeTeacher, recipe: Callable[..., Recipe]) -> None:
    wanted = recipe()
    teacher.stop()
    report = await probe(wanted)
    assert not report.reachable and not report.topk_possible and "does not answer" in report.problems[0]


def test_probe_exits_with_2_when_the_recipe_is_wrong(tmp_path: Path) -> None:
    path = tmp_path / "recipe.toml"
    path.write_text("name = 3")
    assert CliRunner().invoke(probe_teacher_command, ["-c", str(path)]).exit_code == 2
