"""The command `locum`. Each command is imported when it is used: `locum serve` loads no trainer."""

from __future__ import annotations

import importlib

import click

COMMANDS = {
    "serve": "router.commands:serve",
    "check": "router.commands:check",
    "explain": "router.commands:explain",
    "demo": "serving.demo.command:demo",
    "keys": "router.admission.commands:keys",
    "student": "serving.commands:student",
    "log": "router.log.commands:log",
    "loadtest": "loadtests.commands:loadtest",
    "train": "trainer.commands:train",
    "evaluate": "trainer.routing.command:evaluate",
    "tune": "trainer.tune.command:tune",
    "policy": "router.admin.commands:policy",
    "replay": "router.replay.command:replay",
    "quality": "router.quality.commands:quality",
}


class LazyGroup(click.Group):
    """Finds commands by the table above."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module, _, attribute = COMMANDS[cmd_name].partition(":")
        command: click.Command = getattr(importlib.import_module(module), attribute)
        return command


@click.group(cls=LazyGroup)
@click.version_option(package_name="locum")
def main() -> None:
    """An OpenAI-compatible inference router: your student answers, the teacher is called in for the hard cases."""
