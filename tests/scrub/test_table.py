"""The engine finds what it is for and leaves the rest alone, measured on texts that are made from a seed."""

from __future__ import annotations

from tests.scrub.corpus import MAKERS, negatives, positives
from tests.scrub.table import false_findings, recall


def test_every_kind_is_found_in_the_forms_that_it_is_written_in() -> None:
    rows = recall(positives(150, seed=1))
    assert set(rows) == set(MAKERS)
    assert {kind: row.missed + row.partly for kind, row in rows.items()} == dict.fromkeys(MAKERS, 0)
    assert sum(row.other_kind for row in rows.values()) <= 0.01 * 150 * len(MAKERS)


def test_look_alikes_are_left_alone() -> None:
    count, _, kinds, shown = false_findings(sample.text for sample in negatives(3_000, seed=1))
    assert count == 3_000
    assert kinds.total() <= 3, shown
