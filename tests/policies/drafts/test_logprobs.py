"""The mean logprob of an answer, as the cascade and its calibrator both take it."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.draft_signals import DraftSignals
from policies.drafts.logprobs import (
    LOWEST,
    Alternative,
    RunningSignals,
    TokenLogprob,
    mean_logprob,
    mean_logprob_of,
    measured,
)

STOP = {"token": "<|im_end|>", "logprob": -9.0, "bytes": list(b"<|im_end|>")}


def entry(token: str, logprob: float) -> dict[str, Any]:
    return {"token": token, "logprob": logprob, "bytes": list(token.encode()), "top_logprobs": []}


TOKENS = [entry("card", -0.2), entry("_lost", -0.4)]


@pytest.mark.parametrize(
    ("entries", "text", "finish_reason", "mean"),
    [
        ([*TOKENS, STOP], "card_lost", "stop", -0.3),
        (TOKENS, "card_lost", "stop", -0.3),
        (TOKENS, "card_lost", "length", -0.3),
        ([*TOKENS, STOP], "card_lost", "tool_calls", -0.3),
        ([STOP], "", "stop", None),
        ([], "card_lost", "stop", None),
        (None, "card_lost", "stop", None),
    ],
)
def test_mean_logprob_is_the_same_whether_the_backend_lists_the_stop_token_or_not(
    entries: Any, text: str, finish_reason: str, mean: float | None
) -> None:
    found = mean_logprob_of(entries, text, finish_reason)
    assert found == (None if mean is None else pytest.approx(mean))


def test_mean_logprob_reads_the_token_when_bytes_are_missing() -> None:
    entries = [{"token": "a", "logprob": -1.0}, {"token": "</s>", "logprob": -5.0, "bytes": None}]
    assert mean_logprob_of(entries, "a", "stop") == -1.0


@pytest.mark.parametrize("entries", ["no list", [{"token": "a"}], [{"logprob": "x"}]])
def test_mean_logprob_refuses_what_is_no_list_of_entries(entries: Any) -> None:
    with pytest.raises(ValueError):
        mean_logprob_of(entries, "a", "stop")


spelled = st.text(st.characters(codec="utf-8"), max_size=4)
pieces = st.lists(st.lists(st.tuples(spelled, st.floats(-20, 0)), max_size=3), max_size=6)


@given(pieces, st.sampled_from([None, "stop", "length", "tool_calls"]), st.booleans(), st.booleans())
def test_running_mean_of_a_stream_is_that_of_the_whole_answer(
    read: list[list[tuple[str, float]]], finish_reason: str | None, lists_stop: bool, tells_bytes: bool
) -> None:
    def token(text: str, logprob: float) -> TokenLogprob:
        return TokenLogprob(logprob, text, list(text.encode()) if tells_bytes else None)

    running, whole, text = RunningSignals(), [], ""
    for piece in read:
        tokens, added = [token(*each) for each in piece], "".join(each for each, _ in piece)
        running.add(tokens, added)
        whole, text = whole + tokens, text + added
    if lists_stop:
        running.add([token("<|im_end|>", -9.0)], "")
        whole.append(token("<|im_end|>", -9.0))
    expected = mean_logprob(whole, text, finish_reason)
    found = running.mean(finish_reason)
    assert found == (None if expected is None else pytest.approx(expected))
    assert running.tokens == len(whole)


def told(logprob: float, *alternatives: float) -> TokenLogprob:
    return TokenLogprob(logprob, "a", None, [Alternative(each) for each in alternatives])


def test_signals_are_taken_over_the_tokens_without_the_stop_token() -> None:
    tokens = [told(-0.1, -0.1, -3.0), told(-2.0, -0.5, -2.0), told(-9.0, -9.0, -9.5)]
    tokens[2].token = "</s>"
    found = measured(tokens, "aa", "stop")
    assert found.mean_logprob == pytest.approx(-1.05)
    assert found.min_logprob == -2.0
    assert found.logprob_q10 == pytest.approx(-2.0 + 0.1 * 1.9)
    assert found.mean_margin == pytest.approx((2.9 + 1.5) / 2)
    assert found.min_margin == pytest.approx(1.5)
    assert found.tokens == 3


def test_entropy_counts_what_was_not_told_as_one_outcome() -> None:
    half = math.log(0.5)
    assert measured([told(half, half, half)], "a", "length").mean_entropy == pytest.approx(math.log(2))
    quarter = math.log(0.25)
    assert measured([told(half, half, quarter)], "a", "length").mean_entropy == pytest.approx(1.5 * math.log(2))
    assert measured([told(0.0, 0.0, -9999.0)], "a", "length").mean_entropy == pytest.approx(0.0, abs=1e-9)


def test_sentinels_for_impossible_tokens_do_not_drown_the_rest() -> None:
    found = measured([told(-9999.0, -0.1, -9999.0)], "a", "length")
    assert found.min_logprob == LOWEST
    assert found.min_margin == pytest.approx(-0.1 - LOWEST)


def test_margins_are_missing_when_no_alternatives_are_told() -> None:
    found = measured([TokenLogprob(-0.5, "a"), TokenLogprob(-0.5, "a", None, [])], "aa", "stop")
    assert (found.mean_margin, found.min_margin, found.mean_entropy) == (None, None, None)
    assert measured([], "", "stop") == DraftSignals()


numbers = st.floats(-30, 0)


@given(st.lists(st.tuples(numbers, st.lists(numbers, max_size=4)), min_size=1, max_size=40), st.integers(0, 40))
def test_signals_of_a_stream_are_those_of_numpy_however_often_they_are_read(
    tokens: list[tuple[float, list[float]]], read_at: int
) -> None:
    running = RunningSignals()
    for index, (logprob, alternatives) in enumerate(tokens):
        running.add([told(logprob, *alternatives)], "a")
        if index == read_at:
            running.signals(None)
    found = running.signals("length")
    logprobs = [logprob for logprob, _ in tokens]
    assert found.min_logprob == min(logprobs)
    assert found.logprob_q10 == pytest.approx(float(np.quantile(logprobs, 0.1)))
    margins = [sorted(each)[-1] - sorted(each)[-2] for _, each in tokens if len(each) > 1]
    assert found.min_margin == (pytest.approx(min(margins)) if margins else None)
    assert found.mean_margin == (pytest.approx(float(np.mean(margins))) if margins else None)
