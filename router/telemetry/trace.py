"""The trace of a routed request: a server span, and below it the policies, the admission, every call of a backend,
reviews."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, NamedTuple

from policies.record import DecisionRecord, Usage
from router.telemetry import conventions as names
from router.telemetry.calls import ABANDONED, Begun, Call, Trace, Value

if TYPE_CHECKING:
    from router.request_state import RequestState


class Review(NamedTuple):
    """Monotonic times of a draft's judgement."""

    started_s: float
    ended_s: float


class RequestTrace(Trace):
    """Follows one request of a dialect."""

    def __init__(self, state: RequestState, begun: Begun) -> None:
        super().__init__(begun, state.dialect.path, created_s=state.created_s, started_s=state.started_s)
        self._state = state
        self._reviews: list[Review] = []

    def reviewed(self, started_s: float) -> None:
        """A draft has been judged."""
        self._reviews.append(Review(started_s, time.monotonic()))

    def end(self) -> None:
        """Write everything down."""
        now_s, state = time.monotonic(), self._state
        answer = self._answering_call()
        streams = state.request is not None and state.request.stream
        for call in self._calls.values():
            about: dict[str, Value | None] = {names.REQUEST_STREAM: streams, "locum.route": call.backend.route}
            if call is answer:
                about[names.RESPONSE_MODEL] = state.fingerprint.split(" ", 1)[0] if state.fingerprint else None
                about[names.FINISH_REASONS] = [state.finish_reason] if state.finish_reason else None
            first_s = call.answered_s - call.started_s if streams and call.answered_s is not None else None
            self._end_call(call, now_s, self._usage_of(call, answer), about, first_chunk_s=first_s)
        if state.record is not None and self._span is not None:
            self._end_phases(state.record)
            if state.first_event_s is not None:
                self._span.add_event("first token", None, self._unix_ns(state.first_event_s))
        backend = state.backend.config if state.backend is not None else None
        self._end(state.record, now_s, backend, state.policy)

    def _answering_call(self) -> Call | None:
        """The last one that went well: the answer's."""
        backend = self._state.backend
        good = [call for call in self._calls.values() if call.cause is None and call.backend is backend]
        return good[-1] if good else None

    def _usage_of(self, call: Call, answer: Call | None) -> Usage | None:
        if call is answer:
            return self._state.usage
        draft = self._state.draft
        thrown_away = draft is not None and call.cause in (None, ABANDONED) and call.backend.route == "student"
        return draft.usage if draft is not None and thrown_away and call.answered_s is not None else None

    def _end_phases(self, record: DecisionRecord) -> None:
        state = self._state
        if state.body_read_s is None or state.decided_s is None:
            return
        decision = record.decision
        votes = [
            {"locum.policy": vote.policy, "locum.vote": vote.route or "abstain", "locum.reason": vote.reason,
             "locum.score": vote.score}
            for vote in record.votes if not vote.shadow
        ]  # fmt: skip
        about = {
            "locum.policy": decision.policy, "locum.reason": decision.reason, "locum.decided_route": decision.route,
            "locum.score": decision.score, "locum.threshold": decision.threshold,
        }  # fmt: skip
        self._phase("evaluate policies", state.body_read_s, state.decided_s, about, events={"vote": votes})
        admitted_s = min((call.started_s for call in self._calls.values()), default=None)
        if state.permit is not None and admitted_s is not None:
            self._phase("admit", state.decided_s, admitted_s)
        draft = record.draft
        judged = draft.review if draft is not None else None
        of_review: dict[str, Value | None] = {"locum.escalated": draft.escalated} if draft is not None else {}
        if judged is not None:
            of_review |= {
                "locum.policy": judged.policy, "locum.reason": judged.reason, "locum.score": judged.score,
                "locum.threshold": judged.threshold,
            }  # fmt: skip
        for review in self._reviews:
            self._phase("review draft", review.started_s, review.ended_s, of_review)
