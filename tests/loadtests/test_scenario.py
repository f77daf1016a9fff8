from __future__ import annotations

import re

import pytest

import loadtests.fake_backend
from loadtests.fake.scenario import Scenario, ScenarioError, is_directive, parse


def documented_directives() -> list[str]:
    return re.findall(r"^\| `([^`]+)` \|", loadtests.fake_backend.__doc__ or "", flags=re.MULTILINE)


def test_table_documents_directives_when_read() -> None:
    assert len(documented_directives()) > 30


@pytest.mark.parametrize("name", documented_directives())
def test_documented_directive_changes_the_scenario_when_parsed(name: str) -> None:
    scenario = parse(name)
    if name != "fake":
        assert scenario != Scenario(source=name), f"{name} has no effect"


def test_directives_compose_when_joined() -> None:
    scenario = parse("fake-tokens-50-gap-0.05+fault-reset-mid-3")
    assert (scenario.tokens, scenario.gap_s, scenario.fault, scenario.after_chunks) == (50, 0.05, "reset", 3)


def test_status_takes_retry_after_when_combined() -> None:
    scenario = parse("fault-429-retry-after-7")
    assert (scenario.status, scenario.retry_after_s) == (429, 7)


def test_later_directive_wins_when_both_set_the_same_field() -> None:
    assert parse("fake-tokens-3", "fake-tokens-9").tokens == 9


@pytest.mark.parametrize("name", ["fake-token-3", "fault-600", "fault-reset-mid", "fake-tokens-x", "fault-500x"])
def test_unknown_directive_is_refused_when_misspelt(name: str) -> None:
    with pytest.raises(ScenarioError, match="unknown directive"):
        parse(name)


@pytest.mark.parametrize("name", ["student", "faker", "fakeish-1", "default"])
def test_model_name_is_no_directive_when_it_only_resembles_one(name: str) -> None:
    assert not is_directive(name)
