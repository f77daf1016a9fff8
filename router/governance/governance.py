"""Serves the governors and shadows of the chain in force: quotes and lots before, charges and counts after.

A gateway without any of them never comes here. With them a request takes some microseconds more; all exchange with
other processes happens every few seconds, in a task.
"""

from __future__ import annotations

import asyncio
import logging
import random
import secrets
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Self

import msgspec

from policies.base import Quote, RequestFeatures
from policies.chain import Evaluation, PolicyChain
from policies.governor import DailyBudget
from policies.pacer import Pacer
from policies.record import DecisionRecord, Usage
from router.chat import ChatRequest
from router.governance.charges import exploration_of, tentative_gain
from router.governance.lots import lot_of
from router.governance.paced import SharedPacer
from router.governance.shadow_votes import ShadowVotes
from router.governance.votes import shadow_votes_of
from router.metrics import Metrics
from router.pricing import Price
from router.state.base import Store

if TYPE_CHECKING:
    from router.request_state import RequestState

logger = logging.getLogger(__name__)

SYNC_S = 3.0
Purpose = Literal["teacher", "exploration"]


class Governance:
    """One instance a process; `async with`: it exchanges with the others for as long as the block."""

    def __init__(
        self,
        store: Store,
        metrics: Metrics,
        *,
        folder: Path,
        price: Callable[[], Price | None],
        clock: Callable[[], float] = time.time,
    ) -> None:
        """
        Args:
            folder: of the files that outlive the store.
            price: of the first teacher.
            clock: epoch time in seconds.
        """
        self._store = store
        self._metrics = metrics
        self._folder = folder
        self._price = price
        self._clock = clock
        self._member = secrets.token_hex(6)
        self._paced: dict[Purpose, SharedPacer] = {}
        self.shadow_votes = ShadowVotes(store)
        self._task: asyncio.Task[None] | None = None

    # What is in force

    def follow(self, chain: PolicyChain) -> None:
        """From now on these governors are served. A budget that stays, if only with another limit, keeps its counts."""
        budgets = chain.governors.budgets if chain.governors is not None else ()
        followed: dict[Purpose, SharedPacer] = {}
        for budget in budgets:
            price = self._price()
            if budget.usd is not None and price is None:
                logger.warning("a budget in USD holds nothing: the teacher has no price (%s)", budget.purpose)
                continue
            known = self._paced.get(budget.purpose)
            if known is not None and known.pacer.unit == _unit(budget):
                known.pacer.budget = budget
                followed[budget.purpose] = known
            else:
                followed[budget.purpose] = self._opened(budget, price)
        self._paced = followed

    def _opened(self, budget: DailyBudget, price: Price | None) -> SharedPacer:
        def usd(prompt_tokens: float, output_tokens: float) -> float:
            assert price is not None  # noqa: S101 - see `follow`
            return (prompt_tokens * price.input_usd + output_tokens * price.output_usd) / 1e6

        name = f"governance/{budget.purpose}"
        file = self._folder / f"budget-{budget.purpose}.state"
        pacer = Pacer(budget, member=self._member, usd=usd)
        return SharedPacer(pacer, self._store, name=name, file=file, clock=self._clock)

    # One request

    def informed(
        self, features: RequestFeatures, request: ChatRequest, decision_id: str, *, reviewed: bool, both_models: bool
    ) -> RequestFeatures:
        """The features with what governors look at."""
        quote: Quote | msgspec.UnsetType = msgspec.UNSET
        teacher, exploration = self._paced.get("teacher"), self._paced.get("exploration")
        if teacher is not None:
            quote = teacher.pacer.quote(features)
        share = exploration.pacer.state.share if exploration is not None else 1.0
        lot = lot_of(request, decision_id, share=share, reviewed=reviewed, both_models=both_models)
        return msgspec.structs.replace(
            features, signals=msgspec.structs.replace(features.signals, quote=quote, lot=lot)
        )

    def settle(self, state: RequestState, record: DecisionRecord) -> None:
        """A request has ended: charge what the teacher took, and count what the shadows said."""
        evaluation, chain = state.evaluation, state.generation.decider.chain
        if evaluation is None:
            return
        usage = taught(state, record, evaluation)
        teacher, exploration = self._paced.get("teacher"), self._paced.get("exploration")
        if teacher is not None:
            self._charge(teacher.pacer, record, evaluation, usage, chain)
        if exploration is not None:
            self._charge_exploration(exploration.pacer, record, evaluation, usage, chain)
        if chain.shadows is not None:
            for vote, route, agreement in shadow_votes_of(record, chain):
                self._metrics.shadow_votes.labels(vote.policy, route, agreement).inc()
                sha256 = chain.shadows.artefacts.get(vote.policy)
                if sha256 is not None and vote.score is not None:
                    self.shadow_votes.add(sha256)

    def _charge(
        self, pacer: Pacer, record: DecisionRecord, evaluation: Evaluation, usage: Usage | None, chain: PolicyChain
    ) -> None:
        features = evaluation.features
        wanted, gain = tentative_gain(record, chain)
        quote: Quote | None = None
        if wanted:
            recorded = features.signals.quote
            quote = recorded if isinstance(recorded, Quote) else pacer.quote(features)
            pacer.wanted(record.created_s, quote, gain)
        if usage is not None:
            if record.draft is not None and record.draft.continued is not None:
                quote = None  # the quote was for a whole answer: a rest says nothing of how long those are
            pacer.spent(features, record.created_s, usage.prompt_tokens, usage.completion_tokens, quote)

    def _charge_exploration(
        self, pacer: Pacer, record: DecisionRecord, evaluation: Evaluation, usage: Usage | None, chain: PolicyChain
    ) -> None:
        features = evaluation.features
        probability, drawn = exploration_of(record, features, chain)
        if probability <= 0.0:
            return
        quote = pacer.quote(features)
        pacer.wanted(record.created_s, quote, None, weight=probability)
        if drawn and usage is not None:
            pacer.spent(features, record.created_s, usage.prompt_tokens, usage.completion_tokens, quote)

    # The others

    async def __aenter__(self) -> Self:
        await self.sync()
        self._task = asyncio.create_task(self._run())
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task
        await self.sync()
        for paced in self._paced.values():
            await paced.save()

    async def sync(self) -> None:
        """Exchange with the other processes, now."""
        for paced in tuple(self._paced.values()):
            await paced.sync()
        await self.shadow_votes.sync()
        self._publish()

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(SYNC_S * (0.75 + 0.5 * random.random()))  # noqa: S311 - so that workers take turns
            try:
                await self.sync()
            except Exception:  # whatever it was, the next exchange tries again
                logger.exception("exchanging what governors know failed")

    def _publish(self) -> None:
        teacher, exploration = self._paced.get("teacher"), self._paced.get("exploration")
        if teacher is not None:
            state, limit = teacher.pacer.state, teacher.pacer.budget.limit
            self._metrics.budget_spent.set(state.spent / limit)
            self._metrics.budget_price.set(state.price)
            self._metrics.budget_forecast.set(state.foreseen(self._clock()) / limit)
        if exploration is not None:
            self._metrics.exploration_spent.set(exploration.pacer.state.spent / exploration.pacer.budget.limit)
            self._metrics.exploration_share.set(exploration.pacer.state.share)


def taught(state: RequestState, record: DecisionRecord, evaluation: Evaluation) -> Usage | None:
    """What the teacher's answer took, as well as it is known; None: it gave none, or nobody charges for it."""
    if state.cached is not None or state.called_s is None:
        return None
    late = record.draft.continued if record.draft is not None else None
    if late is not None and late.usage is not None:  # it went on from the student's answer
        return late.usage
    if record.route != "teacher":
        return None
    if record.usage is not None:
        return record.usage
    if record.outcome in ("backend_error", "client_error", "rejected"):
        return None
    features, quote = evaluation.features, evaluation.features.signals.quote
    expected = int(quote.tokens) if isinstance(quote, Quote) else features.requested_output_tokens
    tokens = state.streamed_events or expected
    return Usage(prompt_tokens=features.approx_prompt_tokens, completion_tokens=tokens)


def _unit(budget: DailyBudget) -> str:
    return "usd" if budget.usd is not None else "1000 tokens"
