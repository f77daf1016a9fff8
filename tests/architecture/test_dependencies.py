"""Dependencies point one way, and nothing happens at import."""

from __future__ import annotations

import ast
import subprocess
import sys
from functools import cache
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
FOLDERS_MAY_IMPORT = {
    "traffic": set(),
    "scoring": set(),
    "drafts": {"scoring"},
    "quality": {"drafts", "traffic"},
    "replay": {"drafts", "quality", "scoring", "traffic"},
}
"""The folders of `policies`; the policies beside them import any but `replay` and `quality`."""
CONTRACT = ("base", "record", "draft_signals", "window", "chain", "governor", "artefact", "calibration", "grading")
"""Modules of `policies` that every folder builds on, so they import none."""
HEAVY = ("torch", "sentence_transformers", "transformers", "vllm", "openai", "sklearn")


@cache
def imports(path: Path) -> tuple[ast.Import | ast.ImportFrom, ...]:
    """Of a module, wherever in it."""
    return tuple(
        node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Import | ast.ImportFrom)
    )


def imported_packages(path: Path) -> set[str]:
    names: set[str] = set()
    for node in imports(path):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif node.module and node.level == 0:
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


def imported_folders(path: Path) -> set[str]:
    """The folders of `policies` that a module imports from."""
    modules = {node.module for node in imports(path) if isinstance(node, ast.ImportFrom)}
    parts = [module.split(".") for module in modules if module is not None]
    return {part[1] for part in parts if part[0] == "policies" and len(part) > 1 and part[1] in FOLDERS_MAY_IMPORT}


def test_folders_of_policies_import_one_way() -> None:
    folder = ROOT / "policies"
    assert {path.parent.name for path in folder.glob("*/__init__.py")} == set(FOLDERS_MAY_IMPORT)
    wrong = [
        (str(path.relative_to(ROOT)), name)
        for package, others in FOLDERS_MAY_IMPORT.items()
        for path in (folder / package).rglob("*.py")
        for name in imported_folders(path) - {package} - others
    ]
    wrong += [(f"{name}.py", each) for name in CONTRACT for each in imported_folders(folder / f"{name}.py")]
    wrong += [
        (path.name, name) for path in folder.glob("*.py") for name in imported_folders(path) & {"quality", "replay"}
    ]
    assert not wrong


def test_policies_never_see_http() -> None:
    web = {"fastapi", "starlette", "uvicorn", "aiohttp", "httpx", "asyncio", "socket"}
    for path in (ROOT / "policies").rglob("*.py"):
        assert not imported_packages(path) & web, path


def test_serving_never_imports_vllm() -> None:
    for path in (ROOT / "serving").rglob("*.py"):
        assert "vllm" not in imported_packages(path), path


@pytest.mark.system
def test_gateway_imports_nothing_heavy() -> None:
    code = f"import sys, router.app, router.commands; print([m for m in {HEAVY!r} if m in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert found.stdout.strip() == "[]"
