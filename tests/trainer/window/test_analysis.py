"""What is made of the answers of one family."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

from policies.drafts.logprobs import TokenLogprob, mean_logprob
from tests.trainer.window.rows import ROWS, row
from trainer.evaluation.statistics import auroc
from trainer.window.analysis import analyse, default_window, enough
from trainer.window.scores import mean_of


def test_analysis_sees_what_is_wrong_from_where_it_shows() -> None:
    analysis = analyse("x", ROWS, resamples=20)
    assert analysis.answers == 240
    assert analysis.right == pytest.approx(1 / 3)
    assert 0.4 < analysis.size(16).auroc < 0.6
    assert analysis.size(32).auroc == analysis.size(0).auroc == 1.0
    assert analysis.size(16).low < analysis.size(16).auroc < analysis.size(16).high
    assert analysis.size(64).whole_share == 1.0 and analysis.size(32).whole_share == 0.0
    ece = analysis.size(32).ece_prefix
    assert ece is not None and ece < 0.1


def test_gain_is_the_share_of_what_whole_answers_would_escalate_better_than_by_lot() -> None:
    analysis = analyse("x", ROWS, resamples=5)
    assert analysis.gain(0) == analysis.gain(32) == 1.0
    assert analysis.size(32).hit.value == 1.0
    assert abs(analysis.gain(16)) < 0.5
    assert analysis.gain(16) == pytest.approx((analysis.size(16).hit.value - 2 / 3) / (1 / 3))


def test_default_window_is_the_middle_one_of_what_families_need() -> None:
    early, middle, late, never = (
        analyse("x", [row(n, n % 3 == 0, tokens=300, turn=turn) for n in range(120)], resamples=2)
        for turn in (4, 20, 40, 200)
    )
    assert [enough(each) for each in (early, middle, late, never)] == [8, 32, 64, None]
    assert default_window([late, early, middle]) == 32
    assert default_window([early, late]) == default_window([never, late, early]) == 64
    assert default_window([early, never]) is None


def test_answers_of_one_kind_cannot_be_analysed() -> None:
    with pytest.raises(ValueError, match="x: 50 answers, 50 right: both outcomes"):
        analyse("x", [row(number, True) for number in range(50)])


def test_answers_without_a_token_of_text_are_left_out() -> None:
    empty = msgspec.structs.replace(ROWS[0], task_id="empty", logprobs=(-1.0,), times_s=(0.0,))
    assert analyse("x", [*ROWS, empty], resamples=2).answers == len(ROWS)


def test_auroc_counts_ties_half() -> None:
    assert auroc(np.array([1.0, 1.0, 0.0]), np.array([True, False, False])) == 0.75


def test_mean_leaves_the_stop_token_out_of_whole_answers_only() -> None:
    answer = msgspec.structs.replace(ROWS[0], logprobs=(-1.0, -3.0, -20.0))
    assert mean_of(answer, 2) == -2.0
    assert mean_of(answer, 3) == mean_of(answer, 0) == -2.0


@pytest.mark.parametrize("last", ["c", "<|im_end|>"])
def test_mean_is_the_gateways_whether_the_backend_lists_the_stop_token_or_not(last: str) -> None:
    tokens = [TokenLogprob(-1.0, "a"), TokenLogprob(-3.0, "b"), TokenLogprob(-20.0, last)]
    answer = msgspec.structs.replace(ROWS[0], logprobs=(-1.0, -3.0, -20.0), stop_token=last != "c")
    assert mean_of(answer, 0) == mean_logprob(tokens, "abc" if last == "c" else "ab", "stop")
