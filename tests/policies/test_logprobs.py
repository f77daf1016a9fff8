"""The mean logprob of an answer, as the cascade and its calibrator both take it."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.logprobs import RunningSignals, TokenLogprob, mean_logprob, mean_logprob_of

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
