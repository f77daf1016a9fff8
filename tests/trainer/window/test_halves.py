"""Thresholds that are judged on other answers than those that they were chosen on."""

from __future__ import annotations

import msgspec
import numpy as np

from tests.trainer.window.rows import row
from trainer.window.halves import Half, alarms, growths, halves

LATE = [row(number, number % 3 == 0, tokens=120, turn=40) for number in range(240)]


def test_alarm_stops_wrong_answers_that_the_window_has_let_through() -> None:
    alarm = next(each for each in alarms(halves(LATE)) if (each.window_tokens, each.threshold) == (32, 0.7))
    assert alarm.wrong_stopped is not None and alarm.wrong_stopped.value > 0.9
    assert alarm.right_stopped is not None and alarm.right_stopped.value < 0.05
    assert alarm.wrong_stopped.n + alarm.right_stopped.n < 240  # those that the window escalated are not counted
    assert alarm.median_token is not None and alarm.median_token >= 64


def test_window_that_grows_finds_more_than_one_that_does_not() -> None:
    found = growths(halves(LATE))
    fixed, grown = (next(g for g in found if (g.tokens, g.max_tokens, g.band) == (16, 64, band))
                    for band in (0.0, 0.3))  # fmt: skip
    assert fixed.mean_tokens == 16.0 < grown.mean_tokens
    assert grown.wrong_found > fixed.wrong_found + 0.3


def test_window_holds_no_more_of_an_answer_than_there_is() -> None:
    short = [row(number, number % 3 == 0, tokens=40, turn=10) for number in range(120)]
    assert max(each.mean_tokens for each in growths(halves(short))) <= 40.0


def test_halves_share_no_prompt_and_hold_all_of_them() -> None:
    one, other = ({each.task_id for each in half.scores.rows} for half in halves(LATE))
    assert not one & other
    assert one | other == {each.task_id for each in LATE}
    assert len(one) == len(other)


def test_half_is_judged_by_nothing_that_its_own_answers_say() -> None:
    """Were the curves or the cut taken from the answers that are judged, turning these round would show in them."""
    taught_by, judged = LATE[:120], LATE[120:]
    turned = [msgspec.structs.replace(each, right=not each.right) for each in judged]
    one, other = Half(taught_by, judged), Half(taught_by, turned)
    assert np.array_equal(one.scores.at(0), other.scores.at(0))
    assert np.array_equal(one.scores.at(32), other.scores.at(32))
    assert (one.cut(32), one.chosen(32)) == (other.cut(32), other.chosen(32))
    assert one.stopped(32, 0.7).wrong == other.stopped(32, 0.7).right > 0


def test_threshold_is_the_lowest_that_spares_right_answers_where_it_is_chosen() -> None:
    """One right answer in ten looks wrong for a while, behind the window."""
    shaky = [
        msgspec.structs.replace(
            each,
            logprobs=each.logprobs[:40] + tuple(value - 0.6 for value in each.logprobs[40:80]) + each.logprobs[80:],
        )
        if each.right and place % 10 == 0
        else each
        for place, each in enumerate(LATE)
    ]
    half = Half(shaky[:120], shaky[120:])
    spared = Half(LATE[:120], LATE[120:])
    low, high = spared.chosen(32), half.chosen(32)
    assert low is not None
    assert high is None or high > low
