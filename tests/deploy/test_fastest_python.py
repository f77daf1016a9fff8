"""Which of several interpreters an installation is made with."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).parents[2] / "deploy" / "install" / "fastest_python.py"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("fastest_python", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def timed(times_s: dict[str, list[float | None]]) -> Callable[[str], float | None]:
    """An interpreter's times, one a round; the last one stays."""
    return lambda path: times_s[path].pop(0) if len(times_s[path]) > 1 else times_s[path][0]


@pytest.mark.parametrize(
    ("times_s", "chosen"),
    [
        ({"plain": [1.0], "optimized": [0.8]}, "optimized"),
        ({"plain": [1.0], "alike": [0.97]}, "plain"),  # not worth leaving the one that the user's PATH names
        ({"plain": [1.0], "disturbed": [1.5, 0.8, 1.5]}, "disturbed"),
        ({"too old": [None], "only one": [1.0]}, "only one"),
        ({"too old": [None]}, None),
        ({}, None),
    ],
)
def test_fastest_interpreter_is_chosen(
    script: ModuleType, times_s: dict[str, list[float | None]], chosen: str | None
) -> None:
    assert script.fastest(list(times_s), timed(times_s)) == chosen


def test_interpreter_is_tried_once_when_several_names_lead_to_it(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "python3.11").symlink_to(sys.executable)
    monkeypatch.setenv("PATH", f"{tmp_path / 'a'}{os.pathsep}{tmp_path / 'b'}")
    found = [path for path in script.candidates() if os.path.realpath(path) == os.path.realpath(sys.executable)]
    assert found == [str(tmp_path / "a" / "python3.11")]


def test_probe_times_this_interpreter(script: ModuleType) -> None:
    took_s = script.seconds(sys.executable)
    assert took_s is not None
    assert took_s > 0


@pytest.mark.system
def test_script_names_an_interpreter_of_this_machine() -> None:
    done = subprocess.run([sys.executable, str(SCRIPT)], capture_output=True, text=True, check=True, timeout=100)
    assert os.access(done.stdout.strip(), os.X_OK)
