"""The example plug-in, really installed with pip, found by its entry point and by `module:Class`."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parents[1] / "example_policy"

ROUTE = """
import asyncio, json, sys
from policies.base import RequestFeatures
from policies.chain import PolicyChain
from policies.registry import available, build_all

type_name = sys.argv[1]
table = {"type": type_name, "tag": "team", "teacher_values": ["audit"]}
chain = PolicyChain(
    build_all([{"type": "long_context"}, table, {"type": "long_reasoning"}]).policies,
    version="1", default_route="student", on_policy_error="teacher",
)

async def never(signal, features):
    raise AssertionError(signal)

def decide(**tags):
    features = RequestFeatures(
        prompt_bytes=9, message_count=1, approx_prompt_tokens=3, requested_output_tokens=9,
        student_window_tokens=2048, last_user_turn="What is a mutex?", tags=tags,
    )
    decision = asyncio.run(chain.evaluate(features, never)).decision
    return [decision.route, decision.policy, decision.reason]

print(json.dumps({"audit": decide(team="audit"), "docs": decide(team="docs"), "available": available()}))
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that pip installed the example into: importlib.metadata finds its entry point there."""
    target = tmp_path_factory.mktemp("site")
    command = [
        sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index",
        "--disable-pip-version-check", "--target", str(target), str(EXAMPLE),
    ]  # fmt: skip
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return target


def run(installed: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", *arguments],
        env={"PYTHONPATH": str(installed), "PATH": "/usr/bin:/bin"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip


@pytest.mark.system
@pytest.mark.parametrize("type_name", ["tag_route", "locum_example_policy:TagRoute"])
def test_installed_policy_decides_in_a_chain_by_both_spellings(installed: Path, type_name: str) -> None:
    result = run(installed, ROUTE, type_name)
    assert result.returncode == 0, result.stderr
    outcome = json.loads(result.stdout)
    assert outcome["audit"] == ["teacher", "tag_route", "tagged"]
    assert outcome["docs"] == ["student", "default", "default"]
    assert "tag_route" in outcome["available"]


@pytest.mark.system
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("{}", "tag: is required by policy 'tag_route'"),
        ("{'tag': 'a', 'teacher_values': 'audit'}", "teacher_values must be a list"),
        ("{'tag': 'a', 'teacher_values': ['b'], 'value': 1}", "value: unknown option of policy 'tag_route'"),
    ],
)
def test_bad_options_of_the_installed_policy_are_refused_by_name(installed: Path, options: str, message: str) -> None:
    result = run(installed, f"from policies.registry import build; build('tag_route', {options})")
    assert "PolicyConfigError" in result.stderr
    assert message in result.stderr


def test_policy_is_unknown_where_it_is_not_installed() -> None:
    code = "from policies.registry import build; build('tag_route', {})"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "unknown policy 'tag_route'" in result.stderr
