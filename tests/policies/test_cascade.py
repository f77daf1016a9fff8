"""The cascade escalates a draft whose calibrated P(wrong) is above the threshold, and abstains when it cannot know."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies import artefact
from policies.base import (
    Abstain,
    PolicyConfigError,
    RequestFeatures,
    Reviewer,
    RouteDecision,
    StudentDefaults,
)
from policies.calibration import MEAN_LOGPROB, CalibratorArtefact, Platt, sigmoid
from policies.cascade import Cascade
from policies.record import Draft
from policies.registry import build, build_all
from policies.window import CommitWindow

SEEN = RequestFeatures(prompt_bytes=1, message_count=1, approx_prompt_tokens=1, requested_output_tokens=1)
SLOPE, INTERCEPT = 2.0, 3.0


def fitted(path: Path, **changes: Any) -> Path:
    fields: dict[str, Any] = {
        "calibrator": Platt(slope=SLOPE, intercept=INTERCEPT), "raw": MEAN_LOGPROB, "source": "labelled requests",
        "n": 200, "n_sufficient": 150, "ece": 0.02, "reliability": (),
    }  # fmt: skip
    artefact.write(path, CalibratorArtefact(**{**fields, **changes}))
    return path


def draft(mean_logprob: float | None, text: str = "card_arrival", finish_reason: str = "stop") -> Draft:
    return Draft(text=text, mean_logprob=mean_logprob, tokens=4, finish_reason=finish_reason)


def bound(folder: Path, threshold: float | None = 0.3, **options: Any) -> Cascade:
    student = StudentDefaults(
        bundle_id="s-1", calibrator=fitted(folder / "calibrator.json"), cascade_threshold=threshold, model_sha256="m1"
    )
    return Cascade(**options).for_student(student)


def test_cascade_is_installed_as_a_reviewer_only() -> None:
    policies, reviewers, *_ = build_all([{"type": "cascade"}])
    assert policies == []
    assert isinstance(reviewers[0], Reviewer)
    assert reviewers[0].name == "cascade"


def test_draft_is_escalated_when_its_calibrated_risk_is_above_the_threshold(tmp_path: Path) -> None:
    policy = bound(tmp_path)
    for mean_logprob in (-3.0, -1.2, -1.0, -0.2, 0.0):
        answer = policy.review(SEEN, draft(mean_logprob))
        assert isinstance(answer, RouteDecision | Abstain)
        assert answer.score == pytest.approx(1 - sigmoid(SLOPE * mean_logprob + INTERCEPT))
        assert answer.threshold == 0.3
        escalates = answer.score > 0.3
        assert isinstance(answer, RouteDecision) is escalates
        assert answer.reason == ("low_confidence" if escalates else "confident")


def test_risk_equal_to_the_threshold_stays_with_the_student(tmp_path: Path) -> None:
    score = 1 - sigmoid(SLOPE * -1.5 + INTERCEPT)
    assert isinstance(bound(tmp_path, score).review(SEEN, draft(-1.5)), Abstain)


def test_own_options_win_over_what_the_bundle_brings(tmp_path: Path) -> None:
    own = fitted(tmp_path / "own.json", calibrator=Platt(slope=1.0, intercept=0.0))
    bundle = StudentDefaults(bundle_id="s-1", calibrator=fitted(tmp_path / "bundle.json"), cascade_threshold=0.3)
    answer = Cascade(calibrator=str(own), threshold=0.9).for_student(bundle).review(SEEN, draft(0.0))
    assert answer == Abstain(reason="confident", score=0.5, threshold=0.9)


def test_cascade_abstains_when_there_is_no_calibrator_or_threshold(tmp_path: Path) -> None:
    alone = Cascade()
    assert alone.review(SEEN, draft(-9.0)) == Abstain(reason="no_calibrator")
    nothing = StudentDefaults(bundle_id="student")
    assert alone.for_student(nothing).review(SEEN, draft(-9.0)) == Abstain(reason="no_calibrator")
    answer = bound(tmp_path, threshold=None).review(SEEN, draft(-9.0))
    assert isinstance(answer, Abstain)
    assert (answer.reason, answer.threshold) == ("no_threshold", None)


def test_bundles_threshold_is_not_paired_with_another_calibrator(tmp_path: Path) -> None:
    other = fitted(tmp_path / "own.json", calibrator=Platt(slope=1.0, intercept=0.0))
    policy = bound(tmp_path, calibrator=str(other))
    assert policy.review(SEEN, draft(0.0)) == Abstain(reason="no_threshold", score=0.5)
    without = Cascade(calibrator=str(other)).for_student(StudentDefaults(bundle_id="s-1", cascade_threshold=0.3))
    assert without.review(SEEN, draft(0.0)) == Abstain(reason="no_threshold", score=0.5)


def test_bundles_threshold_counts_when_the_configured_calibrator_is_the_bundles_own(tmp_path: Path) -> None:
    same = fitted(tmp_path / "own.json", source="a copy")
    assert isinstance(bound(tmp_path, calibrator=str(same)).review(SEEN, draft(-9.0)), RouteDecision)


def test_calibrator_without_a_threshold_is_warned_about(tmp_path: Path) -> None:
    own = str(fitted(tmp_path / "own.json"))
    assert "no_threshold" in (Cascade(calibrator=own).warning or "")
    for complete in (Cascade(), Cascade(threshold=0.5), Cascade(calibrator=own, threshold=0.5)):
        assert complete.warning is None


@pytest.mark.parametrize("mean_logprob", [None, float("nan"), float("-inf")])
def test_cascade_abstains_when_the_draft_has_no_usable_logprobs(tmp_path: Path, mean_logprob: float | None) -> None:
    assert bound(tmp_path).review(SEEN, draft(mean_logprob)) == Abstain(reason="no_logprobs", threshold=0.3)


@pytest.mark.parametrize(
    ("student", "model", "fits"),
    [("s-1", "", True), ("s-0", "m1", True), ("", "", True), ("s-0", "m0", False), ("s-0", "", False)],
)
def test_calibrator_is_void_when_it_names_another_student(tmp_path: Path, student: str, model: str, fits: bool) -> None:
    own = fitted(tmp_path / "own.json", student=student, student_model_sha256=model)
    answer = bound(tmp_path, calibrator=str(own)).review(SEEN, draft(-9.0))
    if fits:
        assert isinstance(answer, RouteDecision)
    else:
        assert answer == Abstain(reason="other_student", threshold=0.3)


def test_empty_draft_is_escalated_without_logprobs_and_a_tool_call_is_not_empty(tmp_path: Path) -> None:
    policy = bound(tmp_path)
    empty = policy.review(SEEN, draft(None, text=" \n"))
    assert isinstance(empty, RouteDecision)
    assert (empty.reason, empty.score, empty.threshold) == ("empty_answer", 1.0, 0.3)
    assert policy.review(SEEN, draft(None, text="", finish_reason="tool_calls")) == Abstain(
        reason="no_logprobs", threshold=0.3
    )
    unknown = Draft(mean_logprob=0.0, finish_reason="stop")
    assert isinstance(policy.review(SEEN, unknown), Abstain)
    assert isinstance(bound(tmp_path, escalate_empty=False).review(SEEN, draft(0.0, text="")), Abstain)


def test_truncated_draft_is_escalated_only_on_request(tmp_path: Path) -> None:
    cut = draft(0.0, finish_reason="length")
    assert isinstance(bound(tmp_path).review(SEEN, cut), Abstain)
    answer = bound(tmp_path, escalate_truncated=True).review(SEEN, cut)
    assert isinstance(answer, RouteDecision)
    assert answer.reason == "truncated"


def test_calibrator_that_cannot_be_used_names_the_option_and_the_fix(tmp_path: Path) -> None:
    with pytest.raises(PolicyConfigError, match=r"^calibrator: .*missing\.json: cannot be read"):
        build("cascade", {"calibrator": str(tmp_path / "missing.json")})
    wrong = fitted(tmp_path / "wrong.json", raw="cosine x", aggregate="top1", k=1)
    with pytest.raises(PolicyConfigError, match="fitted on 'cosine x', but a cascade needs 'mean_logprob'"):
        build("cascade", {"calibrator": str(wrong)})
    with pytest.raises(PolicyConfigError, match="needs 'mean_logprob'"):
        build("cascade", {}, student=StudentDefaults(bundle_id="s", calibrator=wrong))
    with pytest.raises(PolicyConfigError, match=r"^threshold: "):
        build("cascade", {"threshold": 1.5})


@given(
    mean_logprob=st.none() | st.floats(),
    text=st.none() | st.text(max_size=5),
    finish_reason=st.sampled_from([None, "stop", "length", "tool_calls"]),
    threshold=st.none() | st.floats(0, 1),
)
def test_reviews_are_bounded_and_out_of_the_closed_set(
    tmp_path_factory: pytest.TempPathFactory,
    mean_logprob: float | None,
    text: str | None,
    finish_reason: str | None,
    threshold: float | None,
) -> None:
    folder = tmp_path_factory.getbasetemp()
    policy = bound(folder, threshold, escalate_truncated=True)
    answer = policy.review(SEEN, Draft(text=text, mean_logprob=mean_logprob, finish_reason=finish_reason))
    assert isinstance(answer, RouteDecision | Abstain)
    assert answer.reason in policy.reasons
    assert answer.score is None or 0.0 <= answer.score <= 1.0


@given(st.floats(-30, 0), st.floats(-30, 0), st.floats(0, 1))
def test_lower_logprob_never_goes_back_to_the_student(
    tmp_path_factory: pytest.TempPathFactory, one: float, other: float, threshold: float
) -> None:
    policy = bound(tmp_path_factory.getbasetemp(), threshold)
    low, high = (isinstance(policy.review(SEEN, draft(value)), RouteDecision) for value in sorted((one, other)))
    assert low >= high


def test_beginning_of_a_stream_is_neither_empty_nor_truncated(tmp_path: Path) -> None:
    policy = bound(tmp_path, escalate_truncated=True)
    prefix = Draft(text="", mean_logprob=-0.1, tokens=16, prefix=True)
    answer = policy.review(SEEN, prefix)
    assert isinstance(answer, Abstain)
    assert answer.reason == "confident"
    weak = policy.review(SEEN, Draft(text="a", mean_logprob=-3.0, tokens=16, prefix=True))
    assert isinstance(weak, RouteDecision)
    assert weak.reason == "low_confidence"


def test_window_is_what_the_options_say_and_none_without_tokens() -> None:
    assert Cascade().commit_window == CommitWindow(tokens=32, time_s=2.0)
    assert Cascade(commit_window_tokens=40, commit_window_s=0.5).commit_window == CommitWindow(tokens=40, time_s=0.5)
    assert Cascade(commit_window_tokens=0).commit_window is None
    bound = Cascade(commit_window_tokens=40).for_student(StudentDefaults(bundle_id="s"))
    assert bound.commit_window is not None
    assert bound.commit_window.tokens == 40


@pytest.mark.parametrize(
    ("option", "value"),
    [("commit_window_tokens", -1), ("commit_window_tokens", 5000), ("commit_window_s", 0), ("commit_window_s", 90)],
)
def test_window_out_of_bounds_is_refused_by_name(option: str, value: float) -> None:
    with pytest.raises(PolicyConfigError, match=rf"^{option}: "):
        build("cascade", {option: value})
