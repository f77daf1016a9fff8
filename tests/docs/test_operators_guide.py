"""The operator's guide fits the code: its configuration is accepted, its commands exist, every alert has its entry."""

from __future__ import annotations

import re
from pathlib import Path

import click
import pytest

from router.cli import main
from router.config_file import parse

ROOT = Path(__file__).parents[2]
GUIDE = (ROOT / "docs" / "operators-guide.md").read_text()
COMMANDS = sorted({" ".join(words.split()) for words in re.findall(r"\blocum((?: [a-z]+)+)", GUIDE)})


def test_configuration_of_the_guide_is_accepted() -> None:
    text = re.search(r"```toml\n(.*?)```", GUIDE, re.DOTALL)
    assert text is not None
    config = parse(text[1])
    assert config.quality.shadow.enabled
    assert config.routing.policies[0]["type"] == "cascade"


def test_runbook_has_every_alert_and_no_other() -> None:
    rules = (ROOT / "deploy" / "prometheus" / "locum.rules.yml").read_text()
    alerts = set(re.findall(r"^ *- alert: (\w+)$", rules, re.MULTILINE))
    assert alerts
    assert set(re.findall(r"^\| `(Locum\w+)` \|", GUIDE, re.MULTILINE)) == alerts


@pytest.mark.parametrize("words", COMMANDS)
def test_command_of_the_guide_exists(words: str) -> None:
    found: click.Command = main
    for word in words.split():
        if not isinstance(found, click.Group):
            break  # an argument
        command = found.get_command(click.Context(found), word)
        assert command is not None, f"there is no `locum {words}`"
        found = command
    assert not isinstance(found, click.Group)


def test_links_of_the_guide_lead_to_a_page_and_its_heading() -> None:
    for target, heading in re.findall(r"\]\(([\w.-]+\.md)(?:#([\w-]+))?\)", GUIDE):
        page = (ROOT / "docs" / target).read_text()
        if heading:
            titles = re.findall(r"^#+ (.*)$", page, re.MULTILINE)
            assert heading in {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}
