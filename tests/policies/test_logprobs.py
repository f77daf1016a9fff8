"""The mean logprob of an answer, as the cascade and its calibrator both take it."""

from __future__ import annotations

from typing import Any

import pytest

from policies.logprobs import mean_logprob_of

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
