"""The student asked once more, where its draft is neither good nor bad: does it say the same again?

Only for whole drafts: a plain answer, or a stream that ended within its commit window. Of a longer stream the second
sample would have to be compared with a beginning, while the client waits for its first token. Nothing here can fail a
request: a sample that does not come in time, or for which there is no room, is noted in the draft, which is then judged
without.
"""

from __future__ import annotations

import json
import logging
from typing import Literal

import msgspec

from policies.base import SecondSample
from policies.draft_signals import DraftSignal
from policies.drafts.agreement import agreement
from policies.drafts.score import signals_of
from policies.drafts.validity import Answer, Asked
from policies.record import Draft, Usage
from router.additions import NOTHING, Additions
from router.apis import CHAT
from router.backends import Backend
from router.chat import ChatRequest
from router.config import BackendConfig
from router.dialects.base import Outgoing
from router.draft_answers import answer_of
from router.errors import BackendError
from router.metrics import Metrics
from router.plain import Reply, fetch
from router.request_state import RequestState
from router.resilience.attempts import Attempt
from router.resilience.routes import Routes

logger = logging.getLogger(__name__)

SampleOutcome = Literal["ok", "timeout", "error", "no_room"]
TIME_SHARE = 0.5
"""Of what is left of a request's time: the teacher may have to answer it after all."""


class SampleRequest(ChatRequest):
    """A request as it is put to the student once more: a plain chat at another temperature, and nothing beside it."""

    def __init__(self, first: ChatRequest, temperature: float) -> None:
        super().__init__(first.body, first.directives)
        self.stream = False
        self._temperature = temperature

    def outgoing(self, backend: BackendConfig, added: Additions = NOTHING) -> Outgoing:
        members = self.body.members
        replace = {"model": json.dumps(backend.model)} | ({"stream": "false"} if "stream" in members else {})
        add: dict[str, str] = {}
        (replace if "temperature" in members else add)["temperature"] = json.dumps(self._temperature)
        # The same seed would draw the same answer.
        remove = ("router", "stream_options", "seed", "logprobs", "top_logprobs")
        return Outgoing(CHAT, self.body.splice(replace=replace, remove=remove, add=add), hides_usage=True)


class SecondSamples:
    """Takes them, a bounded number at a time."""

    def __init__(self, routes: Routes, metrics: Metrics, *, limit_bytes: int) -> None:
        self._routes = routes
        self._metrics = metrics
        self._limit_bytes = limit_bytes
        self._inflight = 0

    async def compared(
        self, state: RequestState, draft: Draft, answer: Answer, asked: Asked, way: SecondSample
    ) -> Draft:
        """The draft with the agreement of a second sample and what that cost, or with a note that there is none."""
        if self._inflight >= way.max_inflight:
            return self._without(draft, "no_room")
        self._inflight += 1
        try:
            return await self._compared(state, draft, answer, asked, way)
        finally:
            self._inflight -= 1

    async def _compared(
        self, state: RequestState, draft: Draft, answer: Answer, asked: Asked, way: SecondSample
    ) -> Draft:
        assert state.request is not None and state.deadline is not None  # noqa: S101 - there is a draft
        request = SampleRequest(state.request, way.temperature)
        attempts = self._routes.student_alone(
            state.generation.student, request, state.deadline, watchers=state.watchers
        )
        attempt = await attempts.next()
        if attempt is None:
            return self._without(draft, "error")
        limit_s = min(way.timeout_s, TIME_SHARE * state.deadline.left_s())
        try:
            reply = await self._ask(attempt, request, limit_s)
        except BackendError as error:
            logger.info("%s: no second sample: %s", state.decision_id, error.cause)
            late = error.cause == "timeout"
            spent = _estimated(draft) if late else None  # what fails otherwise is not charged
            return self._without(_with_cost(draft, spent, attempt.backend), "timeout" if late else "error")
        if reply.meaning is None:
            return self._without(draft, "error")
        self._metrics.second_samples.labels("ok").inc()
        draft = _with_cost(draft, reply.meaning.usage or _estimated(draft), attempt.backend)
        agreed = agreement(asked, answer, answer_of(reply.meaning))
        return msgspec.structs.replace(draft, signals=msgspec.structs.replace(signals_of(draft), agreement=agreed))

    async def _ask(self, attempt: Attempt, request: SampleRequest, limit_s: float) -> Reply:
        """Raises: BackendError. The attempt has ended."""
        try:
            reply = await fetch(
                attempt.backend,
                request,
                [],
                NOTHING,
                detailed=False,
                limit_bytes=self._limit_bytes,
                limit_s=limit_s,
            )
        except BackendError as error:
            if error.cause == "timeout":
                attempt.abandon()  # the limit is ours: it says nothing of the replica
            else:
                attempt.done(error)
            raise
        except BaseException:
            attempt.abandon()
            raise
        attempt.answered()
        attempt.done()
        return reply

    def _without(self, draft: Draft, outcome: SampleOutcome) -> Draft:
        self._metrics.second_samples.labels(outcome).inc()
        signals = signals_of(draft)
        missing = (*signals.unavailable, DraftSignal.AGREEMENT)
        return msgspec.structs.replace(draft, signals=msgspec.structs.replace(signals, unavailable=missing))


def _with_cost(draft: Draft, sample: Usage | None, backend: Backend) -> Draft:
    """The draft with the tokens and the price of its second sample; None: it cost nothing."""
    if sample is None:
        return draft
    price = backend.price
    sample_usd = price.cost_usd(sample) if price is not None else None
    cost_usd = draft.cost_usd + sample_usd if draft.cost_usd is not None and sample_usd is not None else None
    usage = draft.usage
    if usage is not None:
        sums = {name: getattr(usage, name) + getattr(sample, name) for name in Usage.__struct_fields__}
        usage = Usage(**sums)
    return msgspec.structs.replace(
        draft, usage=usage, cost_usd=cost_usd, sample_usage=sample, sample_cost_usd=sample_usd
    )


def _estimated(draft: Draft) -> Usage | None:
    """Of a sample that was cut off, or that told none: as long as the draft, which is more than came."""
    if draft.usage is None:
        return None
    return Usage(prompt_tokens=draft.usage.prompt_tokens, completion_tokens=draft.tokens)
