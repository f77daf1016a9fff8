"""What holds for governors whatever the request, the price and the draw."""

from __future__ import annotations

import msgspec
from hypothesis import example, given, settings
from hypothesis import strategies as st

from policies.base import Abstain, Lot, Quote, RequestFeatures, RouteDecision, Signals
from policies.budget import Budget
from policies.chain import CHAIN_REASONS, Vote
from policies.explore import EXCLUDED, Explore
from policies.forecast import DAY_S
from policies.governing import Governors
from policies.pacing import PacingState, Takings
from policies.record import Draft
from tests.effort import examples

unit = st.floats(0, 1)
probabilities = st.floats(0, 0.5)
quotes = st.builds(Quote, price=st.floats(0, 1e8), cost=st.floats(0, 1e4), tokens=st.floats(0, 1e6))
lots = st.builds(
    Lot,
    draw=st.floats(0, 1, exclude_max=True),
    share=unit,
    reviewed=st.booleans(),
    excluded=st.none() | st.sampled_from(sorted(EXCLUDED)),
)
requests = st.builds(
    lambda quote, lot: RequestFeatures(
        prompt_bytes=1, message_count=1, approx_prompt_tokens=1, requested_output_tokens=1,
        signals=Signals(quote=quote, lot=lot),
    ),
    quotes | st.just(msgspec.UNSET),
    lots | st.just(msgspec.UNSET),
)  # fmt: skip
decisions = st.builds(
    RouteDecision,
    route=st.sampled_from(["student", "teacher"]),
    reason=st.just("any"),
    score=st.none() | unit,
    threshold=st.none() | unit,
    student_capable=st.booleans(),
)
drafts = st.none() | st.just(Draft(text="x", tokens=1))


@settings(deadline=None)
@given(requests, decisions, drafts, probabilities, probabilities)
def test_governors_answer_within_bounds_the_same_each_time_and_after_the_log(
    features: RequestFeatures, decision: RouteDecision, draft: Draft | None, up: float, down: float
) -> None:
    again = msgspec.json.decode(msgspec.json.encode(features), type=RequestFeatures)
    for governor in (Budget(tokens_per_day=1), Explore(to_teacher=up, to_student=down)):
        answer = governor.reconsider(features, decision, draft)
        assert isinstance(answer, RouteDecision | Abstain)
        assert answer.reason in governor.reasons
        assert answer.reason not in CHAIN_REASONS
        assert governor.reconsider(again, decision, draft) == answer
        for value in (answer.score, answer.threshold):
            assert value is None or 0.0 <= value <= 1.0
        if isinstance(answer, RouteDecision):
            assert decision.student_capable
            assert 0.0 < answer.propensity <= 1.0


@settings(deadline=None)
@given(requests, decisions, st.floats(0, 1e8), st.floats(0, 1e8))
def test_higher_price_never_gives_the_teacher_more(
    features: RequestFeatures, decision: RouteDecision, one: float, other: float
) -> None:
    routes = []
    for price in sorted((one, other)):
        quote = Quote(price=price, cost=0.5, tokens=300.0)
        priced = msgspec.structs.replace(features, signals=Signals(quote=quote))
        answer = Budget(tokens_per_day=1).reconsider(priced, decision, None)
        routes.append(answer.route if isinstance(answer, RouteDecision) else decision.route)
    assert routes != ["student", "teacher"]


@settings(deadline=None)
@given(requests, decisions, probabilities, probabilities)
def test_both_outcomes_of_a_lot_have_probabilities_that_add_up(
    features: RequestFeatures, decision: RouteDecision, up: float, down: float
) -> None:
    lot = features.signals.lot
    if not isinstance(lot, Lot):
        return
    governors = Governors([Explore(to_teacher=up, to_student=down)], version="v1")
    found = {}
    for draw in (0.0, 1.0 - 2**-53):
        signals = Signals(lot=msgspec.structs.replace(lot, draw=draw))
        votes: list[Vote] = []
        final = governors.reconsider(msgspec.structs.replace(features, signals=signals), decision, votes)
        found[final.route] = final.propensity
        assert len(votes) == 1
    assert sum(found.values()) == 1.0 or abs(sum(found.values()) - 1.0) < 1e-12


@settings(deadline=None, max_examples=examples(60))
@example([(0.0, None, 2.2e-311, 0.0), (300.0, None, 0.0, 0.0)], 1.0)  # hardly anything has come yet
@given(
    st.lists(st.tuples(st.floats(0, 4 * DAY_S), st.none() | unit, st.floats(0, 50), st.floats(0, 100)), max_size=40),
    st.floats(0.1, 1e4),
)
def test_state_stays_within_bounds_whatever_happens(
    events: list[tuple[float, float | None, float, float]], limit: float
) -> None:
    state = PacingState()
    for second, gain, cost, spent in sorted(events, key=lambda event: event[0]):
        takings, now_s = Takings(), 20_000 * DAY_S + second
        takings.want(now_s, gain, cost)
        takings.spend(now_s, spent, cost)
        state.take(takings, limit=limit, now_s=now_s, member="a")
        assert 0.0 <= state.share <= 1.0
        assert state.price >= 0.0
        assert state.spent >= 0.0
        assert state.foreseen(now_s) >= state.spent
        assert msgspec.msgpack.decode(msgspec.msgpack.encode(state), type=PacingState) == state
