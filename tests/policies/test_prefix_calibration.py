"""Curves for the beginnings of streams."""

from __future__ import annotations

import math
import random
from pathlib import Path

import msgspec
import pytest

from policies import artefact
from policies.calibration import MEAN_LOGPROB, CalibratorArtefact, Platt, PrefixCurve, load, sigmoid
from policies.draft_signals import PREFIX_TOKENS
from policies.drafts.logprobs import RunningSignals, TokenLogprob
from policies.prefix_calibration import MIN_OF_EACH, Answer, fit_prefixes, prefix_curve, with_prefixes

WHOLE = CalibratorArtefact(
    calibrator=Platt(4.0, 2.0), raw=MEAN_LOGPROB, source="test", n=100, n_sufficient=50, ece=0.01, reliability=()
)


def answers(count: int, tokens: int = 40, seed: int = 0) -> list[Answer]:
    """The longer the prefix, the less it spreads; P(right) is a sigmoid of the mean of the first four."""
    draw = random.Random(seed)
    found = []
    for _ in range(count):
        first = draw.gauss(-0.5, 0.4)
        means = tuple(first * (1 - 0.1 * place) for place, size in enumerate(PREFIX_TOKENS) if size <= tokens)
        found.append(Answer(means, tokens, draw.random() < sigmoid(5 * first + 2.5)))
    return found


def test_prefix_curve_gives_the_share_that_is_right_when_enough_answers_reach_it() -> None:
    curves = fit_prefixes(answers(4000))
    assert [curve.tokens for curve in curves] == [4, 8, 16, 32]
    assert all(curve.n == 4000 and curve.ece < 0.04 for curve in curves)
    for place, curve in enumerate(curves):
        raw = -0.8 * (1 - 0.1 * place)
        assert curve.calibrator.confidence(raw) == pytest.approx(sigmoid(5 * -0.8 + 2.5), abs=0.06)


def test_prefix_has_no_curve_when_too_few_answers_go_on_behind_it() -> None:
    short = answers(200, tokens=16)  # they end there: such an answer is judged as a whole
    assert [curve.tokens for curve in fit_prefixes(short)] == [4, 8]
    assert fit_prefixes(answers(MIN_OF_EACH)) == ()


def test_longest_curve_that_a_prefix_reaches_is_used() -> None:
    curves = tuple(
        PrefixCurve(tokens=tokens, calibrator=Platt(tokens, 0.0), n=100, n_sufficient=50, ece=0.0) for tokens in (8, 32)
    )
    fitted = msgspec.structs.replace(WHOLE, prefixes=curves)
    assert [prefix_curve(fitted, tokens) for tokens in (3, 8, 31, 32, 500)] == [
        Platt(8, 0.0), Platt(8, 0.0), Platt(8, 0.0), Platt(32, 0.0), Platt(32, 0.0),
    ]  # fmt: skip
    assert prefix_curve(WHOLE, 16) == WHOLE.calibrator


def test_artefact_without_prefixes_is_written_as_before_and_with_them_read_back(tmp_path: Path) -> None:
    assert with_prefixes(WHOLE, answers(10)) == WHOLE
    assert b"prefixes" not in artefact.encoded(WHOLE)[0]
    fitted = with_prefixes(WHOLE, answers(400))
    artefact.write(tmp_path / "calibrator.json", fitted)
    assert load(tmp_path / "calibrator.json") == fitted


@pytest.mark.parametrize(("tokens", "known"), [(3, 0), (4, 1), (5, 1), (16, 3), (100, 5)])
def test_means_of_prefixes_are_those_of_the_first_tokens(tokens: int, known: int) -> None:
    logprobs = [-0.01 * (place + 1) for place in range(tokens)]
    running = RunningSignals()
    for start in range(0, tokens, 3):  # as they come: several at once, the last ones fewer
        running.add([TokenLogprob(value, token="x") for value in logprobs[start : start + 3]], "xxx")
    means = running.signals(None).prefix_means
    assert len(means) == known
    for size, mean in zip(PREFIX_TOKENS, means, strict=False):
        assert math.isclose(mean, sum(logprobs[:size]) / size)


def test_stop_token_belongs_to_no_prefix() -> None:
    running = RunningSignals()
    running.add([TokenLogprob(-0.1, token="x")] * 3, "xxx")
    running.add([TokenLogprob(-9.0, token="</s>")], "")
    assert running.signals("stop").prefix_means == ()
