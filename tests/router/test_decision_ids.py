"""Decision ids: unique, of one form, and they carry the capture level and who answered."""

from __future__ import annotations

import re

import pytest

from policies.base import Route
from policies.record import CAPTURE_LEVELS, CaptureLevel
from router.decision_ids import DecisionIds, level_of, route_of, with_level, with_route


def test_ids_are_unique_when_the_counter_of_a_prefix_is_used_up() -> None:
    ids = DecisionIds(ids_a_prefix=3)
    made = [with_level(ids.next(), "full") for _ in range(10)]
    assert len(set(made)) == 10
    assert all(re.fullmatch(r"[0-9a-f]{32}", each) for each in made)
    assert len({each[:24] for each in made}) == 4


@pytest.mark.parametrize("level", CAPTURE_LEVELS)
def test_level_is_read_out_of_the_id(level: CaptureLevel) -> None:
    decision_id = DecisionIds().next()
    assert level_of(decision_id) == "metadata"
    marked = with_level(decision_id, level)
    assert level_of(marked) == level
    assert len(marked) == 32
    assert with_level(marked, "metadata") == decision_id


@pytest.mark.parametrize("level", CAPTURE_LEVELS)
@pytest.mark.parametrize("route", ["student", "teacher"])
def test_route_is_read_out_of_the_id_beside_the_level(level: CaptureLevel, route: Route) -> None:
    decision_id = with_level(DecisionIds().next(), level)
    assert route_of(decision_id) is None
    named = with_route(decision_id, route)
    assert (route_of(named), level_of(named)) == (route, level)
    assert re.fullmatch(r"[0-9a-f]{32}", named)
    assert with_route(named, None) == decision_id
    assert route_of(with_level(named, "none")) == route


def test_route_is_unknown_when_an_id_was_made_up() -> None:
    assert route_of("f" * 32) is None
    assert level_of("f" * 32) == "full"
