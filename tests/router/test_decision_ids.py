"""Decision ids: unique, of one form, and they carry the capture level."""

from __future__ import annotations

import re

import pytest

from policies.record import CAPTURE_LEVELS, CaptureLevel
from router.decision_ids import DecisionIds, level_of, with_level


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
