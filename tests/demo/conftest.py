"""Shared builders for the demo's tests: results without a gateway, retrieval without an encoder."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from serving.demo.corpus import CorpusChunk, build_corpus
from serving.demo.results import Result
from serving.demo.retrieval import Hit


@pytest.fixture(scope="session")
def corpus() -> list[CorpusChunk]:
    return build_corpus()


@pytest.fixture
def search(corpus: list[CorpusChunk]) -> Callable[[str, int], list[Hit]]:
    """Retrieval by shared words: no model, but the same shape."""

    def by_words(question: str, k: int) -> list[Hit]:
        words = set(question.lower().split())
        scored = [(len(words & set(chunk.text.lower().split())) / len(words), chunk) for chunk in corpus]
        best = sorted(scored, key=lambda pair: (-pair[0], pair[1].id))[:k]
        return [Hit(chunk, score) for score, chunk in best]

    return by_words


@pytest.fixture
def make_result() -> Callable[..., Result]:
    def make(**changes: Any) -> Result:
        values: dict[str, Any] = {
            "id": "docs-01", "kind": "docs", "model": "auto", "stream": False, "question": "?", "expected": ("x",),
            "ok": True, "route": "student", "policy": "default", "reason": "default", "latency_s": 1.0,
            "prompt_tokens": 100, "completion_tokens": 10, "finish_reason": "stop", "cost_usd": 0.1,
            "counterfactual_cost_usd": 1.0, "correct": True,
        }  # fmt: skip
        return Result(**{**values, **changes})

    return make
