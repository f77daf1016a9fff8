"""What holds for the policies whatever the request: determinism, bounds, monotonicity, and replay without a model."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from policies.adapter import adapt
from policies.base import Abstain, Chunk, Policy, RequestFeatures, RouteDecision, Signal, Signals
from policies.chain import CHAIN_REASONS, Evaluation, PolicyChain
from policies.long_context import LongContext
from policies.long_reasoning import LongReasoning
from policies.retrieval_confidence import RetrievalConfidence

POLICIES: tuple[Policy, ...] = (
    LongContext(),
    RetrievalConfidence(),
    RetrievalConfidence(compute=True, aggregate="margin"),
    RetrievalConfidence(compute=True, aggregate="mean_k", escalate_below=0.9),
    LongReasoning(),
    LongReasoning(embeddings=True, unsure_below=0.5, unsure_above=0.5),
)
DIMENSIONS = 384

texts = st.one_of(
    st.text(), st.text(alphabet=st.characters(), max_size=3_000), st.sampled_from(["\ud800", "a\udfff?", "\x00"])
)
any_float = st.floats(allow_nan=True, allow_infinity=True)
chunks = st.lists(st.builds(Chunk, text=texts, score=st.none() | any_float | st.floats(0, 1)), max_size=5).map(tuple)
signals = st.builds(
    Signals,
    prompt_tokens=st.none() | st.integers(0, 100_000),
    chunk_similarities=st.none() | st.lists(st.floats(-1, 1), max_size=5).map(tuple),
    prompt_embedding=st.none() | st.floats(-1, 1).map(lambda value: (value,) * DIMENSIONS),
    unavailable=st.lists(st.sampled_from(Signal), unique=True).map(tuple),
)
requests = st.builds(
    RequestFeatures,
    prompt_bytes=st.integers(0, 10**7),
    message_count=st.integers(0, 500),
    approx_prompt_tokens=st.integers(0, 10**7),
    requested_output_tokens=st.integers(0, 200_000),
    student_window_tokens=st.none() | st.integers(1, 200_000),
    last_user_turn=texts,
    chunks=chunks,
    retrieval_attempted=st.booleans(),
    retrieval_confidence=st.none() | st.floats(0, 1),
    reasoning_effort=st.none()
    | st.sampled_from(["none", "minimal", "low", "medium", "high", "xhigh"])
    | st.text(max_size=9),
    has_images=st.booleans(),
    signals=signals,
)


@settings(deadline=None)
@given(requests)
def test_answers_are_deterministic_bounded_and_out_of_the_closed_set(features: RequestFeatures) -> None:
    for policy in POLICIES:
        answer = policy.decide(features)
        assert isinstance(answer, RouteDecision | Abstain)
        assert answer.reason in policy.reasons
        assert answer.reason not in CHAIN_REASONS
        for value in (answer.score, answer.threshold):
            assert value is None or 0.0 <= value <= 1.0
        assert policy.decide(features) == answer
        needed = policy.needs(features)
        assert needed is None or needed not in features.signals.unavailable
        if isinstance(answer, RouteDecision) and answer.score is not None and answer.threshold is not None:
            assert answer.score > answer.threshold or answer.score == answer.threshold == 1.0


def route(answer: Any) -> str:
    return answer.route if isinstance(answer, RouteDecision) else "student"


@settings(deadline=None)
@given(st.integers(0, 60_000), st.integers(0, 60_000), st.booleans(), st.floats(1, 8), st.integers(1, 20_000))
def test_longer_prompt_never_goes_back_to_the_student(
    one: int, other: int, counted: bool, bytes_per_token: float, window: int
) -> None:
    policy = LongContext()
    answers = []
    for prompt_bytes in sorted((one, other)):
        tokens = int(prompt_bytes / bytes_per_token)
        features = RequestFeatures(
            prompt_bytes=prompt_bytes,
            message_count=2,
            approx_prompt_tokens=-(-prompt_bytes // 4),
            requested_output_tokens=100,
            student_window_tokens=window,
        )
        if policy.needs(features) is Signal.PROMPT_TOKENS:
            measured = Signals(prompt_tokens=tokens) if counted else Signals(unavailable=(Signal.PROMPT_TOKENS,))
            features = msgspec.structs.replace(features, signals=measured)
        answers.append(route(policy.decide(features)))
    assert answers != ["teacher", "student"]


@given(st.floats(0, 1), st.floats(0, 1), st.floats(0, 1))
def test_lower_confidence_never_goes_back_to_the_student(one: float, other: float, escalate_below: float) -> None:
    policy = RetrievalConfidence(escalate_below=escalate_below)
    for make in (
        lambda value: {"retrieval_confidence": value},
        lambda value: {"chunks": (Chunk(text="x", score=value), Chunk(text="y", score=0.0))},
    ):
        low, high = (
            policy.decide(
                RequestFeatures(
                    prompt_bytes=1, message_count=1, approx_prompt_tokens=1, requested_output_tokens=1, **make(value)
                )
            )
            for value in sorted((one, other))
        )
        assert (route(low), route(high)) != ("student", "teacher")


@given(st.lists(st.floats(-1, 1), min_size=1, max_size=6), st.floats(0, 2))
def test_higher_similarities_never_make_the_confidence_lower(cosines: list[float], gain: float) -> None:
    policy = RetrievalConfidence(compute=True)

    def score(values: list[float]) -> float:
        answer = policy.decide(
            RequestFeatures(
                prompt_bytes=1, message_count=1, approx_prompt_tokens=1, requested_output_tokens=1,
                chunks=(Chunk(text="x"),), signals=Signals(chunk_similarities=tuple(values)),
            )
        )  # fmt: skip
        assert isinstance(answer, RouteDecision | Abstain)
        assert answer.score is not None
        return answer.score

    assert score([value + gain for value in cosines]) <= score(cosines)


class Erratic:
    """Raises, or answers anything at all."""

    def __init__(self, answer: Any) -> None:
        self._answer = answer

    def needs(self, features: RequestFeatures) -> Any:
        return self._answer if isinstance(self._answer, str) else None

    def decide(self, features: RequestFeatures) -> Any:
        if isinstance(self._answer, Exception):
            raise self._answer
        return self._answer


answers = st.one_of(
    st.none(),
    st.text(max_size=5),
    st.integers(),
    st.sampled_from([ValueError("x"), RuntimeError(), KeyError("k"), RecursionError(), StopIteration(), MemoryError()]),
    st.builds(
        RouteDecision,
        route=st.sampled_from(["student", "teacher", "nobody"]),
        reason=st.text(max_size=9),
        score=any_float,
    ),
    st.builds(Abstain, reason=st.text(max_size=9), threshold=st.none() | any_float),
)


@settings(deadline=None)
@given(requests, st.lists(answers, max_size=4), st.booleans())
def test_chain_never_raises_whatever_its_policies_do(features: RequestFeatures, script: list[Any], every: bool) -> None:
    async def measure(signal: Signal, seen: RequestFeatures) -> RequestFeatures:
        raise OSError("the provider broke")

    policies = [adapt(Erratic(answer), type_name=f"plugin:E{index}") for index, answer in enumerate(script)]
    chain = PolicyChain([*policies, *POLICIES], version="1", default_route="student", on_policy_error="teacher")
    outcome = asyncio.run(chain.evaluate(features, measure, every_vote=every))
    assert outcome.decision.route in ("student", "teacher")
    for vote in outcome.votes:
        declared = next(policy for policy in chain.policies if policy.name == vote.policy).reasons
        assert vote.reason in declared | CHAIN_REASONS


plain_texts = st.text(alphabet=st.characters(codec="utf-8"), max_size=2_000)
finite = st.floats(allow_nan=False, allow_infinity=False)
recordable = st.builds(
    RequestFeatures,
    prompt_bytes=st.integers(0, 30_000),
    message_count=st.integers(1, 9),
    approx_prompt_tokens=st.integers(0, 9_000),
    requested_output_tokens=st.integers(0, 2_000),
    student_window_tokens=st.none() | st.integers(1, 9_000),
    last_user_turn=plain_texts,
    chunks=st.lists(st.builds(Chunk, text=plain_texts, score=st.none() | finite), max_size=3).map(tuple),
    retrieval_attempted=st.booleans(),
    retrieval_confidence=st.none() | st.floats(0, 1),
    reasoning_effort=st.none() | st.sampled_from(["low", "medium", "high"]),
)


@settings(deadline=None)
@given(recordable, st.integers(0, 30_000), st.floats(-1, 1), st.booleans())
def test_recorded_features_replay_to_the_same_decision_without_a_model(
    features: RequestFeatures, tokens: int, value: float, available: bool
) -> None:
    async def measure(signal: Signal, seen: RequestFeatures) -> RequestFeatures:
        taken = {
            Signal.PROMPT_TOKENS: tokens,
            Signal.CHUNK_SIMILARITIES: (value, value / 2),
            Signal.PROMPT_EMBEDDING: (value / 20,) * DIMENSIONS,
        }
        changes: dict[str, Any] = (
            {signal.value: taken[signal]} if available else {"unavailable": (*seen.signals.unavailable, signal)}
        )
        return msgspec.structs.replace(seen, signals=msgspec.structs.replace(seen.signals, **changes))

    async def fails(signal: Signal, seen: RequestFeatures) -> RequestFeatures:
        raise AssertionError(f"replay asked for {signal}")

    def chain() -> PolicyChain:
        return PolicyChain(
            [
                LongContext(),
                RetrievalConfidence(compute=True, aggregate="margin"),
                LongReasoning(embeddings=True, unsure_below=0.5, unsure_above=0.5),
            ],
            version="1", default_route="student", on_policy_error="teacher",
        )  # fmt: skip

    live: Evaluation = asyncio.run(chain().evaluate(features, measure))
    recorded = msgspec.json.decode(msgspec.json.encode(live.features), type=RequestFeatures)
    assert recorded == live.features
    replayed = asyncio.run(chain().evaluate(recorded, fails))
    assert replayed.decision == live.decision
    assert replayed.votes == live.votes
