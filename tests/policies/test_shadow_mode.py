"""`mode = "shadow"`: a policy is asked, its vote is marked, and nothing depends on it."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from policies.base import Abstain, RequestFeatures, RouteDecision, Signal, escalate
from policies.budget import Budget
from policies.chain import PolicyChain, Vote
from policies.record import Draft
from policies.registry import PolicyConfigError, build_all
from policies.shadowing import SAVED_S, TIME_S, Shadowed, Shadows, deciding_artefacts

SEEN = RequestFeatures(prompt_bytes=1, message_count=1, approx_prompt_tokens=1, requested_output_tokens=1)
STUDENT = RouteDecision(route="student", reason="default", policy="default")
DRAFT = Draft(text="x", mean_logprob=-1.0, tokens=2)


class Learned:
    """Escalates everything, perhaps after a measurement."""

    name, reasons, artefact_sha256 = "learned", frozenset({"hard"}), "ab" * 32

    def __init__(self, *, wants: Signal | None = None, error: Exception | None = None) -> None:
        self.wants, self.error, self.asked = wants, error, 0

    def optional_signals(self) -> frozenset[Signal]:
        return frozenset()

    def needs(self, features: RequestFeatures) -> Signal | None:
        return None if features.signals.prompt_tokens is not None else self.wants

    def decide(self, features: RequestFeatures) -> RouteDecision | Abstain | None:
        self.asked += 1
        if self.error is not None:
            raise self.error
        return escalate("hard", score=0.9, threshold=0.5)


class Judge:
    """A reviewer that rejects everything."""

    name, reasons = "judge", frozenset({"weak"})

    def review(self, features: RequestFeatures, draft: Draft) -> RouteDecision:
        return escalate("weak", score=0.7, threshold=0.5)


class Clock:
    """Every look takes as long as was set."""

    def __init__(self, step_s: float = 0.0) -> None:
        self.now_s, self.step_s = 0.0, step_s

    def __call__(self) -> float:
        self.now_s += self.step_s
        return self.now_s


async def measured(signal: Signal, features: RequestFeatures) -> RequestFeatures:
    signals = msgspec.structs.replace(features.signals, prompt_tokens=7)
    return msgspec.structs.replace(features, signals=signals)


def shadows(*policies: Any, share: float = 0.1, clock: Clock | None = None, draw: float = 0.0) -> Shadows:
    seats = [Shadowed(policy, share) for policy in policies]
    return Shadows(seats, version="v1", clock=clock or Clock(), uniform=lambda: draw)


def chain(**parts: Any) -> PolicyChain:
    return PolicyChain([], version="v1", default_route="student", on_policy_error="teacher", **parts)


async def test_vote_in_shadow_is_marked_and_decides_nothing() -> None:
    learned = Learned()
    under_test = chain(shadows=shadows(learned))
    evaluation = await under_test.evaluate(SEEN, measured)
    assert (evaluation.decision.route, evaluation.votes, learned.asked) == ("student", (), 0)
    assert under_test.shadows is not None
    (vote,) = await under_test.shadows.ask(SEEN, evaluation.decision, measured)
    said = Vote(policy="learned", route="teacher", reason="hard", score=0.9, threshold=0.5, shadow=True)
    assert vote == msgspec.structs.replace(said, scored_by="ab" * 32)
    assert msgspec.json.decode(msgspec.json.encode(vote), type=Vote) == vote


def test_votes_of_deciding_policies_are_written_as_before() -> None:
    vote = Vote(policy="p", route=None, reason="abstained")
    assert b"shadow" not in msgspec.json.encode(vote)
    assert not vote.shadow


async def test_policy_that_raises_in_shadow_fails_nothing() -> None:
    found = await shadows(Learned(error=RuntimeError("planted")), Learned()).ask(SEEN, STUDENT, measured)
    assert [(vote.reason, vote.shadow) for vote in found] == [("policy_error", True), ("hard", True)]


@pytest.mark.parametrize(("draw", "votes"), [(0.09, 1), (0.11, 0)])
async def test_shadow_is_measured_for_only_on_a_share_of_the_requests(draw: float, votes: int) -> None:
    learned = Learned(wants=Signal.PROMPT_TOKENS)
    found = await shadows(learned, draw=draw).ask(SEEN, STUDENT, measured)
    assert (len(found), learned.asked) == (votes, votes)


async def test_shadow_uses_what_was_measured_anyway() -> None:
    learned = Learned(wants=Signal.PROMPT_TOKENS)
    features = await measured(Signal.PROMPT_TOKENS, SEEN)
    assert len(await shadows(learned, draw=0.99).ask(features, STUDENT, measured)) == 1


async def test_slow_shadow_is_asked_about_fewer_requests_when_its_time_is_used_up() -> None:
    learned = Learned()
    slow = shadows(learned, clock=Clock(step_s=0.010))
    for _ in range(1_000):
        await slow.ask(SEEN, STUDENT, measured)
    allowed = (SAVED_S + 1_000 * TIME_S) / 0.010
    assert allowed * 0.9 <= learned.asked <= allowed + 1


def test_draft_is_judged_in_shadow_and_stands() -> None:
    under_test = chain(shadows=shadows(Judge()))
    decision, votes = under_test.review(SEEN, DRAFT)
    assert decision is None
    assert [(vote.policy, vote.route, vote.shadow) for vote in votes] == [("judge", "teacher", True)]


def test_prefix_is_not_shown_to_a_shadow_without_a_window() -> None:
    _, votes = chain(shadows=shadows(Judge())).review(SEEN, msgspec.structs.replace(DRAFT, prefix=True))
    assert votes == ()


async def test_governor_in_shadow_says_what_it_would_do_and_does_not() -> None:
    found = await shadows(Budget(tokens_per_day=10)).ask(SEEN, escalate("weak", score=0.9), measured)
    assert [(vote.policy, vote.reason, vote.shadow) for vote in found] == [("budget", "no_price", True)]


def test_table_in_shadow_is_built_apart_and_may_have_the_name_of_one_that_decides() -> None:
    built = build_all(
        [
            {"type": "cascade", "threshold": 0.4},
            {"type": "cascade", "mode": "shadow", "threshold": 0.3},
            {"type": "long_context", "mode": "decide"},
            {"type": "budget", "mode": "shadow", "tokens_per_day": 5, "shadow_measure_share": 0.5},
        ]
    )
    assert [policy.name for policy in built.policies] == ["long_context"]
    assert [policy.name for policy in built.reviewers] == ["cascade"]
    assert built.governors == []
    assert [(each.policy.name, each.measure_share) for each in built.shadows] == [("cascade", 0.1), ("budget", 0.5)]


@pytest.mark.parametrize(
    ("tables", "message"),
    [
        ([{"type": "cascade", "mode": "watch"}], "0.mode: must be 'decide' or 'shadow'"),
        ([{"type": "cascade", "shadow_measure_share": 0.5}], "0.shadow_measure_share: has no effect"),
        (
            [{"type": "cascade", "mode": "shadow", "shadow_measure_share": 2}],
            "0.shadow_measure_share: must be a number",
        ),
        ([{"type": "cascade", "mode": "shadow"}] * 2, "1.type: a policy named 'cascade' is already in shadow"),
    ],
)
def test_table_is_refused_with_its_key_when_its_mode_makes_no_sense(tables: list[dict[str, Any]], message: str) -> None:
    with pytest.raises(PolicyConfigError) as refused:
        build_all(tables)
    assert str(refused.value).startswith(message)


def test_artefacts_are_told_apart_by_who_has_a_say() -> None:
    in_shadow = chain(shadows=shadows(Learned()))
    assert in_shadow.shadows is not None
    assert (in_shadow.shadows.artefacts, deciding_artefacts(in_shadow)) == ({"learned": "ab" * 32}, {})
    deciding = PolicyChain([Learned()], version="v1", default_route="student", on_policy_error="teacher")
    assert deciding_artefacts(deciding) == {"learned": "ab" * 32}
