"""`locum log` as a user runs it."""

from __future__ import annotations

from click.testing import CliRunner, Result

from router.cli import main

CONFIG = """
[student]
base_url = "http://127.0.0.1:9/v1"
[teacher]
base_url = "http://127.0.0.1:9/v1"
[log]
dir = "{folder}"
{rest}
"""


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["log", *map(str, arguments)])
