"""The families of tasks: drawn alike every time, and judged exactly."""

from __future__ import annotations

import itertools
import json

import pytest

from trainer.window.tasks import FAMILIES, is_right, tasks


@pytest.mark.parametrize("family", FAMILIES)
def test_tasks_are_the_same_every_time_and_a_longer_list_begins_with_a_shorter_one(family: str) -> None:
    assert tasks(family, 40)[:12] == tasks(family, 12)
    assert tasks(family, 12, seed=1) != tasks(family, 12)
    assert len({task.task_id for task in tasks(family, 40)}) == 40


@pytest.mark.parametrize("family", FAMILIES)
def test_tasks_show_worked_questions_of_which_none_is_the_one_that_is_asked(family: str) -> None:
    for task in tasks(family, 100):
        roles = [message["role"] for message in task.messages]
        assert roles == ["user", "assistant"] * FAMILIES[family].shots + ["user"]
        assert task.messages[-1] not in task.messages[:-1]


@pytest.mark.parametrize("family", FAMILIES)
def test_right_answer_is_right_and_no_other_one(family: str) -> None:
    asked = tasks(family, 30)
    for task, other in itertools.pairwise(asked):
        assert is_right(task, task.answer) and is_right(task, f" {task.answer}\n")
        assert not is_right(task, task.answer[:-2]) and not is_right(task, other.answer) and not is_right(task, "")


def test_text_is_right_with_other_blanks_and_without_its_full_stop() -> None:
    task = tasks("quotes", 1)[0]
    assert is_right(task, task.answer.replace(" ", "  ").removesuffix("."))
    assert not is_right(task, task.answer.replace("pieces", "piece"))


def test_record_is_right_when_every_field_is_and_nothing_else_stands_in_it() -> None:
    task = tasks("tickets", 1)[0]
    record = json.loads(task.answer)
    assert set(record) == {"queue", "name", "order", "product", "amount", "date"}
    assert is_right(task, json.dumps(dict(reversed(record.items())), indent=1))
    for field, value in record.items():
        assert not is_right(task, json.dumps({**record, field: value + "0"}))
        assert not is_right(task, json.dumps({each: record[each] for each in record if each != field}))
    assert not is_right(task, json.dumps({**record, "note": ""}))
    assert not is_right(task, json.dumps([record]))
    assert not is_right(task, f"Here it is: {task.answer}")


def test_message_says_all_that_its_record_holds_but_the_queue() -> None:
    for task in tasks("tickets", 90):
        record = json.loads(task.answer)
        assert task.kind.startswith(record.pop("queue"))
        assert all(value in task.messages[-1]["content"] for value in record.values())


def test_quoted_note_is_the_only_one_that_the_question_is_about() -> None:
    for task in tasks("quotes", 60):
        notes, _, question = task.messages[-1]["content"].partition("\n\n")
        lines = notes.splitlines()[1:]
        assert task.answer in lines
        key = (
            question.split("did ")[1].split(" order")[0]
            if task.kind == "by_name"
            else question.split("to ")[1].split("?")[0]
        )
        assert [line for line in lines if key in line] == [task.answer]
