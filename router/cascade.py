"""The cascade: the student's draft is judged before anybody sees it, and the teacher is called in where it is weak.

Plain answers only; a stream goes out as the student writes it. The client sees one answer. Escalation for quality can
make it better or later, never fail it: when the teacher does, the draft that we hold is delivered.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable

import msgspec

from policies.base import RouteDecision
from policies.record import Draft
from router.backends import Backend
from router.errors import BackendError, BackendRefused
from router.metrics import Metrics
from router.outcome import RequestState
from router.plain import Reply
from router.routing import FORCED_POLICY

logger = logging.getLogger(__name__)

AskTeacher = Callable[[], Awaitable[Reply]]


class Cascade:
    """Judges drafts and escalates."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def reviews(self, state: RequestState, backend: Backend) -> bool:
        """Whether this backend's plain answer is a draft: the student's, chosen by the policies or by default.

        A student that the client insists on is not second-guessed, nor one that stands in for the teacher.
        """
        request, evaluation = state.request, state.evaluation
        if not state.generation.decider.reviews or request is None or evaluation is None:
            return False
        if state.permit is not None and not state.permit.teacher_allowed:
            return False
        decision = evaluation.decision
        chosen = backend.route == decision.route == "student" and decision.policy != FORCED_POLICY
        return chosen and request.choices == 1 and request.reviewable

    async def better_of(self, state: RequestState, reply: Reply, ask_teacher: AskTeacher) -> Reply:
        """The student's reply if it stands, else the teacher's. Notes in `state` what was decided and why."""
        review = self._judge(state, reply)
        if review is None or review.route != "teacher":
            return reply
        state.reason = review.reason
        try:
            return await self._asked(ask_teacher)
        except BackendError as error:
            logger.info("%s: the teacher failed after a draft: %s", state.decision_id, error.cause)
            self._metrics.fallbacks.labels(error.cause).inc()
            state.fallback_cause, state.reason = error.cause, f"fallback_{error.cause}"
            state.backend, state.degraded = reply.backend, "teacher_unavailable"
            return reply

    def _judge(self, state: RequestState, reply: Reply) -> RouteDecision | None:
        meaning, evaluation = reply.meaning, state.evaluation
        assert meaning is not None  # noqa: S101 - refusals are no drafts
        assert evaluation is not None  # noqa: S101 - see `reviews`
        price, usage = reply.backend.price, meaning.usage
        draft = Draft(
            text=meaning.text,
            mean_logprob=meaning.mean_logprob,
            tokens=usage.completion_tokens if usage else 0,
            finish_reason=meaning.finish_reason,
            usage=usage,
            cost_usd=price.cost_usd(usage) if price and usage else None,
        )
        review, votes = state.generation.decider.review(evaluation.features, draft)
        escalated = review is not None and review.route == "teacher"
        state.draft = msgspec.structs.replace(draft, escalated=escalated, review=review)
        state.evaluation = msgspec.structs.replace(evaluation, votes=evaluation.votes + votes)
        return review

    async def _asked(self, ask_teacher: AskTeacher) -> Reply:
        """Raises: BackendError, also for a refusal: the student has shown that the request can be answered."""
        reply = await ask_teacher()
        if reply.meaning is None:
            raise BackendRefused(f"status {reply.answer.status}", cause="refused")
        return reply
