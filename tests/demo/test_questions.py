from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable

import pytest

from serving.demo.corpus import CorpusChunk, module_document
from serving.demo.questions import ALIAS, KINDS, Question, question_bank
from serving.demo.requests import (
    LONG_DOCUMENT_TOKENS,
    STUDENT_WINDOW_TOKENS,
    DemoRequest,
    build,
    cut_document,
    interleaved,
)
from serving.demo.retrieval import Hit
from serving.demo.session import token_counter
from serving.models import prepare_student

BANK = question_bank()
Search = Callable[[str, int], list[Hit]]


def tokens_estimated(text: str) -> int:
    """Words and signs: close to what a byte-level vocabulary makes of documentation, never more."""
    return len(re.findall(r"\w+|[^\w\s]", text))


@pytest.fixture
def requests(search: Search) -> list[DemoRequest]:
    return build(BANK, search, tokens_estimated)


def test_bank_has_every_kind_and_at_least_forty_questions() -> None:
    counts = Counter(question.kind for question in BANK)
    assert set(counts) == set(KINDS)
    assert len(BANK) >= 40
    assert len({question.id for question in BANK}) == len(BANK)


def test_bank_names_only_models_that_the_demo_configures() -> None:
    assert {question.model for question in BANK} == {"auto", "student", "teacher", ALIAS}


def test_bank_uses_every_carrier_for_answerable_and_unanswerable_questions() -> None:
    assert {q.carrier for q in BANK if q.kind == "docs"} == {"scored", "unscored", "documents", "tool"}
    assert {q.carrier for q in BANK if q.kind == "off_topic"} >= {"scored", "unscored", "tool"}


@pytest.mark.parametrize("question", [q for q in BANK if q.kind == "docs"], ids=lambda q: q.id)
def test_docs_answer_is_documented_in_the_corpus(question: Question, corpus: list[CorpusChunk]) -> None:
    texts = [chunk.text for chunk in corpus if chunk.name == question.source]
    assert texts
    assert any(re.search(rf"\b{re.escape(question.expected[0])}\b", text) for text in texts)


@pytest.mark.parametrize("question", [q for q in BANK if q.kind == "off_topic"], ids=lambda q: q.id)
def test_off_topic_answer_is_not_in_the_corpus(question: Question, corpus: list[CorpusChunk]) -> None:
    assert not any(re.search(rf"\b{re.escape(question.expected[0])}\b", chunk.text) for chunk in corpus)


@pytest.mark.parametrize("question", [q for q in BANK if q.kind == "long"], ids=lambda q: q.id)
def test_long_answer_stands_in_the_part_of_the_document_that_is_sent(question: Question) -> None:
    assert question.source is not None
    # The student's tokenizer counts more tokens than the estimate, so what is sent ends earlier: allow for 25 %.
    sent = cut_document(module_document(question.source), int(LONG_DOCUMENT_TOKENS * 0.75), tokens_estimated)
    assert re.search(rf"\b{re.escape(question.expected[0])}\b", sent)


def test_bank_answers_are_checked_except_for_a_few() -> None:
    assert all(bool(question.expected) == (question.check is not None) for question in BANK)
    assert sum(question.check is None for question in BANK) <= 5


def test_requests_are_half_streams_in_every_large_kind(requests: list[DemoRequest]) -> None:
    streams = Counter(request.question.kind for request in requests if request.stream)
    counts = Counter(request.question.kind for request in requests)
    assert sum(streams.values()) == (len(requests) + 1) // 2
    assert all(0 < streams[kind] < counts[kind] for kind in ("docs", "reasoning", "plain"))


def test_interleaving_keeps_every_question_and_spreads_the_kinds() -> None:
    order = interleaved(BANK)
    assert sorted(question.id for question in order) == sorted(question.id for question in BANK)
    first_half = Counter(question.kind for question in order[: len(order) // 2])
    assert all(first_half[kind] > 0 for kind in KINDS)


def test_long_request_exceeds_the_students_window(requests: list[DemoRequest]) -> None:
    for request in requests:
        if request.question.kind == "long":
            counted = sum(tokens_estimated(message["content"]) for message in request.messages)
            assert counted > STUDENT_WINDOW_TOKENS
            assert request.messages[-1]["content"].endswith(request.question.text)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_long_request_is_a_little_too_long_by_the_students_own_tokenizer(search: Search) -> None:
    count = token_counter(prepare_student(lambda _: None).path)
    for request in build([question for question in BANK if question.kind == "long"], search, count):
        counted = sum(count(message["content"]) for message in request.messages)
        assert STUDENT_WINDOW_TOKENS < counted < STUDENT_WINDOW_TOKENS + 200
        assert any(spelling in request.messages[-1]["content"] for spelling in request.question.expected)


def test_scored_request_shows_scores_and_unscored_does_not(requests: list[DemoRequest]) -> None:
    for request in requests:
        chunks = request.extra_body.get("router", {}).get("retrieved_chunks", [])
        if request.question.carrier in ("scored", "unscored"):
            assert chunks
            assert all(("score" in chunk) == (request.question.carrier == "scored") for chunk in chunks)


def test_cut_document_ends_at_a_line_within_the_limit() -> None:
    text = "".join(f"line {n}\n" for n in range(100))
    cut = cut_document(text, 50, lambda part: len(part.split()))
    assert cut.splitlines()[-1] == "line 24"


def test_cut_document_raises_when_the_document_is_short() -> None:
    with pytest.raises(ValueError, match="fewer than 50 tokens"):
        cut_document("short", 50, lambda part: len(part.split()))
