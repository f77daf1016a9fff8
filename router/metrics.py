"""Prometheus metrics. Every label comes from a closed set: no tenant, prompt, model name of a client or URL."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import product
from pathlib import Path
from typing import Literal, get_args

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, Metric, generate_latest

from policies.base import Signal
from policies.record import DecisionRecord, Draft, LateEnding, Usage
from router.counting import Gaps, Observer, adder, adders, observers
from router.errors import Cause
from router.machine import MachineClock
from router.pricing import students_part_usd
from router.promotion_metric import PromotionPhase
from router.quality.metrics import QualityMetrics
from router.workers.shared_metrics import exposition, families

_LATENCY_BUCKETS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 40, 80, 160, 320)
_ITL_BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5)
_OVERHEAD_BUCKETS_S = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1)
_REFUSALS = (
    "invalid_api_key", "requests_per_minute", "tokens_per_minute", "concurrency", "budget_day", "budget_month",
    "queue_full", "too_late", "state_unavailable",
)  # fmt: skip
Merged = Literal["livesum", "livemin", "livemax"]
STATE_FEATURES = ("limits", "budgets", "concurrency", "cache", "documents", "drift", "regression")
"""What needs the shared state."""
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


class Metrics(QualityMetrics):
    """All metrics of one gateway process, in a registry of their own.

    `observe` finds the child of a label set in a dictionary of its own (router/counting.py): `labels()` checks and
    locks, and costs three times the increment. The dictionaries are bounded because the labels are closed sets.
    """

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._infos = CollectorRegistry()
        """What is the same in every worker, and of the kind that the shared files do not know."""
        self._define_answers()
        self._define_costs()
        self._define_decisions()
        self._define_machinery()
        self._define_backends()
        self._define_embeddings()
        self._define_students()
        self._define_governors()
        self._define_quality()
        self._remember_children()
        self._start_at_zero()

    def _define_answers(self) -> None:
        self.requests = self._counter(
            "router_requests",
            "Requests by the backend that answered, the reason and the outcome.",
            ("route", "reason", "outcome"),
        )
        self.duration = self._histogram(
            "router_request_duration_seconds",
            "From the request's arrival to the end of the answer.",
            _LATENCY_BUCKETS_S,
            ("route",),
        )
        self.ttft = self._histogram(
            "router_time_to_first_token_seconds",
            "Streams: from arrival to the first event for the client.",
            _LATENCY_BUCKETS_S,
            ("route",),
        )
        self.itl = self._histogram(
            "router_inter_token_latency_seconds",
            "Streams: gap between two reads with events.",
            _ITL_BUCKETS_S,
            ("route",),
        )
        self.overhead = self._histogram(
            "router_overhead_seconds",
            "From the end of the request body to the first call of a backend.",
            _OVERHEAD_BUCKETS_S,
            (),
        )

    def _define_costs(self) -> None:
        self.tokens = self._counter(
            "router_tokens",
            "Tokens as the backends counted them; `cached_input` is a part of `input`, `reasoning` one of `output`.",
            ("route", "direction"),
        )
        self.cost = self._counter("router_cost_usd", "Cost of answers whose price is known.", ("route",))
        self.counterfactual = self._counter(
            "router_counterfactual_cost_usd", "What the teacher would have charged for the same tokens.", ()
        )
        self.unpriced = self._counter(
            "router_unpriced_requests",
            "Answers without a cost: the price or the usage is unknown.",
            ("route",),
        )
        self.draft_tokens = self._counter(
            "router_draft_tokens",
            "Tokens of drafts that were thrown away; counted in router_tokens too.",
            ("direction",),
        )
        self.draft_cost = self._counter(
            "router_draft_cost_usd", "Cost of drafts that were thrown away; counted in router_cost_usd too.", ()
        )
        self.late_alarms = self._counter(
            "router_late_alarms",
            "Streams that a late alarm stopped behind their commit window: marked, continued, or left alone.",
            ("action",),
        )
        self.machine_cost = self._counter(
            "router_student_machine_usd",
            "The student's machines in USD: `busy` is charged to requests and shadows at their end, else `idle`.",
            ("state",),
        )

    def _define_decisions(self) -> None:
        self.escalations = self._counter(
            "router_escalations", "Requests that a policy sent to the teacher.", ("policy", "reason")
        )
        self.abstentions = self._counter(
            "router_policy_abstentions", "Votes without an opinion, by reason.", ("policy", "reason")
        )
        self.fallbacks = self._counter("router_fallbacks", "Backends that failed before the first byte.", ("cause",))
        self.policy_errors = self._counter("router_policy_errors", "Policies that raised.", ("policy",))
        self.signals_unavailable = self._counter(
            "router_signals_unavailable",
            "Signals that a policy asked for and did not get in time.",
            ("signal",),
        )
        self.second_samples = self._counter(
            "router_second_samples", "Drafts that the student was asked for once more, to compare.", ("outcome",)
        )

    def _define_machinery(self) -> None:
        self.inflight = self._gauge("router_inflight_requests", "Requests being answered.", merged="livesum")
        self.spool_lag = self._gauge(
            "router_spool_lag_records", "Decision records waiting for the disk.", merged="livesum"
        )
        self.spool_dropped = self._counter(
            "router_spool_dropped", "Answers that went out before their record was written.", ("cause",)
        )
        self.scrubbed = self._counter(
            "router_scrubbed", "Personal data and secrets that a placeholder replaced in the log.", ("kind",)
        )
        self.scrub_failures = self._counter(
            "router_scrub_failures", "Records without texts, since these could not be scrubbed.", ("cause",)
        )
        self.backend_up = self._gauge(
            "router_backend_up", "Whether the last probe reached the backend.", ("route",), merged="livemin"
        )
        self.admission_refusals = self._counter(
            "router_admission_refusals", "Requests that were not let in, by what stood in the way.", ("cause",)
        )
        self.admission_waiting = self._gauge(
            "router_admission_waiting_requests", "Requests that wait for a place.", merged="livesum"
        )
        self.admission_wait = self._histogram(
            "router_admission_wait_seconds",
            "Wait of requests that were let in later than they came.",
            _LATENCY_BUCKETS_S,
            (),
        )
        self.cache_lookups = self._counter(
            "router_cache_lookups", "Requests that the response cache was asked for.", ("result",)
        )
        self.state_up = self._gauge(
            "router_state_up", "Whether the shared state can be reached; always 1 with memory://.", merged="livemin"
        )
        self.state_errors = self._counter(
            "router_state_errors", "Uses of the shared state that failed, by what needed it.", ("feature",)
        )

    def _define_backends(self) -> None:
        self.replica_up = self._gauge(
            "router_replica_up", "Whether the last probe reached the replica.", ("replica",), merged="livemin"
        )
        self.breaker_state = self._gauge(
            "router_breaker_state",
            "Whether a replica gets requests: 0 closed, it does; 1 half-open, a few; 2 open, none.",
            ("replica",),
            merged="livemax",
        )
        self.retries = self._counter(
            "router_retries", "Calls of the same model after a failure before the first byte.", ("cause",)
        )
        self.spills = self._counter(
            "router_spills", "Requests that the teacher got because the student was busy or loading.", ("reason",)
        )
        self.hedges = self._counter(
            "router_hedges", "Second attempts beside a slow first one: won, lost, or both failed.", ("outcome",)
        )

    def _define_embeddings(self) -> None:
        self.embedding_requests = self._counter("router_embedding_requests", "Requests for embeddings.", ("outcome",))
        self.embedding_duration = self._histogram(
            "router_embedding_duration_seconds",
            "Requests for embeddings: from arrival to the end of the answer.",
            _LATENCY_BUCKETS_S,
            (),
        )
        self.embedding_tokens = self._counter("router_embedding_tokens", "Tokens of texts embedded, as reported.", ())
        self.embedding_cost = self._counter(
            "router_embedding_cost_usd", "Cost of embeddings whose price and tokens are known.", ()
        )

    def _define_governors(self) -> None:
        self.shadow_votes = self._counter(
            "router_shadow_votes",
            "Votes of policies in shadow, and whether they agree with what was decided.",
            ("policy", "route", "agreement"),
        )
        self.budget_spent = self._gauge(
            "router_teacher_budget_spent_ratio", "Of the day's budget of the policy `budget`: spent.", merged="livemax"
        )
        self.budget_price = self._gauge(
            "router_teacher_budget_price",
            "What an escalation must be worth, in score, for each 1,000 tokens or USD of the teacher's.",
            merged="livemax",
        )
        self.budget_forecast = self._gauge(
            "router_teacher_budget_forecast_ratio",
            "Of the day's budget of the policy `budget`: expected to be spent when the day ends.",
            merged="livemax",
        )
        self.exploration_spent = self._gauge(
            "router_exploration_budget_spent_ratio",
            "Of the day's budget of the policy `explore`: spent.",
            merged="livemax",
        )
        self.exploration_share = self._gauge(
            "router_exploration_share",
            "Of the probability of exploring towards the teacher: what its budget leaves.",
            merged="livemin",
        )

    def _define_students(self) -> None:
        self.training_examples = self._counter(
            "router_training_examples",
            "Answers of the teacher whose text was kept, by what its licence says of training on them.",
            ("licence",),
        )
        self.student_info = Info("router_student", "The student that serves.", registry=self._infos)
        self.policy_version = Info("router_policy_version", "The policy document in force.", registry=self._infos)
        self.policy_apply_failures = self._counter(
            "router_policy_apply_failures",
            "Versions of the policy document that could not be used or kept.",
            ("cause",),
        )

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

    def _start_at_zero(self) -> None:
        """Make the children whose labels are known beforehand: a counter that is born with its first event has no rise
        that PromQL could see, so the first failure of a kind would be missing in every alert."""
        for counter, label_sets in (
            (self.fallbacks, product(get_args(Cause))),
            (self.retries, product(get_args(Cause))),
            (self.admission_refusals, product(_REFUSALS)),
            (self.hedges, product(("won", "lost", "failed"))),
            (self.spills, product(("overflow_queue", "overflow_kv", "overflow_ttft", "student_loading"))),
            (self.spool_dropped, product(("slow", "queue_full", "disk_full", "write_error"))),
            (self.scrub_failures, product(("timeout", "too_much", "error"))),
            (self.state_errors, product(STATE_FEATURES)),
            (self.policy_apply_failures, product(("unreadable", "not_buildable", "not_kept"))),
            (self.cache_lookups, product(("hit", "miss"))),
            (self.signals_unavailable, product(Signal)),
            (self.second_samples, product(("ok", "timeout", "error", "no_room"))),
            (self.training_examples, product(("allowed", "conditional", "denied"))),
            (self.unpriced, product(("student", "teacher"))),
            (self.late_alarms, product(("mark", "continue", "none"))),
        ):
            for labels in label_sets:
                counter.labels(*labels)

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

    def _counter(self, name: str, text: str, labels: tuple[str, ...]) -> Counter:
        return Counter(name, text, labels, registry=self.registry)

    def _gauge(self, name: str, text: str, labels: tuple[str, ...] = (), *, merged: Merged) -> Gauge:
        """`merged`: what the gauges of several workers are together."""
        return Gauge(name, text, labels, registry=self.registry, multiprocess_mode=merged)

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...], labels: tuple[str, ...]) -> Histogram:
        return Histogram(name, text, labels, buckets=buckets, registry=self.registry)
