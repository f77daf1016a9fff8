"""Documents on columns decide like the policies themselves, record by record."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import Literal

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policies.base import Chunk, Policy, RequestFeatures, Reviewer, Route, RouteDecision, Signals, escalate
from policies.calibration import (
    MEAN_LOGPROB,
    Calibrator,
    CalibratorArtefact,
    Clipped,
    Identity,
    Isotonic,
    Platt,
    PrefixCurve,
)
from policies.cascade import Cascade
from policies.chain import PolicyChain, Vote
from policies.draft_signals import PREFIX_TOKENS, DraftSignals
from policies.drafts.score import NO_SCORE, DraftScore
from policies.drafts.validity import CHECKS
from policies.long_context import LongContext
from policies.long_reasoning import LongReasoning
from policies.record import DecisionRecord, Draft, Held, LateEnding, Usage, encode
from policies.replay.columns import Columns
from policies.replay.evaluate import REVIEW_UNKNOWN, Verdicts, evaluate, vectorisable
from policies.replay.extract import ColumnsBuilder
from policies.replay.replay import scorer_of
from policies.replay.scalar import evaluate_records
from policies.retrieval_confidence import RetrievalConfidence
from tests.effort import examples
from tests.traffic_records import decision, decision_id

TEXTS = (
    "",
    "  ",
    "hi",
    "Prove that each prime above 2 is odd, step by step.",
    "Calculate 12 * 7, then 3 less.",
    "List names",
)
CALIBRATORS: tuple[Calibrator, ...] = (
    Identity(),
    Clipped(low=0.1, high=0.9),
    Platt(slope=5.0, intercept=-2.0),
    Isotonic(points=((0.1, 0.0), (0.4, 0.5), (0.45, 0.5), (0.9, 1.0))),
)


def probability(dice: Random) -> float:
    """A multiple of 0.05: these fall on thresholds."""
    return dice.randint(0, 20) / 20


def score(dice: Random) -> float | None:
    return dice.choice((None, probability(dice), probability(dice), dice.random(), -1.0, 12.25))


def features(dice: Random) -> RequestFeatures:
    prompt_bytes = dice.choice((0, 100, 300, 1000, dice.randint(0, 5000)))
    similarities = tuple(probability(dice) for _ in range(dice.randint(0, 3)))
    return RequestFeatures(
        prompt_bytes=prompt_bytes,
        message_count=dice.randint(1, 20),
        approx_prompt_tokens=prompt_bytes // 4,
        requested_output_tokens=dice.choice((1, 100, 900, 1100)),
        student_window_tokens=dice.choice((None, 0, 300, 1000, 4000)),
        last_user_turn=dice.choice(TEXTS),
        chunks=tuple(Chunk(text="", score=score(dice)) for _ in range(dice.randint(0, 4))),
        retrieval_attempted=dice.random() < 0.5,
        retrieval_confidence=score(dice) if dice.random() < 0.3 else None,
        reasoning_effort=dice.choice((None, None, None, "low", " HIGH", "medium")),
        has_images=dice.random() < 0.2,
        signals=Signals(
            prompt_tokens=dice.choice((None, dice.randint(0, 3000))),
            chunk_similarities=dice.choice((None, similarities)),
        ),
    )


def record(dice: Random, number: int) -> DecisionRecord:
    route: Route = dice.choice(("student", "teacher"))
    logprob = dice.choice((None, 0.0, -0.1, -0.4, -0.5, -3.0))
    text, finish = dice.choice(("yes", "yes", "", " \n")), dice.choice(("stop", "length", "tool_calls", None))
    tokens = dice.choice((1, 8, 16, 200))
    failed = tuple(name for name in CHECKS if dice.random() < 0.15)
    agreement = dice.choice((None, 0.0, 0.5, 1.0, dice.random()))
    means = [dice.choice((0.0, -0.1, -0.4, -0.5, -3.0)) for size in PREFIX_TOKENS if size < tokens]
    signals = DraftSignals(
        mean_logprob=logprob,
        failed=failed,
        agreement=agreement,
        prefix_means=tuple(means) if dice.random() < 0.6 else (),
    )
    draft = Draft(
        text=text,
        mean_logprob=logprob,
        tokens=tokens,
        finish_reason=finish,
        prefix=dice.random() < 0.3,
        signals=dice.choice((None, signals, msgspec.structs.replace(signals, failed=None))),
    )
    return decision(
        number,
        features=features(dice),
        decision=RouteDecision(
            route=route, reason="x", policy=dice.choice(("default", "default", "default", "request"))
        ),
        route=route,
        stream=dice.random() < 0.5,
        draft=draft if dice.random() < 0.5 else None,
        completion=text,
        mean_logprob=logprob,
        finish_reason=finish,
        usage=Usage(prompt_tokens=10, completion_tokens=tokens),
        endpoint=dice.choice(("/v1/chat/completions", "/v1/chat/completions", "/v1/completions")),
    )


def retrieval(dice: Random) -> RetrievalConfidence:
    policy = RetrievalConfidence(
        escalate_below=probability(dice),
        aggregate=dice.choice(("top1", "mean_k", "margin")),
        k=dice.randint(1, 4),
        min_chunks=dice.randint(1, 3),
        escalate_when_empty=dice.random() < 0.5,
    ).model_copy(update={"compute": dice.random() < 0.5})
    policy._scores, policy._similarities = dice.choice(CALIBRATORS), dice.choice(CALIBRATORS)
    return policy


def cascade(dice: Random) -> Cascade:
    policy = Cascade(
        threshold=dice.choice((None, probability(dice), probability(dice))),
        escalate_empty=dice.random() < 0.5,
        escalate_truncated=dice.choice((False, True, "unasked")),
        escalate_refused=dice.random() < 0.5,
        escalate_broken_call=dice.random() < 0.5,
        escalate_broken_json=dice.random() < 0.5,
        escalate_other_form=dice.random() < 0.5,
        second_sample_band=dice.choice((None, (0.2, 0.6), (0.0, 1.0))),
        commit_window_tokens=dice.choice((0, 8, 16)),
        extend_band=0.0,
    )
    scores = (NO_SCORE, *(DraftScore(calibrator=fitted(each), silent=None) for each in CALIBRATORS))
    policy._score = dice.choice(scores)
    if dice.random() < 0.1:
        policy._score = policy._score._replace(silent="other_student")
    return policy


def fitted(calibrator: Calibrator) -> CalibratorArtefact:
    curves = [PrefixCurve(tokens=size, calibrator=each, n=1, n_sufficient=1, ece=0.0)
              for size, each in zip((4, 8, 32), CALIBRATORS, strict=False)]  # fmt: skip
    return CalibratorArtefact(
        calibrator=calibrator, raw=MEAN_LOGPROB, source="test", n=1, n_sufficient=1, ece=0.0, reliability=(),
        prefixes=tuple(curves) if calibrator is not CALIBRATORS[0] else msgspec.UNSET,
    )  # fmt: skip


SHIPPED = LongReasoning()


def chain(dice: Random) -> PolicyChain:
    policies: list[Policy] = [
        LongContext(margin_tokens=dice.choice((0, 32)), estimate_factor=dice.choice((0.5, 1.15, 3.0))),
        retrieval(dice),
        SHIPPED,
    ]
    dice.shuffle(policies)
    reviewers: list[Reviewer] = [cascade(dice)] if dice.random() < 0.7 else []
    return chain_of(policies[: dice.randint(0, 3)], reviewers, dice.choice(("student", "teacher")))


def chain_of(policies: Sequence[Policy], reviewers: Sequence[Reviewer] = (), default: Route = "student") -> PolicyChain:
    return PolicyChain(policies, reviewers=reviewers, version="test", default_route=default, on_policy_error="teacher")


def columns_of(log: Sequence[DecisionRecord], scorer: PolicyChain | None = None) -> Columns:
    builder = ColumnsBuilder(scorer_of(scorer) if scorer is not None else None)
    for record in log:
        builder.add(encode(record))
    return builder.build()


def said(verdicts: Verdicts) -> list[tuple[int, bool, bool, bool, str]]:
    return [
        (int(first), bool(reviewed), bool(known), bool(escalated), verdicts.reasons[reason])
        for first, reviewed, known, escalated, reason in zip(
            verdicts.first, verdicts.reviewed, verdicts.known, verdicts.escalated, verdicts.reason, strict=True
        )
    ]


@settings(max_examples=examples(60), deadline=None)
@given(seed=st.integers(0, 2**32))
def test_columns_decide_like_the_policies_when_everything_is_random(seed: int) -> None:
    dice = Random(seed)
    log = [record(dice, number) for number in range(60)]
    columns = columns_of(log, chain_of([SHIPPED]))
    for _ in range(4):
        candidate, logged = chain(dice), dice.choice((None, chain(dice)))
        assert not vectorisable(candidate)
        assert said(evaluate(candidate, columns, logged)) == said(evaluate_records(candidate, columns, log, logged))


def test_recorded_score_replaces_the_text_when_it_was_not_kept() -> None:
    vote = Vote(policy="long_reasoning", route=None, reason="single_step", score=0.61, threshold=0.7)
    bare = RequestFeatures(prompt_bytes=10, message_count=1, approx_prompt_tokens=3, requested_output_tokens=1)
    columns = columns_of(
        [decision(1, features=bare, votes=(vote,), capture="metadata"), decision(2, features=bare, capture="metadata")]
    )
    verdicts = evaluate(chain_of([LongReasoning(escalate_above=0.6)]), columns)
    assert [verdicts.reasons[each] for each in verdicts.reason] == ["long_reasoning.multi_step", "default"]
    assert verdicts.blind.tolist() == [False, True]  # of the second nothing is known: it may have had a text


def test_recorded_score_is_not_trusted_when_it_is_of_other_weights() -> None:
    vote = Vote(policy="long_reasoning", route=None, reason="single_step", score=0.123, threshold=0.7)
    text = RequestFeatures(
        prompt_bytes=10, message_count=1, approx_prompt_tokens=3, requested_output_tokens=1, last_user_turn=TEXTS[3]
    )
    columns = columns_of([decision(1, features=text, votes=(vote,))], chain_of([SHIPPED]))
    assert columns.reasoning_score[0] == pytest.approx(SHIPPED._fitted.scorer.score(TEXTS[3]))


def test_review_is_unknown_when_no_draft_was_made() -> None:
    plain = RequestFeatures(prompt_bytes=10, message_count=1, approx_prompt_tokens=3, requested_output_tokens=1)
    cascade = Cascade(threshold=0.4)
    cascade._score = DraftScore(calibrator=fitted(Platt(slope=3.0, intercept=2.0)), silent=None)
    columns = columns_of(
        [decision(1, features=plain), decision(2, features=plain, draft=Draft(mean_logprob=-1.0, tokens=9))]
    )
    verdicts = evaluate(chain_of([], [cascade]), columns)
    assert verdicts.known.tolist() == [False, True]
    assert [verdicts.reasons[each] for each in verdicts.reason] == [REVIEW_UNKNOWN, "cascade.low_confidence"]


class Picky:
    """A policy of somebody else: it has no form on columns."""

    name = "picky"
    reasons = frozenset({"long_tag"})

    def optional_signals(self) -> frozenset[object]:
        return frozenset()

    def needs(self, features: RequestFeatures) -> None:
        return None

    def decide(self, features: RequestFeatures) -> RouteDecision | None:
        return escalate("long_tag") if features.message_count > 3 else None


def test_policy_of_others_is_asked_record_by_record() -> None:
    log = [
        decision(
            n,
            features=RequestFeatures(
                prompt_bytes=1, message_count=n, approx_prompt_tokens=1, requested_output_tokens=1
            ),
        )
        for n in (1, 3, 5)
    ]
    chain = chain_of([Picky()])  # type: ignore[list-item]
    assert vectorisable(chain) == ["picky"]
    verdicts = evaluate_records(chain, columns_of(log), reversed(log))
    assert [verdicts.reasons[each] for each in verdicts.reason] == ["default", "default", "picky.long_tag"]
    assert np.array_equal(columns_of(log).ids, [int(decision_id(n), 16) % (2**61 - 1) for n in (1, 3, 5)])


def test_review_is_known_when_a_stream_came_in_one_piece_longer_than_the_window() -> None:
    plain = RequestFeatures(prompt_bytes=10, message_count=1, approx_prompt_tokens=3, requested_output_tokens=1)
    whole = Draft(mean_logprob=-1.0, tokens=40, finish_reason="stop")
    columns = columns_of([decision(1, features=plain, stream=True, draft=whole)])
    candidate = Cascade(threshold=0.4, commit_window_tokens=16)
    candidate._score = DraftScore(calibrator=fitted(Platt(slope=3.0, intercept=2.0)), silent=None)
    for logged_window, known in ((16, True), (8, True), (64, False)):
        logged = chain_of([], [Cascade(commit_window_tokens=logged_window)])
        assert evaluate(chain_of([], [candidate]), columns, logged).known.tolist() == [known]


@pytest.mark.parametrize("grows", [False, True])
def test_beginning_that_came_at_once_is_judged_whole_when_the_logged_window_cannot_have_grown(
    grows: bool,
) -> None:
    """The gateway has judged all 40 tokens, of which the first four are good."""
    plain = RequestFeatures(prompt_bytes=10, message_count=1, approx_prompt_tokens=3, requested_output_tokens=1)
    signals = DraftSignals(mean_logprob=-2.7, tokens=40, prefix_means=(-0.1, -1.6, -2.3, -2.6))
    draft = Draft(mean_logprob=-2.7, tokens=40, prefix=True, signals=signals)
    log = [decision(1, features=plain, stream=True, draft=draft)]
    candidate = Cascade(threshold=0.4, commit_window_tokens=4)
    candidate._score = DraftScore(calibrator=fitted(Platt(slope=3.0, intercept=2.0)), silent=None)
    logged = chain_of([], [Cascade(commit_window_tokens=4, extend_band=0.1 if grows else 0.0)])
    chain, columns = chain_of([], [candidate]), columns_of(log)
    for verdicts in (evaluate(chain, columns, logged), evaluate_records(chain, columns, log, logged)):
        assert verdicts.escalated.tolist() == [not grows]


@pytest.mark.parametrize(("action", "continued"), [("continue", True), ("mark", False), ("none", False), (None, False)])
def test_columns_tell_which_answers_a_teacher_ended(
    action: Literal["mark", "continue", "none"] | None, continued: bool
) -> None:
    late = LateEnding(tokens=20, action=action, alarm=escalate("late")) if action is not None else None
    draft = Draft(text="The", prefix=True, window=Held(held_s=0.1, late=late))
    assert columns_of([decision(1, route="student", features=features(Random(1)), draft=draft)]).continued.tolist() == [
        continued
    ]
