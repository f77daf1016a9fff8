"""The first policy that does not abstain decides, and no policy can fail a request."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from policies.adapter import adapt
from policies.base import Abstain, Policy, RequestFeatures, RouteDecision, Signal, Signals, escalate
from policies.chain import PolicyChain

SEEN = RequestFeatures(prompt_bytes=1, message_count=1, approx_prompt_tokens=1, requested_output_tokens=1)


class Scripted:
    reasons = frozenset({"because", "not_now"})

    def __init__(self, answer: Any, wants: Signal | None = None) -> None:
        self.answer = answer
        self.wants = wants
        self.asked = 0

    def needs(self, features: RequestFeatures) -> Signal | None:
        known = features.signals.unavailable or features.signals.prompt_tokens is not None
        return None if known else self.wants

    def decide(self, features: RequestFeatures) -> Any:
        self.asked += 1
        return self.answer(features) if callable(self.answer) else self.answer


def chain(*policies: Scripted, on_policy_error: Any = "teacher") -> PolicyChain:
    adapted: list[Policy] = [adapt(each, type_name=f"plugin:P{index}") for index, each in enumerate(policies)]
    return PolicyChain(adapted, version="v7", default_route="student", on_policy_error=on_policy_error)


async def never(signal: Signal, features: RequestFeatures) -> RequestFeatures:
    raise AssertionError("nothing was to be measured")


async def test_default_decides_when_every_policy_abstains() -> None:
    outcome = await chain(Scripted(None), Scripted(Abstain(reason="not_now", score=0.2))).evaluate(SEEN, never)
    assert (outcome.decision.route, outcome.decision.reason, outcome.decision.policy) == (
        "student",
        "default",
        "default",
    )
    assert [(vote.policy, vote.route, vote.reason) for vote in outcome.votes] == [
        ("p0", None, "abstained"), ("p1", None, "not_now"),
    ]  # fmt: skip


async def test_first_decision_ends_the_chain_and_carries_policy_and_version() -> None:
    last = Scripted(RouteDecision(route="student", reason="because"))
    outcome = await chain(Scripted(None), Scripted(escalate("because", score=0.9, threshold=0.5)), last).evaluate(
        SEEN, never
    )
    assert outcome.decision == RouteDecision(
        route="teacher", reason="because", score=0.9, threshold=0.5, policy="p1", version="v7"
    )
    assert last.asked == 0


async def test_every_vote_asks_all_without_changing_the_decision() -> None:
    policies = [Scripted(escalate("because")), Scripted(RouteDecision(route="student", reason="because"))]
    outcome = await chain(*policies).evaluate(SEEN, never, every_vote=True)
    assert outcome.decision.route == "teacher"
    assert [vote.route for vote in outcome.votes] == ["teacher", "student"]


def _raise(error: Exception) -> Callable[[RequestFeatures], None]:
    def decide(features: RequestFeatures) -> None:
        raise error

    return decide


@pytest.mark.parametrize(
    "answer",
    [
        _raise(RuntimeError("boom")), _raise(RecursionError()), "teacher", 3, True, Abstain,
        RouteDecision(route="both", reason="because"),  # type: ignore[arg-type]
        escalate("because", score=7.0), escalate("because", score=float("nan")), Abstain(reason="not_now", threshold=-1),
    ],
)  # fmt: skip
async def test_on_policy_error_decides_when_a_policy_raises_or_answers_nonsense(answer: Any) -> None:
    for route in ("teacher", "student"):
        outcome = await chain(Scripted(answer), on_policy_error=route).evaluate(SEEN, never)
        assert (outcome.decision.route, outcome.decision.reason, outcome.decision.policy) == (
            route,
            "policy_error",
            "p0",
        )
        assert [vote.reason for vote in outcome.votes] == ["policy_error"]


async def test_reason_that_was_not_declared_becomes_other() -> None:
    outcome = await chain(Scripted(escalate("user 4711"))).evaluate(SEEN, never)
    assert outcome.decision.reason == "other"
    assert outcome.votes[0].reason == "other"


async def test_signal_is_measured_once_and_kept_for_the_next_policy() -> None:
    measured: list[Signal] = []

    async def measure(signal: Signal, features: RequestFeatures) -> RequestFeatures:
        measured.append(signal)
        return msgspec.structs.replace(features, signals=Signals(prompt_tokens=12))

    policies = [Scripted(None, Signal.PROMPT_TOKENS), Scripted(None, Signal.PROMPT_TOKENS)]
    outcome = await chain(*policies).evaluate(SEEN, measure)
    assert measured == [Signal.PROMPT_TOKENS]
    assert outcome.features.signals.prompt_tokens == 12


async def test_policy_that_keeps_asking_is_a_policy_error() -> None:
    async def measure(signal: Signal, features: RequestFeatures) -> RequestFeatures:
        return features

    outcome = await chain(Scripted(None, Signal.PROMPT_TOKENS)).evaluate(SEEN, measure)
    assert outcome.decision.reason == "policy_error"


async def test_unknown_signal_is_a_policy_error() -> None:
    outcome = await chain(Scripted(None, "mind_reading")).evaluate(SEEN, never)  # type: ignore[arg-type]
    assert outcome.decision.reason == "policy_error"
