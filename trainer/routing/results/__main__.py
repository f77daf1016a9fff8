"""`python -m trainer.routing.results --data DIR`: measure, or go on measuring, and write the page."""

from __future__ import annotations

import os
import platform
import subprocess
import time
from pathlib import Path

import click
from rich.console import Console

from policies.artefact import replace_file
from serving.demo.progress import Steps
from serving.store import default_cache
from trainer.routing.results import page
from trainer.routing.results.kept import DataMissing, Kept
from trainer.routing.results.section import Section
from trainer.routing.results.sections import load

_FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)
UNMEASURED = "Not measured on this state of the code: `make routing-results` does."
NEGATIVE = Path(__file__).with_name("negative.md")


@click.command()
@click.option("--data", type=_FOLDER, envvar="LOCUM_DATA", required=True, help="Folder of the data sets (LOCUM_DATA).")
@click.option(
    "--docs", type=_FOLDER, default=Path("docs"), show_default=True, help="Where the page and its pictures go."
)
@click.option("--kept", type=click.Path(file_okay=False, path_type=Path), help="Folder of what was measured before.")
@click.option("--only", multiple=True, metavar="NAME", help="Measure these parts and print them; no page. Repeatable.")
@click.option(
    "--kept-only", is_flag=True, help="Measure nothing: write what was measured before, and say what was not."
)
def main(data: Path, docs: Path, kept: Path | None, only: tuple[str, ...], kept_only: bool) -> None:
    """Write docs/routing-results.md. Interrupted, the same command goes on."""
    sections = load()
    if unknown := sorted(set(only) - {each.name for each in sections}):
        raise click.UsageError(f"--only: {unknown[0]!r} is none of {', '.join(each.name for each in sections)}")
    store = Kept(kept or default_cache() / "routing-results")
    parts: dict[str, list[str]] = {}
    try:
        with Steps(Console(stderr=True)) as steps:
            for section in sections:
                if only and section.name not in only:
                    continue
                if kept_only and store.known(section, data) is None:
                    parts[section.name] = [UNMEASURED]
                    continue
                parts[section.name] = _part(section, data, docs, store, steps)
        if only:
            click.echo("\n\n".join("\n".join(lines) for lines in parts.values()))
            return
        read = list(dict.fromkeys(name for section in sections for name in section.files))
        parts["data"] = page.data_table(data, read)
    except DataMissing as exc:
        raise click.UsageError(str(exc)) from exc
    parts["negative"] = NEGATIVE.read_text(encoding="utf-8").splitlines()
    parts["circumstances"] = [circumstances()]
    text = page.filled(page.TEMPLATE.read_text(encoding="utf-8"), parts)
    replace_file(docs / "routing-results.md", text.encode())
    click.echo(f"{docs / 'routing-results.md'}")


def _part(section: Section, data: Path, docs: Path, store: Kept, steps: Steps) -> list[str]:
    found, before = store.result(
        section, data, lambda: section.measure(data, lambda how: steps.update(section.name, how))
    )
    steps.done(section.name, "measured before" if before else "measured")
    return list(section.write(found, docs))


def circumstances() -> str:
    """Hardware, commit and day."""
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"],  # noqa: S607 - whatever git the user has
        capture_output=True, text=True, check=False, cwd=Path(__file__).parent,
    ).stdout.strip()  # fmt: skip
    cores = len(os.sched_getaffinity(0))
    day = time.strftime("%Y-%m-%d", time.gmtime())
    return f"Machine: {_cpu()}, {cores} cores, no GPU; commit {commit or 'unknown'}; {day}."


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


if __name__ == "__main__":
    main()
