"""Every test is run by `make test`, and by one of its targets only."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

from _pytest.mark.expression import Expression

ROOT = Path(__file__).parents[2]
PYTEST = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["pytest"]["ini_options"]
MAKEFILE = (ROOT / "Makefile").read_text()
NOT_IN_CI = "gpu"


def expressions() -> dict[str, str]:
    """What the parts of `make test` select, by target."""
    (parts,) = re.findall(r"^test: (.*?) ##", MAKEFILE, re.MULTILINE)
    assert "check" in parts.split()
    selected = {"fast-tests": re.findall(r"-m '(.*)'", PYTEST["addopts"])[0]}
    for target in re.findall(r"[a-z]+-tests", parts):
        (quoted, word), *_ = re.findall(r"(?:pytest|PYTEST\)).* -m (?:\"([^\"]*)\"|([a-z]+))", recipe_of(target))
        selected[target] = quoted or word
    return selected


def recipe_of(target: str) -> str:
    return MAKEFILE.split(f"\n{target}:", 1)[1].split("\n\n", 1)[0]


def test_make_test_runs_every_test_once_by_one_of_its_targets() -> None:
    names = [marker.partition(":")[0] for marker in PYTEST["markers"] if not marker.startswith(NOT_IN_CI)]
    assert {"slow", "system", "semantic", "train"} <= set(names)
    for marks in [(), *((name,) for name in names), ("semantic", "train")]:
        runs = [
            target
            for target, expression in expressions().items()
            if Expression.compile(expression).evaluate(lambda name, marks=marks, **_: name in marks)
        ]
        assert len(runs) == 1, (marks, runs)


def test_what_a_target_runs_alone_is_left_out_of_its_first_run() -> None:
    """... and nothing else is."""
    recipe = recipe_of("slow-tests")
    first, *others = [line for line in recipe.splitlines() if "pytest" in line]
    assert re.findall(r"--deselect (\S+)", first) == [re.findall(r"tests/\S+", line)[0] for line in others]
    assert "--deselect" not in MAKEFILE.replace(recipe, "")


def test_tests_of_jobs_are_where_their_target_looks() -> None:
    found = [path for path in (ROOT / "tests").rglob("test_*.py") if "mark.train" in path.read_text()]
    assert len(found) > 2
    assert {path.relative_to(ROOT / "tests").parts[0] for path in found if path != Path(__file__)} == {"trainer"}
