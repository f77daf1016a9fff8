"""Turns questions into what a docs assistant would really send: messages, retrieved chunks, limits.

The retrieved chunks are put into the prompt by the client and shown to the router as evidence, through one of the
carriers that clients use. The order mixes the kinds, so that both models are busy together as in real traffic.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from serving.demo.corpus import module_document
from serving.demo.questions import Kind, Question
from serving.demo.retrieval import Hit

RETRIEVED_CHUNKS = 3
STUDENT_WINDOW_TOKENS = 1024
LONG_DOCUMENT_TOKENS = 1080
"""A little more than the student's window: the teacher's prefill is slow on two cores."""

CountTokens = Callable[[str], int]
Search = Callable[[str, int], list[Hit]]

_ASSISTANT = "You are a documentation assistant for Python. Answer in one short sentence."
_WITH_DOCUMENTATION = (
    "You are a documentation assistant for Python. Answer the question in one short sentence with a name from this "
    "documentation, whose end is the most relevant part. If it does not hold the answer, say what you know."
)
_INSTRUCTIONS: dict[Kind, str] = {
    "docs": _ASSISTANT,
    "off_topic": _ASSISTANT,
    "long": _ASSISTANT,
    "reasoning": "You solve problems. Write one line of arithmetic for each step and end with the answer.",
    "plain": "You are a helpful assistant. Reply in one short sentence.",
    "forced": "You are a helpful assistant. Reply in one short sentence.",
}
_WORKED_EXAMPLE: tuple[dict[str, Any], ...] = (
    {
        "role": "user",
        "content": "A box holds 4 bags with 6 apples each. Five apples are bad. How many good apples are there?",
    },
    {"role": "assistant", "content": "4 * 6 = 24 apples\n24 - 5 = 19 good apples\nAnswer: 19"},
)
"""Shows the form of an answer: models that explain at length run out of tokens before they say the number."""

_TOOL_CALL_ID = "call_search_docs"


class DemoRequest(msgspec.Struct, frozen=True, kw_only=True):
    """One request, ready for the `openai` client."""

    question: Question
    messages: tuple[dict[str, Any], ...]
    extra_body: dict[str, Any]
    """What the client library has no argument for: `router`, `documents`."""
    stream: bool
    session: str | None = None
    """Requests of one session are sent one after the other, as by one person."""
    shown_names: tuple[str, ...] = ()
    """Dotted names of the chunks in the prompt, best first."""


def build(bank: Sequence[Question], search: Search, count_tokens: CountTokens) -> list[DemoRequest]:
    """All requests in the order in which they are sent; every other one is a stream."""
    documents = {
        module: cut_document(module_document(module), LONG_DOCUMENT_TOKENS, count_tokens)
        for module in sorted({q.source for q in bank if q.kind == "long" and q.source})
    }
    return [
        _request(question, search, documents, stream=number % 2 == 0)
        for number, question in enumerate(interleaved(bank))
    ]


def interleaved(bank: Sequence[Question]) -> list[Question]:
    """Spread every kind evenly over the whole run, each in its own order."""
    by_kind = itertools.groupby(sorted(bank, key=lambda q: q.kind), key=lambda q: q.kind)
    placed: list[tuple[float, str, Question]] = []
    for kind, group in by_kind:
        questions = list(group)
        placed += [((n + 0.5) / len(questions), kind, question) for n, question in enumerate(questions)]
    return [question for _, _, question in sorted(placed, key=lambda item: item[:2])]


def cut_document(text: str, tokens: int, count_tokens: CountTokens) -> str:
    """The longest run of whole lines from the start that has at most `tokens` tokens.

    Raises:
        ValueError: the document is shorter than that, so that it would not test a long input.
    """
    lines = text.splitlines(keepends=True)
    if count_tokens(text) < tokens:
        raise ValueError(f"the document has fewer than {tokens} tokens; choose a longer module")
    low, high = 0, len(lines)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if count_tokens("".join(lines[:middle])) <= tokens else (low, middle - 1)
    return "".join(lines[:low])


def distinct(hits: Sequence[Hit]) -> list[Hit]:
    """The best piece of each object: three pieces of one long docstring would leave no room for others."""
    best: dict[str, Hit] = {}
    for hit in hits:
        best.setdefault(hit.chunk.name, hit)
    return list(best.values())


def _request(question: Question, search: Search, documents: dict[str, str], *, stream: bool) -> DemoRequest:
    system = {"role": "system", "content": _INSTRUCTIONS[question.kind]}
    user = {"role": "user", "content": question.text}
    if question.kind == "long" and question.source is not None:
        user["content"] = f"{documents[question.source]}\n\nQuestion: {question.text}"
        session = f"reading-{question.source}"
        return DemoRequest(
            question=question,
            messages=(system, user),
            extra_body={"router": {"session": session}},
            stream=stream,
            session=session,
        )
    if question.kind == "reasoning":
        return DemoRequest(question=question, messages=(system, *_WORKED_EXAMPLE, user), extra_body={}, stream=stream)
    if question.carrier is None:
        return DemoRequest(question=question, messages=(system, user), extra_body={}, stream=stream)
    hits = distinct(search(question.text, 2 * RETRIEVED_CHUNKS))[:RETRIEVED_CHUNKS]
    names = tuple(hit.chunk.name for hit in hits)
    if question.carrier == "tool":
        messages: tuple[dict[str, Any], ...] = (system, user, *_tool_messages(question, hits))
        return DemoRequest(question=question, messages=messages, extra_body={}, stream=stream, shown_names=names)
    # Small models read the end of a prompt best, so the best chunk comes last.
    shown = "\n\n".join(hit.chunk.text for hit in reversed(hits))
    system["content"] = f"{_WITH_DOCUMENTATION}\n\n{shown}"
    return DemoRequest(
        question=question,
        messages=(system, user),
        extra_body=_evidence(question, hits),
        stream=stream,
        shown_names=names,
    )


def _evidence(question: Question, hits: Sequence[Hit]) -> dict[str, Any]:
    if question.carrier == "documents":
        return {"documents": [{"id": hit.chunk.id, "text": hit.chunk.text} for hit in hits]}
    chunks: list[dict[str, Any]] = [{"id": hit.chunk.id, "text": hit.chunk.text} for hit in hits]
    if question.carrier == "scored":
        chunks = [{**chunk, "score": hit.score} for chunk, hit in zip(chunks, hits, strict=True)]
    return {"router": {"retrieved_chunks": chunks}}


def _tool_messages(question: Question, hits: Sequence[Hit]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The turn in which a model has called a search tool, and the tool's JSON answer."""
    call = {"name": "search_docs", "arguments": json.dumps({"query": question.text})}
    results = [{"id": hit.chunk.id, "text": hit.chunk.text, "score": hit.score} for hit in reversed(hits)]
    return (
        {
            "role": "assistant",
            "content": "",
            "tool_calls": [{"id": _TOOL_CALL_ID, "type": "function", "function": call}],
        },
        {"role": "tool", "tool_call_id": _TOOL_CALL_ID, "content": json.dumps({"results": results})},
    )
