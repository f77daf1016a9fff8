"""Renders the tables of README.md and docs/reference.md from the code: `python -m router.reference --write`."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args, get_origin

import click
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from policies.base import PolicyModel, ReviewerModel
from policies.governor import GovernorModel
from policies.registry import BUILT_IN_POLICY_TYPES, build
from router.config import Config
from router.metrics import Metrics
from router.promotion_metric import HELP as PROMOTION_HELP
from router.promotion_metric import NAME as PROMOTION_PHASE

ROOT = Path(__file__).parents[1]


def configuration_table() -> str:
    """One row a key of the configuration file."""
    rows = ["| key | default | meaning |", "|---|---|---|"]
    for key, field in settings(Config):
        rows.append(f"| `{key}` | {_default(field)} | {_cell(field.description)} |")
    return "\n".join(rows)


def settings(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, FieldInfo]]:
    """Every leaf of the configuration as (dotted key, field)."""
    for name, field in model.model_fields.items():
        nested = _nested(field)
        if nested is None:
            yield f"{prefix}{name}", field
        else:
            by_name = "NAME." if get_origin(field.annotation) is dict else ""
            yield from settings(nested, f"{prefix}{name}.{by_name}")


def policy_sections() -> str:
    """A section for each built-in policy: what it does, its options, its reasons."""
    sections = []
    for name in BUILT_IN_POLICY_TYPES:
        policy: Any = build(name, {})
        assert isinstance(policy, GovernorModel | PolicyModel | ReviewerModel)  # noqa: S101 - the built-in ones are
        rows = ["| option | default | meaning |", "|---|---|---|"]
        rows += [
            f"| `{option}` | {_default(field)} | {_cell(field.description)} |"
            for option, field in type(policy).model_fields.items()
        ]
        reasons = ", ".join(f"`{reason}`" for reason in sorted(policy.reasons))
        about = " ".join((type(policy).__doc__ or "").split())
        sections.append("\n".join([f"### `{name}`", "", about, "", *rows, "", f"Reasons: {reasons}."]))
    return "\n\n".join(sections)


def metrics_table() -> str:
    """One row a metric family."""
    rows = ["| metric | type | labels | meaning |", "|---|---|---|---|"]
    for name, kind, labels, text in metric_families():
        rows.append(f"| `{name}` | {kind} | {', '.join(f'`{label}`' for label in labels) or '-'} | {text} |")
    return "\n".join(rows)


def metric_families() -> Iterator[tuple[str, str, tuple[str, ...], str]]:
    """(exposed name, type, labels, help) of every metric."""
    for metric in vars(Metrics()).values():
        family = getattr(metric, "describe", None)
        if family is None or not hasattr(metric, "_labelnames"):
            continue
        for described in family():
            suffix = {"counter": "_total", "info": "_info"}.get(described.type, "")
            yield described.name + suffix, described.type, tuple(metric._labelnames), described.documentation
    yield PROMOTION_PHASE, "gauge", ("phase",), PROMOTION_HELP + " Only with `student.registry`."


PACKAGES = {
    "router": "the gateway process",
    "policies": "pure decisions: features in, a decision out",
    "serving": "the student and the demo's teacher as supervised processes; the demo",
    "trainer": "offline: from the traffic log to a gated student; what policies learn from",
    "loadtests": "the fake backend, the load generator, the benchmark",
}


def file_tree() -> str:
    """Every module, and every folder of modules, with the first line of its docstring."""
    lines = ["```text"]
    for package, about in PACKAGES.items():
        lines.append(f"{package + '/':26}{about}")
        for path in sorted((ROOT / package).iterdir()):
            if path.suffix == ".py" and path.name != "__init__.py":
                lines.append(f"  {path.name:24}{_first_line(path)}")
            elif (path / "__init__.py").exists():
                lines.append(f"  {path.name + '/':24}{_first_line(path / '__init__.py')}")
    lines += [f"{name:26}{about}" for name, about in OTHER_FOLDERS.items()]
    return "\n".join([*lines, "```"])


OTHER_FOLDERS = {
    "tests/": "mirrors the packages; contract/, property/, architecture/, docs/, slow/ (real models)",
    "deploy/": "example configuration, locked environments and their installer",
    "docs/": "reference of endpoints, headers, errors, policies and metrics",
    "dev/LOG.md": "what was measured and tried, negative results included",
}


def _first_line(path: Path) -> str:
    documentation = ast.get_docstring(ast.parse(path.read_text())) or ""
    return documentation.partition("\n")[0]


def recipe_table() -> str:
    """One row a key of a training recipe."""
    from trainer.recipe import Recipe  # noqa: PLC0415 - only the documents know both

    rows = ["| key | default | meaning |", "|---|---|---|"]
    rows += [f"| `{key}` | {_default(field)} | {_cell(field.description)} |" for key, field in settings(Recipe)]
    return "\n".join(rows)


SECTIONS = {
    "README.md": {"tree": file_tree, "configuration": configuration_table},
    "docs/loop.md": {"recipe": recipe_table},
    "docs/reference.md": {"policies": policy_sections, "metrics": metrics_table},
}


def rendered(text: str, file: str) -> str:
    """The text of a document with its generated sections made anew."""
    for name, render in SECTIONS[file].items():
        found = re.search(rf"(?<=<!-- {name}: generated -->\n).*?(?=\n<!-- end -->)", text, re.DOTALL)
        if found is None:
            raise ValueError(f"{file} has no section {name!r}")
        text = text[: found.start()] + render() + text[found.end() :]
    return text


def _nested(field: FieldInfo) -> type[BaseModel] | None:
    for candidate in (field.annotation, *get_args(field.annotation)):
        if isinstance(candidate, type) and issubclass(candidate, BaseModel):
            return candidate
    return None


def _default(field: FieldInfo) -> str:
    value = field.get_default(call_default_factory=True) if not field.is_required() else PydanticUndefined
    if value is PydanticUndefined:
        return "required"
    if value is None:
        return "-"
    if value in ((), {}):
        return "empty"
    if isinstance(value, tuple):
        return "the three built-in policies" if value and isinstance(value[0], dict) else f"`{list(value)}`"
    return f"`{json.dumps(value)}`"


def _cell(text: str | None) -> str:
    return (text or "").replace("|", "\\|").replace("\n", " ")


@click.command()
@click.option("--write", is_flag=True, help="Rewrite the documents instead of printing.")
def main(write: bool) -> None:
    """Print or rewrite the generated sections of the documents."""
    for file in SECTIONS:
        path = ROOT / file
        text = rendered(path.read_text(), file)
        if write:
            path.write_text(text)
        else:
            click.echo(text)


if __name__ == "__main__":
    main()
