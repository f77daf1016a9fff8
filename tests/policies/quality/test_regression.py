"""The regression set: its items, and when a round is worse than an earlier one."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from policies.quality.regression import Item, RegressionError, Round, compare, drops, load_items


def write(path: Path, *rows: Any) -> Path:
    path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows) + "\n")
    return path


def row(n: int, **fields: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": f"q {n}"}], "label": str(n), **fields}


def rounds(count: int, n: int = 200, **fields: Any) -> Round:
    names = [f"i{each}" for each in range(n)]
    values: dict[str, Any] = {
        "started_s": 0.0, "duration_s": 1.0, "route": "student", "model": "s-1",
        "right": tuple(names[:count]), "wrong": tuple(names[count:]),
    }  # fmt: skip
    return Round(**(values | fields))


def test_items_are_read_once_each_up_to_the_limit(tmp_path: Path) -> None:
    path = write(tmp_path / "set.jsonl", row(1), row(1), "", row(2, grader="numeric"), row(3))
    items = load_items(path, 2)
    assert [item.label for item in items] == ["1", "2"]
    assert items[1].grader == "numeric"


def test_items_keep_their_identity_until_they_are_edited() -> None:
    one = Item(messages=[{"role": "user", "content": "q"}], label="a")
    assert one.identity == Item(messages=[{"content": "q", "role": "user"}], label="a").identity
    assert one.identity != Item(messages=[{"role": "user", "content": "q"}], label="b").identity


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", ":2: is no item"),
        (row(1, colour="red"), "unknown field `colour`"),
        (row(1, grader="taste"), "Invalid enum value 'taste'"),
        (row(1, label=" "), "must not be empty"),
        (row(1) | {"messages": []}, "must not be empty"),
    ],
)
def test_wrong_item_is_refused_with_its_place(tmp_path: Path, line: Any, message: str) -> None:
    with pytest.raises(RegressionError, match=message):
        load_items(write(tmp_path / "set.jsonl", row(0), line), 100)


def test_missing_and_empty_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RegressionError, match="cannot be read"):
        load_items(tmp_path / "none.jsonl", 10)
    with pytest.raises(RegressionError, match="has no item"):
        load_items(write(tmp_path / "set.jsonl", ""), 10)


def test_drop_of_few_items_is_seen_when_nothing_else_changed() -> None:
    drop = compare(rounds(160), rounds(180))
    assert drop is not None
    assert drop.difference["value"] == pytest.approx(-0.1)
    assert drop.difference["high"] < 0
    assert drop.alarm


def test_drop_is_no_alarm_when_chance_explains_it() -> None:
    chance = random.Random(1)
    alarms = 0
    for _ in range(300):
        outcomes = [[chance.random() < 0.9 for _ in range(200)] for _ in range(2)]
        pair = [
            rounds(0, right=tuple(f"i{n}" for n in range(200) if each[n]),
                   wrong=tuple(f"i{n}" for n in range(200) if not each[n]))
            for each in outcomes
        ]  # fmt: skip
        found = compare(*pair)
        alarms += found is not None and found.alarm
    assert alarms <= 1


def test_last_round_is_compared_with_its_own_first_and_with_the_student_before() -> None:
    history = [
        rounds(150, started_s=5.0, model="s-2"),
        rounds(0, started_s=4.5, route="teacher", model="t"),
        rounds(180, started_s=4.0, model="s-2"),
        rounds(190, started_s=3.0, model="s-2"),
        rounds(170, started_s=2.0, model="s-1"),
        rounds(120, started_s=1.0, model="s-1"),
    ]
    compared = drops(history)
    assert [(each.against_model, each.against_s) for each in compared] == [("s-2", 3.0), ("s-1", 2.0)]
    assert all(each.alarm for each in compared)
    assert drops([]) == []
    assert drops(history[-1:]) == []


def test_rounds_of_another_set_are_not_compared() -> None:
    other = rounds(0, right=("x",), wrong=("y",))
    assert compare(rounds(100), other) is None
    assert rounds(0, right=(), wrong=()).score is None
