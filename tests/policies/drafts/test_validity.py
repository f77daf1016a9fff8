"""Validity checks name what keeps an answer from being one, and let everything else pass."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.drafts.asked_form import TextForm, asked_answer, form_of
from policies.drafts.refusals import declines
from policies.drafts.validity import (
    BROKEN_CALL,
    BROKEN_JSON,
    CHECKS,
    EMPTY,
    OTHER_FORM,
    REFUSED,
    TRUNCATED,
    Answer,
    Asked,
    Call,
    failed_checks,
)

SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
WEATHER: dict[str, object] = {"weather": SCHEMA}
CHOICE = form_of("Which is a fruit?\nA) stone\nB) apple\nC) nail\nAnswer with the letter.")


ANY = Asked()


def failed(asked: Asked = ANY, text: str | None = "fine", finish: str | None = "stop", **more: Any) -> list[str]:
    return list(failed_checks(asked, Answer(text, finish, **more)))


def test_good_answer_passes_every_check() -> None:
    assert failed() == []
    assert failed(Asked(schema=SCHEMA), '{"city": "Bern"}') == []
    assert failed(Asked(tools=WEATHER), None, "tool_calls", calls=(Call("weather", '{"city": "Bern"}'),)) == []


@pytest.mark.parametrize("text", ["", " \n\t", "\u00a0"])
def test_answer_without_content_is_empty(text: str) -> None:
    assert failed(text=text) == [EMPTY]
    assert failed(text=text, finish="length") == [EMPTY]


def test_answer_that_is_not_known_is_not_empty() -> None:
    assert failed(text=None) == []
    assert failed(text="", finish="tool_calls") == []


def test_cut_answer_is_truncated_unless_the_client_set_the_limit() -> None:
    assert failed(finish="length") == [TRUNCATED]
    assert failed(Asked(limited=True), finish="length") == []


@pytest.mark.parametrize(
    "text",
    [
        "I'm sorry, but I can't help with that.",
        "I\u2019m sorry, I cannot provide that information.",
        "As an AI language model, I cannot browse the internet.",
        "Unfortunately, I am unable to answer this question.",
        "I don't know.",
        "Es tut mir leid, aber dabei kann ich dir nicht helfen.",
        "Leider kann ich diese Frage nicht beantworten.",
        "Je suis d\u00e9sol\u00e9, mais je ne peux pas r\u00e9pondre \u00e0 cette question.",
        "Lo siento, pero no puedo ayudarte con eso.",
        "Desculpe, mas n\u00e3o posso ajudar com isso.",
        "Mi dispiace, ma non posso rispondere a questa domanda.",
        "Het spijt me, maar daar kan ik je niet mee helpen.",
        "Przykro mi, ale nie mog\u0119 w tym pom\u00f3c.",
        "\u0418\u0437\u0432\u0438\u043d\u0438\u0442\u0435, \u043d\u043e \u044f \u043d\u0435 \u043c\u043e\u0433\u0443 \u043f\u043e\u043c\u043e\u0447\u044c \u0441 \u044d\u0442\u0438\u043c.",
        "\u62b1\u6b49\uff0c\u6211\u65e0\u6cd5\u56de\u7b54\u8fd9\u4e2a\u95ee\u9898\u3002",
        "\u7533\u3057\u8a33\u3042\u308a\u307e\u305b\u3093\u304c\u3001\u305d\u306e\u8cea\u554f\u306b\u306f\u304a\u7b54\u3048\u3067\u304d\u307e\u305b\u3093\u3002",
        "\uc8c4\uc1a1\ud558\uc9c0\ub9cc \uadf8 \uc694\uccad\uc740 \ub3c4\uc640\ub4dc\ub9b4 \uc218 \uc5c6\uc2b5\ub2c8\ub2e4.",
        "\u0639\u0630\u0631\u064b\u0627\u060c \u0644\u0627 \u064a\u0645\u0643\u0646\u0646\u064a \u0627\u0644\u0645\u0633\u0627\u0639\u062f\u0629 \u0641\u064a \u0630\u0644\u0643.",
    ],
)  # fmt: skip
def test_short_answer_that_declines_is_refused(text: str) -> None:
    assert failed(text=text) == [REFUSED]
    assert failed(text=text, whole=False) == [REFUSED]


@pytest.mark.parametrize(
    "text",
    [
        "I'm sorry to hear that your card was stolen. Please freeze it in the app.",
        "You cannot help someone who does not want help.",
        "It would be illegal to do so.",
        "card_not_working",
        "He said: I am sorry.",
        "The answer is (C).",
        "Das kann man so nicht sagen; die Antwort ist B.",
        "Sorry, my mistake: the total is 42.",
    ],
)
def test_answer_that_only_speaks_of_inability_is_not_refused(text: str) -> None:
    assert not declines(text)


def test_long_answer_with_an_apology_is_not_refused() -> None:
    assert not declines("I'm sorry, I can't give exact figures, but here is an estimate. " + "It is about 40 km. " * 40)


def test_refusal_that_the_backend_states_is_one_when_it_has_not_ended() -> None:
    assert failed(text=None, finish=None, declined=True, whole=False) == [REFUSED]


def test_refusal_that_the_backend_states_is_one() -> None:
    assert failed(text=None, declined=True) == [REFUSED]
    assert failed(text="half an ans", finish="content_filter") == [REFUSED]


@pytest.mark.parametrize("text", ["no", '{"city": 3}', "{}", '```json\n{"city": "Bern"}\n```', '{"city": "Bern"} done'])
def test_json_that_response_format_would_not_take_is_broken(text: str) -> None:
    assert failed(Asked(schema=SCHEMA), text) == [BROKEN_JSON]


def test_json_object_is_any_object_and_a_schema_that_is_not_known_passes() -> None:
    assert failed(Asked(schema={"type": "object"}), '{"a": [1]}') == []
    assert failed(Asked(schema={"type": "object"}), "[1]") == [BROKEN_JSON]
    assert failed(Asked(schema={"patternProperties": {"a": False}}), '{"a": 1}') == []


def test_prompt_that_asks_for_json_takes_it_within_prose() -> None:
    asked = Asked(form=form_of("List two cities. Respond only with JSON."))
    assert asked.form.kind == "json"
    assert failed(asked, 'Sure:\n```json\n["Bern", "Rome"]\n```') == []
    assert failed(asked, "Bern and Rome") == [BROKEN_JSON]


@pytest.mark.parametrize(
    "call",
    [
        Call("weather", '{"city": 3}'),
        Call("weather", "{}"),
        Call("weather", '{"city": "Be'),
        Call("weather", '["Bern"]'),
        Call("time", "{}"),
    ],
)
def test_call_that_no_tool_takes_is_broken(call: Call) -> None:
    assert failed(Asked(tools=WEATHER), None, "tool_calls", calls=(call,)) == [BROKEN_CALL]
    assert failed(Asked(), None, "tool_calls", calls=(call,)) == []  # of requests without tools nothing is known


def test_call_without_arguments_is_good_where_the_tool_needs_none() -> None:
    assert failed(Asked(tools={"now": True}), None, "tool_calls", calls=(Call("now", ""),)) == []


def test_call_that_was_spelled_in_the_text_or_is_missing_is_broken() -> None:
    assert failed(Asked(tools=WEATHER), '<tool_call>{"name": "weather"') == [BROKEN_CALL]
    assert failed(Asked(tools=WEATHER), "It rains.") == []
    assert failed(Asked(tools=WEATHER, call_required=True), "It rains.") == [BROKEN_CALL]


def test_beginning_of_a_stream_fails_only_for_what_no_end_can_mend() -> None:
    assert failed(Asked(schema=SCHEMA), "Here is", None, whole=False) == [BROKEN_JSON]
    assert failed(Asked(schema=SCHEMA), '{"ci', None, whole=False) == []
    assert failed(Asked(form=CHOICE, limited=False), "Let me think", None, whole=False) == []
    assert failed(text="", finish=None, whole=False) == []


@pytest.mark.parametrize(
    ("answer", "letter"),
    [
        ("B", "B"), ("(b)", "B"), ("The answer is (B).", "B"), ("Answer: C", "C"), ("**B**", "B"), ("B) apple", "B"),
        ("It must be apple.", "B"), ("\\boxed{C}", "C"), ("A stone is no fruit, so the answer is B", "B"),
        ("Not A, not C. So B.", "B"), ("I have no idea", None), ("A difficult question", None), ("It depends.", None),
    ],
)  # fmt: skip
def test_letter_of_an_option_is_found(answer: str, letter: str | None) -> None:
    assert CHOICE.kind == "choice"
    assert asked_answer(CHOICE, answer) == letter
    assert failed(Asked(form=CHOICE), answer) == ([] if letter else [OTHER_FORM])


@pytest.mark.parametrize(
    ("prompt", "kind"),
    [
        ("What is 3 * 4? Answer with a single number.", "number"),
        ("How many? Output only the number.", "number"),
        ("Classify the message. Respond with one of: refund, card_lost, other", "label"),
        ("Answer with one of the following intents:\n- refund\n- card lost\n\nMessage: hi", "label"),
        ("Is Bern a capital? Answer yes or no.", "label"),
        ("Q?\nA. one\nB. two\nAnswer:", "choice"),
        ('Think, then finish with "the answer is (X)".\nA. one\nB. two', "choice"),
        ("Reply with a JSON object that has a name.", "json"),
        ("Write a function that returns JSON from Flask.", None),
        ("Write a story about one of these topics: love, war, peace", None),
        ("A. Einstein was born in Ulm.\nB. Russell was not.", None),
        ("What is the number of people in Bern?", None),
        ("", None),
    ],
)  # fmt: skip
def test_form_is_read_only_where_the_prompt_asks_for_it(prompt: str, kind: str | None) -> None:
    assert form_of(prompt).kind == kind


def test_label_is_found_however_it_is_spelled() -> None:
    form = form_of("Classify. Respond with one of: refund, card_lost, 'other'.")
    assert form.labels == ("refund", "card lost", "other")
    assert asked_answer(form, "Card lost.") == "card lost"
    assert asked_answer(form, "The intent is `card_lost`") == "card lost"
    assert asked_answer(form, "refunded") is None


@pytest.mark.parametrize(
    ("prompt", "answer"),
    [("Respond with one of: a{}x", "fine"), ("Which?\nA) b\nB) c\nAnswer with the letter.", "The answer is{}x")],
)
def test_form_takes_no_longer_when_a_text_is_nothing_but_spaces(prompt: str, answer: str) -> None:
    """A student that goes round in circles writes such, and all other requests wait."""

    def taken_s(filling: str) -> float:
        started_s = time.process_time()
        asked_answer(form_of(prompt.format(filling)), answer.format(filling))
        return time.process_time() - started_s

    assert taken_s(" " * 7_800) < 50 * taken_s("word, " * 1_300)


def test_number_is_found_with_its_separators() -> None:
    form = TextForm("number")
    assert asked_answer(form, "It is 1,200 km") == asked_answer(form, "1200.0") == "1200.0"
    assert asked_answer(form, "seven") == "seven"
    assert asked_answer(form, "many") is None


texts = st.text(max_size=300) | st.sampled_from(
    ["one of: " * 50, "A) x\n" * 200, "(A" * 300, "{" * 3000, "sorry " * 60, "answer is " * 60, '{"a":' * 1500]
)


@given(texts, texts, st.sampled_from([None, "stop", "length", "tool_calls", "content_filter"]), st.booleans())
def test_checks_hold_for_whatever_clients_and_models_write(
    prompt: str, text: str, finish: str | None, whole: bool
) -> None:
    asked = Asked(form=form_of(prompt), schema={"type": "object"} if whole else None, tools=WEATHER)
    found = failed_checks(asked, Answer(text, finish, calls=(Call(text, text),), whole=whole))
    assert set(found) <= set(CHECKS)
    assert list(found) == [name for name in CHECKS if name in found]


json_values = st.recursive(
    st.none() | st.booleans() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.text(max_size=5), json_values, max_size=4))
def test_every_object_is_the_json_object_that_was_asked_for(value: dict[str, Any]) -> None:
    assert BROKEN_JSON not in failed(Asked(schema={"type": "object"}), json.dumps(value))


@given(st.text(min_size=1), st.sampled_from("ABC"))
def test_letter_is_found_behind_any_reasoning(reasoning: str, letter: str) -> None:
    assert asked_answer(CHOICE, f"{reasoning}\nThe answer is ({letter}).") == letter
