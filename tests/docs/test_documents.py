"""The documents say what the code does."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from policies.registry import available
from router.cli import COMMANDS
from router.config import Config
from router.config_file import parse
from router.reference import SECTIONS, metric_families, rendered, settings
from trainer import recipe

ROOT = Path(__file__).parents[2]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


@pytest.mark.parametrize("file", SECTIONS)
def test_generated_sections_are_up_to_date(file: str) -> None:
    text = (ROOT / file).read_text()
    assert text == rendered(text, file), "run: python -m router.reference --write"


def test_every_setting_metric_and_policy_is_documented() -> None:
    text = "".join(path.read_text() for path in DOCUMENTS)
    for key, field in settings(Config):
        assert f"`{key}`" in text
        assert field.description, f"{key} has no description"
    for name, *_ in metric_families():
        assert f"`{name}`" in text
    for name in available():
        assert name in text


def test_configurations_in_the_readme_are_accepted() -> None:
    found = blocks("toml")
    assert found
    for text in found:
        if "[student]" in text or "[student.vllm]" in text:
            parse(text)
        else:
            tomllib.loads(text)


def test_recipe_in_the_documents_is_accepted_and_every_key_described(tmp_path: Path) -> None:
    text = (ROOT / "docs" / "loop.md").read_text()
    found = re.findall(r"```toml\n(# recipe\.toml\n.*?)```", text, re.DOTALL)
    assert len(found) == 1
    (tmp_path / "recipe.toml").write_text(found[0])
    assert recipe.load(tmp_path / "recipe.toml").train.method == "topk"
    for key, field in settings(recipe.Recipe):
        assert field.description, f"{key} has no description"


def test_example_in_the_readme_is_the_example_file() -> None:
    example = (ROOT / "deploy" / "locum.example.toml").read_text()
    assert any(parse(text) == parse(example) for text in blocks("toml") if "[student]" in text)


def test_policy_in_the_readme_runs_as_it_is_written(tmp_path: Path) -> None:
    code = next(text for text in blocks("python") if "def decide" in text)
    (tmp_path / "my_policies.py").write_text(code)
    check = (
        "from policies import RequestFeatures; from policies.registry import build; "
        "policy = build('my_policies:BusinessPlan', {'plan': 'gold'}); "
        "features = RequestFeatures(prompt_bytes=1, message_count=1, approx_prompt_tokens=1, "
        "requested_output_tokens=1, tags={'plan': 'gold'}); "
        "print(policy.decide(features).route)"
    )
    run = subprocess.run(
        [sys.executable, "-c", check],
        check=False,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env={"PYTHONPATH": f"{tmp_path}:{ROOT}"},
    )
    assert run.stdout.strip() == "teacher", run.stderr


def test_commands_and_make_targets_in_the_documents_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for path in DOCUMENTS:
        text = path.read_text()
        assert (
            set(re.findall(r"`make ([a-z-]+)", text)) | set(re.findall(r"^make ([a-z-]+)", text, re.MULTILINE))
            <= targets
        )
        assert set(re.findall(r"`locum ([a-z]+)", text)) | set(
            re.findall(r"^locum ([a-z]+)", text, re.MULTILINE)
        ) <= set(COMMANDS)


def test_links_between_documents_lead_somewhere() -> None:
    for path in DOCUMENTS:
        for target in re.findall(r"\]\(([^)#\s]+)", path.read_text()):
            if "://" not in target:
                assert (path.parent / target).exists(), f"{path.name}: {target}"
