"""`locum log` as a user runs it."""

from __future__ import annotations

from click.testing import CliRunner, Result

from router.cli import main


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["log", *map(str, arguments)])
