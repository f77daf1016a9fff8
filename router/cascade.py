"""The cascade: the student's draft is judged before anybody sees it, and the teacher is called in where it is weak.

Plain answers are judged whole, streams by their beginning (`router/commit_window.py`). The client sees one answer.
Escalation for quality can make it better or later, never fail it: when the teacher does, the draft that we hold is
delivered.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable
from typing import NamedTuple, TypeVar

import msgspec

from policies.base import Extend
from policies.chain import Vote
from policies.draft_signals import NO_DRAFT_SIGNALS, DraftSignal, DraftSignals
from policies.drafts.logprobs import measured
from policies.drafts.validity import Answer, failed_checks
from policies.record import Draft
from policies.window import WindowAction
from router.answers import Meaning
from router.backends import Backend
from router.draft_answers import answer_of, asked_of
from router.errors import BackendError
from router.metrics import Metrics
from router.opening import Opened
from router.plain import Reply
from router.request_state import RequestState
from router.resilience.attempts import Attempt
from router.resilience.routes import OVERLOAD, UNAVAILABLE
from router.routing import FORCED_POLICY
from router.second_sample import SecondSamples

logger = logging.getLogger(__name__)

T = TypeVar("T", Reply, Opened)
AskTeachers = Callable[[], Awaitable[tuple[Attempt, T]]]
"""Raises: BackendError: none could be had, or the one that was refused the request."""


class Judgement(NamedTuple):
    """What a review led to."""

    action: WindowAction
    vote: Vote | None
    """The last word; None: nobody was asked."""


class Cascade:
    """Judges drafts and escalates."""

    def __init__(self, metrics: Metrics, samples: SecondSamples) -> None:
        self._metrics = metrics
        self._samples = samples

    def reviews(self, state: RequestState, backend: Backend) -> bool:
        """Whether this backend's answer is a draft: the student's, chosen by the policies or by default.

        A student that the client insists on is not second-guessed, nor one that stands in for the teacher.
        """
        request, evaluation = state.request, state.evaluation
        if not state.generation.decider.reviews or request is None or evaluation is None:
            return False
        if state.permit is not None and not state.permit.teacher_allowed:
            return False
        decision = evaluation.decision
        chosen = backend.route == decision.route == "student" and decision.policy != FORCED_POLICY
        if decision.propensity < 1.0:  # drawn for the student: its answer is what there is to learn from
            return False
        return chosen and request.choices == 1 and request.reviewable

    async def better_of(self, state: RequestState, reply: Reply, ask: AskTeachers[Reply]) -> Reply:
        """The student's plain reply if it stands, else the teacher's."""
        assert reply.meaning is not None  # noqa: S101 - refusals are no drafts
        draft = await self.measured(state, _draft_of(reply, reply.meaning), answer_of(reply.meaning))
        if not self.escalates(state, draft):
            return reply
        found = await self.teachers_answer(state, reply.backend, ask)
        if found is None:
            return reply
        answered, better = found
        answered.done()
        return better

    async def measured(self, state: RequestState, draft: Draft, answer: Answer) -> Draft:
        """The draft with all that reviewers judge it by: the checks that it fails, what they read in the texts, and a
        second sample where one of them wants it."""
        request, evaluation, chain = state.request, state.evaluation, state.generation.decider.chain
        assert request is not None and evaluation is not None  # noqa: S101 - see `reviews`
        features = evaluation.features
        asked = asked_of(request, features)
        signals = msgspec.structs.replace(
            draft.signals or NO_DRAFT_SIGNALS, tokens=draft.tokens or None, failed=failed_checks(asked, answer)
        )
        draft = chain.read(features, msgspec.structs.replace(draft, signals=signals))
        way = chain.measures.second_sample
        if way is None or draft.prefix or chain.needs_draft(features, draft) is not DraftSignal.AGREEMENT:
            return draft
        return chain.read(features, await self._samples.compared(state, draft, answer, asked, way))

    def escalates(self, state: RequestState, draft: Draft) -> bool:
        """Have a whole draft judged. Notes in `state` what was decided and why."""
        return self.judged(state, draft).action == "escalate"

    def judged(self, state: RequestState, draft: Draft) -> Judgement:
        """What the reviewers say. Unless they want to see more, `state` notes what was decided and why."""
        evaluation = state.evaluation
        assert evaluation is not None  # noqa: S101 - see `reviews`
        started_s = time.monotonic()
        review, votes = state.generation.decider.review(evaluation.features, draft)
        if state.trace is not None:
            state.trace.reviewed(started_s)
        last = next((vote for vote in reversed(votes) if not vote.shadow), None)
        if isinstance(review, Extend):
            return Judgement("extend", last)
        escalated = review is not None and review.route == "teacher"
        state.draft = msgspec.structs.replace(draft, escalated=escalated, review=review)
        state.evaluation = msgspec.structs.replace(evaluation, votes=evaluation.votes + votes)
        if review is not None and escalated:
            state.reason = review.reason
        return Judgement("escalate" if escalated else "commit", last)

    async def teachers_answer(
        self, state: RequestState, student: Backend, ask: AskTeachers[T]
    ) -> tuple[Attempt, T] | None:
        """The answer that takes the draft's place; None: there is none, the draft of `student` is delivered."""
        try:
            return await ask()
        except BackendError as error:
            logger.info("%s: the teacher failed after a draft: %s", state.decision_id, error.cause)
            self._metrics.fallbacks.labels(error.cause).inc()
            state.fallback_cause, state.reason = error.cause, f"fallback_{error.cause}"
            state.backend, state.degraded = student, OVERLOAD if error.cause == "rate_limited" else UNAVAILABLE
            return None


def _draft_of(reply: Reply, meaning: Meaning) -> Draft:
    price, usage = reply.backend.price, meaning.usage
    return Draft(
        text=meaning.text,
        mean_logprob=meaning.mean_logprob,
        tokens=usage.completion_tokens if usage else 0,
        finish_reason=meaning.finish_reason,
        usage=usage,
        cost_usd=price.cost_usd(usage) if price and usage else None,
        signals=_signals_of(meaning),
    )


def _signals_of(meaning: Meaning) -> DraftSignals:
    if not meaning.logprobs:
        return NO_DRAFT_SIGNALS
    try:
        return measured(meaning.logprobs, meaning.text, meaning.finish_reason)
    except ValueError:  # "bytes" that are none
        return NO_DRAFT_SIGNALS
