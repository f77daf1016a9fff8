"""The metrics of a gateway process, by what they are about, with the values of labels that are known beforehand."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, get_args

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info

from policies.base import Signal
from router.errors import Cause
from router.quality.metrics import QualityMetrics

_LATENCY_BUCKETS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 40, 80, 160, 320)
_ITL_BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5)
_OVERHEAD_BUCKETS_S = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1)
_REFUSALS = (
    "invalid_api_key", "requests_per_minute", "tokens_per_minute", "concurrency", "budget_day", "budget_month",
    "queue_full", "too_late", "state_unavailable",
)  # fmt: skip
Merged = Literal["livesum", "livemin", "livemax"]
STATE_FEATURES = ("limits", "budgets", "concurrency", "cache", "documents", "drift", "regression", "certificates")
"""What needs the shared state."""


class MetricFamilies(QualityMetrics):
    """A part of `Metrics`."""

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
            known=("student", "teacher"),
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
            known=("mark", "continue", "none"),
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
        self.fallbacks = self._counter(
            "router_fallbacks", "Backends that failed before the first byte.", ("cause",), known=get_args(Cause)
        )
        self.policy_errors = self._counter("router_policy_errors", "Policies that raised.", ("policy",))
        self.signals_unavailable = self._counter(
            "router_signals_unavailable",
            "Signals that a policy asked for and did not get in time.",
            ("signal",),
            known=Signal,
        )
        self.second_samples = self._counter(
            "router_second_samples",
            "Drafts that the student was asked for once more, to compare.",
            ("outcome",),
            known=("ok", "timeout", "error", "no_room"),
        )

    def _define_machinery(self) -> None:
        self.inflight = self._gauge("router_inflight_requests", "Requests being answered.", merged="livesum")
        self.spool_lag = self._gauge(
            "router_spool_lag_records", "Decision records waiting for the disk.", merged="livesum"
        )
        self.spool_dropped = self._counter(
            "router_spool_dropped",
            "Answers that went out before their record was written.",
            ("cause",),
            known=("slow", "queue_full", "disk_full", "write_error"),
        )
        self.scrubbed = self._counter(
            "router_scrubbed", "Personal data and secrets that a placeholder replaced in the log.", ("kind",)
        )
        self.scrub_failures = self._counter(
            "router_scrub_failures",
            "Records without texts, since these could not be scrubbed.",
            ("cause",),
            known=("timeout", "too_much", "error"),
        )
        self.backend_up = self._gauge(
            "router_backend_up", "Whether the last probe reached the backend.", ("route",), merged="livemin"
        )
        self.admission_refusals = self._counter(
            "router_admission_refusals",
            "Requests that were not let in, by what stood in the way.",
            ("cause",),
            known=_REFUSALS,
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
            "router_cache_lookups",
            "Requests that the response cache was asked for.",
            ("result",),
            known=("hit", "miss"),
        )
        self.state_up = self._gauge(
            "router_state_up", "Whether the shared state can be reached; always 1 with memory://.", merged="livemin"
        )
        self.state_errors = self._counter(
            "router_state_errors",
            "Uses of the shared state that failed, by what needed it.",
            ("feature",),
            known=STATE_FEATURES,
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
            "router_retries",
            "Calls of the same model after a failure before the first byte.",
            ("cause",),
            known=get_args(Cause),
        )
        self.spills = self._counter(
            "router_spills",
            "Requests that the teacher got because the student was busy or loading.",
            ("reason",),
            known=("overflow_queue", "overflow_kv", "overflow_ttft", "student_loading"),
        )
        self.hedges = self._counter(
            "router_hedges",
            "Second attempts beside a slow first one: won, lost, or both failed.",
            ("outcome",),
            known=("won", "lost", "failed"),
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
            known=("allowed", "conditional", "denied"),
        )
        self.student_info = Info("router_student", "The student that serves.", registry=self._infos)
        self.policy_version = Info("router_policy_version", "The policy document in force.", registry=self._infos)
        self.policy_apply_failures = self._counter(
            "router_policy_apply_failures",
            "Versions of the policy document that could not be used or kept.",
            ("cause",),
            known=("unreadable", "not_buildable", "not_kept"),
        )

    def _counter(self, name: str, text: str, labels: tuple[str, ...], known: Iterable[str] = ()) -> Counter:
        """
        Args:
            known: values of its one label that are known beforehand: these children begin at zero. One that is born
                with its first event has no rise that PromQL could see, so the first failure of a kind would be missing
                in every alert.
        """
        counter = Counter(name, text, labels, registry=self.registry)
        for value in known:
            counter.labels(value)
        return counter

    def _gauge(self, name: str, text: str, labels: tuple[str, ...] = (), *, merged: Merged) -> Gauge:
        """`merged`: what the gauges of several workers are together."""
        return Gauge(name, text, labels, registry=self.registry, multiprocess_mode=merged)

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...], labels: tuple[str, ...]) -> Histogram:
        return Histogram(name, text, labels, buckets=buckets, registry=self.registry)
