"""Reviewers stand among the policies, are asked about drafts only, and cannot fail a request."""

from __future__ import annotations

import sys
import types
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from policies.adapter import adapt
from policies.base import (
    Abstain,
    Policy,
    PolicyConfigError,
    RequestFeatures,
    Reviewer,
    RouteDecision,
    StudentDefaults,
    escalate,
)
from policies.chain import PolicyChain
from policies.record import Draft
from policies.registry import build, build_all
from policies.window import CommitWindow, LateAlarm, Progress

SEEN = RequestFeatures(prompt_bytes=1, message_count=1, approx_prompt_tokens=1, requested_output_tokens=1)
DRAFT = Draft(text="yes", mean_logprob=-0.1, tokens=2, finish_reason="stop")


class Reviews:
    reasons = frozenset({"because", "not_now"})

    def __init__(self, answer: Any = None) -> None:
        self.answer = answer
        self.seen: list[Draft] = []

    def review(self, features: RequestFeatures, draft: Draft) -> Any:
        self.seen.append(draft)
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


class Both(Reviews):
    def decide(self, features: RequestFeatures) -> None:
        return None


class KnowsTheStudent(Reviews):
    def for_student(self, student: StudentDefaults) -> Reviews:
        return Reviews(escalate(student.bundle_id, score=1.0, threshold=student.cascade_threshold))


@pytest.fixture
def third_party() -> Iterator[None]:
    module = types.ModuleType("some_reviewers")
    for each in (Reviews, Both, KnowsTheStudent):
        setattr(module, each.__name__, each)
    sys.modules["some_reviewers"] = module
    yield
    del sys.modules["some_reviewers"]


def chain(*reviewers: Reviews, on_policy_error: Any = "teacher") -> PolicyChain:
    adapted: list[Any] = [adapt(each, type_name=f"plugin:R{index}") for index, each in enumerate(reviewers)]
    return PolicyChain(
        [], reviewers=adapted, version="v7", default_route="student", on_policy_error=on_policy_error
    )  # fmt: skip


def test_class_with_nothing_but_review_becomes_a_reviewer_and_no_policy(third_party: None) -> None:
    policies, reviewers, *_ = build_all([{"type": "long_context"}, {"type": "some_reviewers:Reviews"}])
    assert [each.name for each in policies] == ["long_context"]
    assert [(each.name, each.reasons) for each in reviewers] == [("reviews", {"because", "not_now"})]
    assert not isinstance(build("some_reviewers:Reviews", {}), Policy)


def test_class_with_both_methods_is_asked_at_both_times(third_party: None) -> None:
    policies, reviewers, *_ = build_all([{"type": "some_reviewers:Both"}])
    assert policies == reviewers
    assert isinstance(policies[0], Policy)
    assert isinstance(policies[0], Reviewer)


def test_reviewer_and_policy_of_one_name_are_refused(third_party: None) -> None:
    with pytest.raises(PolicyConfigError, match=r"^1\.type: a policy named 'reviews' is already"):
        build_all([{"type": "some_reviewers:Reviews"}, {"type": "some_reviewers:Reviews"}])


def test_review_that_is_a_coroutine_is_refused() -> None:
    class Slow:
        async def review(self, features: RequestFeatures, draft: Draft) -> None: ...

    with pytest.raises(PolicyConfigError, match="review must be a plain method"):
        adapt(Slow(), type_name="plugin:Slow")


def test_policy_takes_over_what_the_student_brings_when_it_asks_for_it(third_party: None) -> None:
    student = StudentDefaults(bundle_id="s1", cascade_threshold=0.25)
    table = {"type": "some_reviewers:KnowsTheStudent"}
    (reviewer,) = build_all([table], student=student).reviewers
    assert reviewer.review(SEEN, DRAFT) == escalate("s1", score=1.0, threshold=0.25)
    assert build_all([table]).reviewers[0].review(SEEN, DRAFT) is None


def test_review_abstains_when_every_reviewer_does() -> None:
    reviewers = [Reviews(None), Reviews(Abstain(reason="not_now", score=0.2, threshold=0.5))]
    decision, votes = chain(*reviewers).review(SEEN, DRAFT)
    assert decision is None
    assert [(vote.policy, vote.route, vote.reason, vote.score) for vote in votes] == [
        ("r0", None, "abstained", None),
        ("r1", None, "not_now", 0.2),
    ]
    assert [each.seen for each in reviewers] == [[DRAFT], [DRAFT]]
    assert chain().review(SEEN, DRAFT) == (None, ())


def test_first_review_that_decides_ends_it_and_carries_policy_and_version() -> None:
    last = Reviews(RouteDecision(route="student", reason="because"))
    decision, votes = chain(Reviews(), Reviews(escalate("because", score=0.9, threshold=0.5)), last).review(SEEN, DRAFT)
    assert decision == RouteDecision(
        route="teacher", reason="because", score=0.9, threshold=0.5, policy="r1", version="v7"
    )
    assert [vote.policy for vote in votes] == ["r0", "r1"]
    assert last.seen == []


@pytest.mark.parametrize(
    "answer", [RuntimeError("boom"), RecursionError(), "teacher", True, escalate("because", score=7.0)]
)
def test_on_policy_error_decides_when_a_reviewer_raises_or_answers_nonsense(answer: Any) -> None:
    for route in ("teacher", "student"):
        decision, votes = chain(Reviews(answer), on_policy_error=route).review(SEEN, DRAFT)
        assert decision is not None
        assert (decision.route, decision.reason, decision.policy) == (route, "policy_error", "r0")
        assert [vote.reason for vote in votes] == ["policy_error"]


def test_reason_that_a_reviewer_has_not_declared_becomes_other() -> None:
    decision, votes = chain(Reviews(escalate("user 4711"))).review(SEEN, DRAFT)
    assert decision is not None
    assert decision.reason == votes[0].reason == "other"


class ReviewsPrefixes(Reviews):
    def __init__(self, tokens: int, time_s: float, *answers: Any) -> None:
        super().__init__(*answers)
        self.commit_window = CommitWindow(tokens=tokens, time_s=time_s)


def test_chain_has_the_widest_of_its_reviewers_windows_and_none_without_one() -> None:
    both = chain(Reviews(), ReviewsPrefixes(8, 3.0), ReviewsPrefixes(32, 1.0))
    assert both.commit_window == CommitWindow(tokens=32, time_s=3.0)
    assert chain(Reviews()).commit_window is None


def test_prefix_is_reviewed_only_by_those_who_have_a_window() -> None:
    first, second = Reviews(escalate("because")), ReviewsPrefixes(8, 3.0, None)
    prefix = msgspec.structs.replace(DRAFT, prefix=True, finish_reason=None)
    decision, votes = chain(first, second).review(SEEN, prefix)
    assert (decision, [vote.policy for vote in votes]) == (None, ["r1"])
    assert (first.seen, second.seen) == ([], [prefix])
    assert chain(first, second).review(SEEN, DRAFT)[0] is not None


@pytest.mark.parametrize("window", [4, (4, 2.0), CommitWindow(tokens=0, time_s=1.0), CommitWindow(tokens=4, time_s=0)])
def test_window_that_is_none_is_refused(window: Any) -> None:
    reviewer = Reviews()
    reviewer.commit_window = window  # type: ignore[attr-defined]
    with pytest.raises(PolicyConfigError, match="commit_window must be"):
        adapt(reviewer, type_name="plugin:R")


def test_late_alarm_needs_somebody_who_rings_it() -> None:
    reviewer: Any = Reviews()
    reviewer.commit_window = CommitWindow(tokens=4, time_s=1.0, late_alarm=LateAlarm(action="mark", tokens=4))
    with pytest.raises(PolicyConfigError, match="late_alarm"):
        adapt(reviewer, type_name="plugin:R")

    class Bare:
        """Without a name: the rest is added."""

        commit_window = reviewer.commit_window

        def review(self, features: RequestFeatures, draft: Draft) -> None:
            return None

        def alarm(self, features: RequestFeatures, progress: Progress) -> RouteDecision:
            return escalate("late")

    adapted: Any = Bare()
    rang = chain(adapted).alarm(SEEN, Progress(tokens=9, recent_tokens=4, recent_mean_logprob=-1.0))
    assert rang is not None and (rang.policy, rang.reason) == ("r0", "other")


def test_reviewer_that_measures_without_all_of_the_interface_is_refused() -> None:
    class Half(Reviews):
        name = "half"

        def needs_draft(self, features: RequestFeatures, draft: Draft) -> None:
            return None

    with pytest.raises(PolicyConfigError, match="has needs_draft, and a reviewer that measures drafts needs"):
        adapt(Half(), type_name="plugin:Half")
