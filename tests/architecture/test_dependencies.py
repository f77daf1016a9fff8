"""Dependencies point one way, and nothing happens at import."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = {"router", "policies", "serving", "trainer", "loadtests"}
MAY_IMPORT = {
    "policies": set(),
    "serving": {"policies"},
    "trainer": {"policies", "serving"},  # it evaluates what is served, so it launches it
    "loadtests": set(),
    "router": {"policies"},
}
EXCEPTIONS = {
    # The configuration's table [student.vllm] is serving's own model; `serve` starts the student beside the gateway.
    ("router/config/backends.py", "serving"),
    ("router/commands.py", "serving"),
    # The admin API promotes in the registry that the gateway serves from.
    ("router/admin/students.py", "serving"),
    # What the registry says of the last promotion is a metric.
    ("router/promotion_metric.py", "serving"),
    # A bundle brings the calibrator and the threshold that a cascade is replayed with.
    ("router/replay/command.py", "serving"),
    # The documents describe the recipe beside the configuration.
    ("router/reference.py", "trainer"),
    # Commands of serving read the same configuration file as the gateway.
    ("serving/target.py", "router"),
    # A generated log has the scores that the policies would have recorded.
    ("loadtests/replay_log.py", "policies"),
}
HEAVY = ("torch", "sentence_transformers", "transformers", "vllm", "openai", "sklearn")


def imported_packages(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            names.add(node.module.partition(".")[0])
    return names


@pytest.mark.parametrize("package", sorted(PACKAGES))
def test_package_imports_only_what_it_may(package: str) -> None:
    wrong = [
        (str(path.relative_to(ROOT)), name)
        for path in (ROOT / package).rglob("*.py")
        for name in imported_packages(path) & PACKAGES - {package} - MAY_IMPORT[package]
        if (str(path.relative_to(ROOT)), name) not in EXCEPTIONS
    ]
    assert not wrong


def test_policies_never_see_http() -> None:
    web = {"fastapi", "starlette", "uvicorn", "aiohttp", "httpx", "asyncio", "socket"}
    for path in (ROOT / "policies").glob("*.py"):
        assert not imported_packages(path) & web, path


def test_serving_never_imports_vllm() -> None:
    for path in (ROOT / "serving").rglob("*.py"):
        assert "vllm" not in imported_packages(path), path


@pytest.mark.system
def test_gateway_imports_nothing_heavy() -> None:
    code = f"import sys, router.app, router.commands; print([m for m in {HEAVY!r} if m in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert found.stdout.strip() == "[]"
