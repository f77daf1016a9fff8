"""Two answers agree when they say the same in the form that was asked for."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.drafts.agreement import agreement
from policies.drafts.asked_form import TextForm, form_of
from policies.drafts.validity import Answer, Asked, Call

CHOICE = Asked(form=form_of("Pick.\nA) red\nB) blue\nAnswer with the letter."))
NUMBER = Asked(form=TextForm("number"))
LABEL = Asked(form=TextForm("label", labels=("refund", "card lost")))
FREE = Asked()


def compared(asked: Asked, one: str, other: str) -> float:
    return agreement(asked, Answer(one, "stop"), Answer(other, "stop"))


@pytest.mark.parametrize(
    ("asked", "one", "other", "found"),
    [
        (CHOICE, "The answer is (B).", "B", 1.0),
        (CHOICE, "A", "The answer is (B).", 0.0),
        (CHOICE, "no idea", "no idea", 0.0),
        (NUMBER, "It is 1,200.", "1200.0", 1.0),
        (NUMBER, "12", "13", 0.0),
        (LABEL, "card_lost", "The label is: Card Lost.", 1.0),
        (FREE, "Paris.", "paris", 1.0),
        (FREE, "Paris", "Paris, France", 2 / 3),
        (FREE, "Paris", "Rome", 0.0),
        (FREE, "\u6771\u4eac\u3067\u3059", "\u6771\u4eac", 2 / 3),
        (FREE, "", "", 1.0),
        (Asked(schema={"type": "object"}), '{"a": 1, "b": "x"}', '{"b": "X", "a": 1}', 1.0),
        (Asked(schema={"type": "object"}), '{"a": 1, "b": "x"}', '{"a": 2, "b": "x"}', 0.5),
    ],
)
def test_agreement_is_that_of_what_was_asked_for(asked: Asked, one: str, other: str, found: float) -> None:
    assert compared(asked, one, other) == pytest.approx(found)


def test_calls_agree_by_name_and_arguments() -> None:
    def called(*calls: tuple[str, str]) -> Answer:
        return Answer(None, "tool_calls", calls=tuple(Call(*each) for each in calls))

    one = called(("weather", '{"city": "Bern", "day": 1}'))
    assert agreement(FREE, one, called(("weather", '{"day":1,"city":"Bern"}'))) == 1.0
    assert agreement(FREE, one, called(("weather", '{"city": "Rome", "day": 1}'))) == 0.0
    assert agreement(FREE, one, called(("weather", '{"city": "Bern", "day": 1}'), ("time", "{}"))) == pytest.approx(
        2 / 3
    )
    assert agreement(FREE, one, Answer("It rains.", "stop")) == 0.0


texts = st.text(max_size=60)


@given(texts, texts, st.sampled_from([CHOICE, NUMBER, LABEL, FREE, Asked(schema=True), Asked(form=TextForm("json"))]))
def test_agreement_is_symmetric_and_within_bounds(one: str, other: str, asked: Asked) -> None:
    found = compared(asked, one, other)
    assert 0.0 <= found <= 1.0
    assert found == pytest.approx(compared(asked, other, one))


@given(texts)
def test_free_text_agrees_with_itself(text: str) -> None:
    assert compared(FREE, text, text) == 1.0
