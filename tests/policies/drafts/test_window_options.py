"""A cascade's options for streams: windows that grow, curves for prefixes, and the late alarm."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from policies import artefact
from policies.base import Abstain, Extend, PolicyConfigError, RequestFeatures, RouteDecision
from policies.calibration import MEAN_LOGPROB, CalibratorArtefact, Platt, PrefixCurve, sigmoid
from policies.cascade import Cascade
from policies.chain import PolicyChain
from policies.record import Draft
from policies.registry import build
from policies.window import CommitWindow, LateAlarm, Progress, widest

SEEN = RequestFeatures(prompt_bytes=1, message_count=1, approx_prompt_tokens=1, requested_output_tokens=1)
WHOLE, SHORT, LONG = Platt(2.0, 3.0), Platt(1.0, 1.0), Platt(3.0, 2.0)


def cascade(folder: Path, **options: Any) -> Cascade:
    curves = tuple(
        PrefixCurve(tokens=tokens, calibrator=curve, n=200, n_sufficient=100, ece=0.0)
        for tokens, curve in ((8, SHORT), (32, LONG))
    )
    file = folder / "calibrator.json"
    artefact.write(
        file,
        CalibratorArtefact(
            calibrator=WHOLE, raw=MEAN_LOGPROB, source="", n=1, n_sufficient=1, ece=0.0, reliability=(), prefixes=curves
        ),
    )
    return Cascade(calibrator=str(file), **{"threshold": 0.4, **options})


def draft(mean: float, tokens: int, *, prefix: bool = True, extendable: bool = False) -> Draft:
    return Draft(text="x", mean_logprob=mean, tokens=tokens, prefix=prefix, extendable=extendable)


@pytest.mark.parametrize(
    ("tokens", "prefix", "curve"), [(3, True, SHORT), (16, True, SHORT), (40, True, LONG), (40, False, WHOLE)]
)
def test_prefix_is_scored_by_the_curve_of_its_length(tmp_path: Path, tokens: int, prefix: bool, curve: Platt) -> None:
    answer = cascade(tmp_path).review(SEEN, draft(-0.7, tokens, prefix=prefix))
    assert isinstance(answer, Abstain | RouteDecision)
    assert answer.score == pytest.approx(1 - sigmoid(curve.slope * -0.7 + curve.intercept))


def test_uncertain_score_asks_for_more_of_the_stream_only_where_there_can_be_more(tmp_path: Path) -> None:
    policy = cascade(tmp_path, extend_band=0.1)
    unsure = -0.6  # 1 - sigmoid(-0.6 + 1) = 0.401
    answer = policy.review(SEEN, draft(unsure, 8, extendable=True))
    assert isinstance(answer, Extend) and answer.reason == "uncertain" and answer.threshold == 0.4
    last = policy.review(SEEN, draft(unsure, 8))
    assert isinstance(last, RouteDecision) and last.reason == "low_confidence"
    for sure, kind in ((2.0, Abstain), (-4.0, RouteDecision)):
        assert isinstance(policy.review(SEEN, draft(sure, 8, extendable=True)), kind)
    assert isinstance(cascade(tmp_path).review(SEEN, draft(unsure, 8, extendable=True)), RouteDecision)


def test_alarm_rings_when_the_last_tokens_are_above_its_own_threshold(tmp_path: Path) -> None:
    policy = cascade(tmp_path, late_alarm="mark", late_alarm_threshold=0.8)

    def alarm(mean: float) -> object:
        return policy.alarm(SEEN, Progress(tokens=70, recent_tokens=32, recent_mean_logprob=mean))

    rang = alarm(-2.5)  # 1 - sigmoid(-5 + 3) = 0.88, by the curve of whole answers
    assert isinstance(rang, RouteDecision)
    assert (rang.reason, rang.threshold) == ("late_alarm", 0.8)
    assert rang.score == pytest.approx(1 - sigmoid(-2.0))
    assert alarm(-2.0) is None
    assert Cascade(late_alarm="mark").alarm(SEEN, Progress(tokens=9, recent_tokens=9, recent_mean_logprob=-9)) is None


def test_window_has_what_the_options_say(tmp_path: Path) -> None:
    window = Cascade(
        extend_band=0.1, commit_window_max_tokens=100, commit_window_max_s=3.0, on_escalation="reserve",
        late_alarm="continue", late_alarm_tokens=16, late_alarm_finish_reason="low_confidence",
    ).commit_window  # fmt: skip
    assert window == CommitWindow(
        tokens=32, time_s=2.0, max_tokens=100, max_time_s=3.0, on_escalation="reserve",
        late_alarm=LateAlarm(action="continue", tokens=16, finish_reason="low_confidence"),
    )  # fmt: skip
    assert window.sizes() == (32, 64, 100)
    wider = window.grown()
    assert wider is not None and (wider.tokens, wider.time_s) == (64, 3.0)
    assert Cascade().commit_window == CommitWindow(tokens=32, time_s=2.0)


@pytest.mark.parametrize(
    ("options", "names"),
    [
        ({"extend_band": 0.1, "commit_window_max_tokens": 32}, "extend_band"),
        ({"late_alarm_finish_reason": "No Reason"}, "late_alarm_finish_reason"),
        ({"on_escalation": "keep"}, "on_escalation"),
        ({"late_alarm": "stop"}, "late_alarm"),
    ],
)
def test_wrong_option_is_refused_by_name(options: dict[str, Any], names: str) -> None:
    with pytest.raises(PolicyConfigError, match=f"^{names}: "):
        build("cascade", options)


def test_widest_window_keeps_every_wish() -> None:
    alarm = LateAlarm(action="mark", tokens=8)
    windows = [
        CommitWindow(tokens=8, time_s=3.0, max_tokens=64, late_alarm=alarm),
        CommitWindow(tokens=16, time_s=1.0, on_escalation="reserve"),
    ]
    assert widest(windows) == CommitWindow(
        tokens=16, time_s=3.0, max_tokens=64, on_escalation="reserve", late_alarm=alarm
    )
    assert widest([]) is None


class Ringing:
    """Whose alarm raises, or rings."""

    name = "ringing"
    reasons = frozenset({"late"})
    commit_window = CommitWindow(tokens=4, time_s=1.0, late_alarm=LateAlarm(action="mark", tokens=4))

    def __init__(self, answer: object) -> None:
        self._answer = answer

    def review(self, features: RequestFeatures, draft: Draft) -> Extend:
        return Extend(reason="more")

    def alarm(self, features: RequestFeatures, progress: Progress) -> Any:
        if isinstance(self._answer, Exception):
            raise self._answer
        return self._answer


def chain(answer: object) -> PolicyChain:
    return PolicyChain([], reviewers=[Ringing(answer)], version="v", default_route="student", on_policy_error="teacher")


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (RouteDecision(route="teacher", reason="late"), "late"),
        (RouteDecision(route="teacher", reason="undeclared"), "other"),
        (RouteDecision(route="student", reason="late"), None),
        (Abstain(reason="late"), None),
        (RuntimeError("planted"), None),
        ("teacher", None),
    ],
)
def test_chain_rings_only_by_a_decision_for_the_teacher(answer: object, reason: str | None) -> None:
    rang = chain(answer).alarm(SEEN, Progress(tokens=9, recent_tokens=4, recent_mean_logprob=-1.0))
    assert (rang.reason if rang is not None else None) == reason
    assert rang is None or (rang.policy, rang.version) == ("ringing", "v")


@pytest.mark.parametrize("extendable", [True, False])
def test_chain_passes_on_the_wish_for_more_only_where_it_can_be_met(extendable: bool) -> None:
    said, votes = chain(None).review(SEEN, draft(-1.0, 4, extendable=extendable))
    assert isinstance(said, Extend) is extendable
    assert [(vote.policy, vote.route) for vote in votes] == [("ringing", None)]
