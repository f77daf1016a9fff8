from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from router.cli import main


def demo(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["demo", *arguments], env={"DEMO_KEY": None})


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--teacher-model", "big"], "--teacher-url"),
        (["--teacher-url", "http://127.0.0.1:1/v1"], "--teacher-model"),
        (["--teacher-url", "ftp://x/v1", "--teacher-model", "big"], "http://"),
        (
            ["--teacher-url", "http://127.0.0.1:1/v1", "--teacher-model", "big", "--teacher-key-env", "DEMO_KEY"],
            "DEMO_KEY is not set",
        ),
        (["--output", "no-such-folder/demo.json"], "does not exist"),
        (["--concurrency", "0"], "concurrency"),
        (["--student-model", "no-such-folder"], "student-model"),
    ],
)
def test_demo_exits_2_and_names_the_option_when_the_input_is_wrong(arguments: list[str], named: str) -> None:
    result = demo(*arguments)
    assert result.exit_code == 2
    assert named in result.output


def test_demo_help_has_an_example() -> None:
    result = demo("--help")
    assert result.exit_code == 0
    assert "locum demo --teacher-url" in result.output


@pytest.mark.semantic
def test_demo_exits_2_before_it_starts_anything_when_the_student_cannot_be_served(tmp_path: Path) -> None:
    pytest.importorskip("sentence_transformers")
    folder = tmp_path / "student"
    folder.mkdir()
    result = demo(
        "--student-model", str(folder), "--folder", str(tmp_path / "run"), "--output", str(tmp_path / "demo.json"),
        "--teacher-url", "http://127.0.0.1:1/v1", "--teacher-model", "big",
    )  # fmt: skip
    assert result.exit_code == 2
    assert "has no config.json" in result.output
    assert not (tmp_path / "demo.json").exists()
