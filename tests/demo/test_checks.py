from __future__ import annotations

import pytest

from serving.demo.checks import check_answer
from serving.demo.questions import Check, Question


def question(check: Check | None, *expected: str) -> Question:
    return Question(id="q", kind="docs", text="?", expected=expected, check=check, max_tokens=10)


@pytest.mark.parametrize(
    ("answer", "right"),
    [
        ("shutil.rmtree", True),
        ("Use `rmtree()` from shutil.", True),
        ("It is rmtree_all.", False),
        ("os.removedirs", False),
        ("", False),
    ],
)
def test_identifier_is_right_when_it_is_a_whole_word(answer: str, right: bool) -> None:
    assert check_answer(question("identifier", "rmtree"), answer) is right


@pytest.mark.parametrize(
    "answer", ["os.removedirs or shutil.rmtree", "removedirs(), not rmtree()", "`removedirs`, rmtree"]
)
def test_identifier_is_wrong_when_another_shown_name_stands_first(answer: str) -> None:
    assert check_answer(question("identifier", "rmtree"), answer, ["shutil.rmtree", "os.removedirs"]) is False


def test_identifier_is_right_when_another_name_follows_or_is_an_english_word() -> None:
    shown = ["shutil.move", "shutil.copytree"]
    assert check_answer(question("identifier", "copytree"), "To move it, use copytree, not shutil.move.", shown) is True


def test_identifier_ignores_another_object_with_the_same_last_name() -> None:
    assert check_answer(question("identifier", "compare_digest"), "secrets.compare_digest", ["secrets.compare_digest"])


@pytest.mark.parametrize(("answer", "right"), [("It is PARIS.", True), ("Parisian", False)])
def test_word_is_right_when_it_is_a_whole_word_in_any_case(answer: str, right: bool) -> None:
    assert check_answer(question("word", "Paris"), answer) is right


def test_word_is_right_when_any_spelling_occurs() -> None:
    assert check_answer(question("word", "48", "48.0"), "The speed is 48.0 km/hr.") is True


@pytest.mark.parametrize(
    ("answer", "right"),
    [
        ("9 * 13 = 117; 150 - 117 = 33\nAnswer: 33", True),
        ("Answer: $33.00", True),
        ("33 is wrong, it is 34", False),
        ("Answer: 1,033", False),
        ("thirty-three", False),
    ],
)
def test_number_is_right_when_it_is_the_last_one(answer: str, right: bool) -> None:
    assert check_answer(question("number", "33"), answer) is right


def test_answer_is_not_judged_when_nothing_is_expected() -> None:
    assert check_answer(question(None), "anything") is None
