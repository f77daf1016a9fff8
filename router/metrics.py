"""Prometheus metrics. Every label comes from a closed set: no tenant, prompt, model name of a client or URL."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from prometheus_client import Metric, generate_latest

from policies.record import DecisionRecord, Draft, LateEnding, Usage
from router.counting import Gaps, Observer, adder, adders, observers
from router.machine import MachineClock
from router.metric_families import MetricFamilies
from router.pricing import students_part_usd
from router.promotion_metric import PromotionPhase
from router.workers.shared_metrics import exposition, families

NOT_A_POLICY = frozenset({"request", "default"})
"""Who stands in a decision's `policy` when no policy decided."""


def by_direction(usage: Usage) -> Iterator[tuple[str, int]]:
    """(direction, tokens) of what there is."""
    yield "input", usage.prompt_tokens
    yield "output", usage.completion_tokens
    if usage.cached_tokens:
        yield "cached_input", usage.cached_tokens
    if usage.reasoning_tokens:
        yield "reasoning", usage.reasoning_tokens


class Metrics(MetricFamilies):
    """All metrics of one gateway process, in a registry of their own.

    `observe` finds the child of a label set in a dictionary of its own (router/counting.py): `labels()` checks and
    locks, and costs three times the increment. The dictionaries are bounded because the labels are closed sets.
    """

    def __init__(self) -> None:
        super().__init__()
        self._remember_children()

    def _remember_children(self) -> None:
        self._requests_of = adders(self.requests)
        self._duration_of = observers(self.duration)
        self._ttft_of = observers(self.ttft)
        self._itl_of = observers(self.itl)
        self._tokens_of = adders(self.tokens)
        self._cost_of = adders(self.cost)
        self._machine_cost_of = adders(self.machine_cost)
        self._machines: tuple[MachineClock, ...] = ()
        self._observe_overhead = Observer(self.overhead).observe
        self._add_counterfactual = adder(self.counterfactual)
        self.add_inflight, self.add_spool_lag = adder(self.inflight), adder(self.spool_lag)
        self._unpriced_of = adders(self.unpriced)
        self._training_examples_of = adders(self.training_examples)
        self._escalations_of = adders(self.escalations)
        self._abstentions_of = adders(self.abstentions)

    def observe(self, record: DecisionRecord) -> None:
        """Count one finished request."""
        route = record.route or "none"
        self._requests_of(route, record.reason, record.outcome)(1)
        self._duration_of(route).observe(record.latency_s)
        self._observe_overhead(record.overhead_s)
        if record.ttft_s is not None:
            self._ttft_of(route).observe(record.ttft_s)
        self._observe_cost(record, route)
        self._observe_votes(record)
        if (
            route == "teacher"
            and record.completion is not None
            and record.outcome == "ok"
            and record.purpose == "traffic"
        ):
            self._training_examples_of(record.distillation)(1)

    def gaps(self, route: str) -> Gaps:
        """For one stream of this backend: the times between its events."""
        return Gaps(self._itl_of(route))

    def observe_embedding(self, record: DecisionRecord) -> None:
        """Count one finished request for embeddings: apart, since routing has no part in it."""
        self.embedding_requests.labels(record.outcome).inc()
        self.embedding_duration.observe(record.latency_s)
        if record.usage is not None:
            self.embedding_tokens.inc(record.usage.prompt_tokens)
        if record.cost_usd is not None:
            self.embedding_cost.inc(record.cost_usd)

    def _observe_cost(self, record: DecisionRecord, route: str) -> None:
        answer_usd = record.cost_usd
        if record.draft is not None and record.draft.continued is not None:
            answer_usd = self._observe_continued(record.draft, record.draft.continued, answer_usd)
        elif record.usage is not None:
            self._observe_tokens(record.usage, route)
        if record.draft is not None and (route != "student" or record.draft.thrown_away):
            self._observe_draft(record.draft)
        if route != "student":
            beside_usd = students_part_usd(record)
            if beside_usd is not None:  # a second model was paid for
                self._cost_of("student")(beside_usd)
                answer_usd = None if answer_usd is None else answer_usd - beside_usd
        elif record.draft is not None and record.draft.sample_usage is not None:
            self._observe_tokens(record.draft.sample_usage, "student")
        if answer_usd is not None:
            self._cost_of(route)(answer_usd)
        elif record.route is not None:
            self._unpriced_of(route)(1)
        if record.counterfactual_cost_usd is not None:
            self._add_counterfactual(record.counterfactual_cost_usd)

    def _observe_continued(self, draft: Draft, late: LateEnding, answer_usd: float | None) -> float | None:
        """An answer that two models wrote. Returns: the student's part of its cost."""
        for usage, route in ((draft.usage, "student"), (late.usage, "teacher")):
            if usage is not None:
                self._observe_tokens(usage, route)
        if late.cost_usd is None:
            return answer_usd
        self._cost_of("teacher")(late.cost_usd)
        return None if answer_usd is None else answer_usd - late.cost_usd

    def _observe_draft(self, draft: Draft) -> None:
        """One that was thrown away."""
        if draft.usage is not None:
            self._observe_tokens(draft.usage, "student")
            for direction, tokens in by_direction(draft.usage):
                self.draft_tokens.labels(direction).inc(tokens)
        if draft.cost_usd is not None:
            self.draft_cost.inc(draft.cost_usd)

    def _observe_tokens(self, usage: Usage, route: str) -> None:
        for direction, tokens in by_direction(usage):
            self._tokens_of(route, direction)(tokens)

    def _observe_votes(self, record: DecisionRecord) -> None:
        review = record.draft.review if record.draft is not None else None
        for decision in (record.decision, review):
            if decision is not None and decision.route == "teacher" and decision.policy not in NOT_A_POLICY:
                self._escalations_of(decision.policy, decision.reason)(1)
        for vote in record.votes:
            if vote.shadow:
                continue
            if vote.reason == "policy_error":
                self.policy_errors.labels(vote.policy).inc()
            elif vote.route is None:
                self._abstentions_of(vote.policy, vote.reason)(1)
        if record.features is not None:
            for signal in record.features.signals.unavailable:
                self.signals_unavailable.labels(signal.value).inc()

    def watch_promotion(self, registry_folder: Path) -> None:
        """Tell the phase of promotions in this registry."""
        self._infos.register(PromotionPhase(registry_folder))

    def expect_cost(self, route: str) -> None:
        """Begin at 0: the price is known. An unknown one is not 0."""
        self._cost_of(route)

    def watch_machines(self, clocks: Iterable[MachineClock]) -> None:
        """Count their time: busy as requests end, idle whenever somebody reads the metrics."""
        self._machines = tuple(clocks)
        for clock in self._machines:
            clock.on_charge = self._machine_cost_of("busy")

    def _count_idle(self) -> None:
        for clock in self._machines:
            self._machine_cost_of("idle")(clock.take_idle_usd())

    def render(self) -> bytes:
        """The exposition text, of all workers together where there are several."""
        self._count_idle()
        return exposition(self.registry) + generate_latest(self._infos)

    def families(self) -> list[Metric]:
        """The same as values, without the infos."""
        self._count_idle()
        return families(self.registry)
