"""What is counted about quality: shadow answers, judges, feedback, and the sums that scores are estimated from."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import product
from typing import Literal, get_args

from msgspec.structs import asdict
from prometheus_client import Counter

from policies.base import Route
from policies.intervals import Moments
from policies.quality.estimates import counted
from policies.record import ShadowRecord, ShadowStatus
from router.quality.drift_metrics import DriftMetrics

Source = Literal["shadow", "feedback"]
CallOutcome = Literal["ok", "unparsed", "error", "timeout", "skipped_budget"]
Position = Literal["first", "second"]
ROUTES: tuple[Route, ...] = get_args(Route)


class QualityMetrics(DriftMetrics):
    """A part of `Metrics`."""

    def _define_quality(self) -> None:
        self._define_drift()
        self.shadow = self._quality_counter(
            "router_shadow", "Requests drawn for the other model, by how that ended.", ("asked", "outcome")
        )
        self.shadow_cost = self._quality_counter(
            "router_shadow_cost_usd", "Cost of the other models' answers whose price is known.", ("asked",)
        )
        self.judge_calls = self._quality_counter(
            "router_judge_calls", "Calls of the judge; unparsed ones gave no grades.", ("outcome",)
        )
        self.judge_cost = self._quality_counter(
            "router_judge_cost_usd", "Cost of judging, where its price is known.", ()
        )
        self.judge_orders = self._quality_counter(
            "router_judge_orders",
            "Pairs of answers that were judged in both orders, by whether the same answer was preferred.",
            ("agreement",),
        )
        self.judge_scores = self._quality_counter(
            "router_judge_scores", "Answers that the judge scored, by the place at which it saw them.", ("position",)
        )
        self.judge_points = self._quality_counter(
            "router_judge_points", "Sum of their scores in [0, 1]: a mean by place that differs is bias.", ("position",)
        )
        self.quality_moments = self._quality_counter(
            "router_quality_moments",
            "Sums over scores s in [0, 1] with weights w = 1 / propensity, by whose answer was graded and whether the "
            "client got that one: "
            "the mean is ws / w, its variance (w2s2 - 2 mean w2s + mean^2 w2) / w^2.",
            ("route", "delivered", "source", "moment"),
        )
        self.feedback = self._quality_counter("router_feedback", "Judgements that were kept, by kind.", ("kind",))
        for counter, label_sets in (
            (self.shadow, product(ROUTES, get_args(ShadowStatus))),
            (self.shadow_cost, product(ROUTES)),
            (self.judge_calls, product(get_args(CallOutcome))),
            (self.judge_orders, product(("agree", "disagree"))),
            (self.judge_scores, product(get_args(Position))),
            (self.judge_points, product(get_args(Position))),
            (self.quality_moments, product(ROUTES, ("yes", "no"), get_args(Source), Moments.__struct_fields__)),
            (self.feedback, product(("score", "label", "correction"))),
        ):
            for labels in label_sets:
                counter.labels(*labels)

    def observe_shadow(self, record: ShadowRecord) -> None:
        """Count one drawn request, and of its grades the one that counts."""
        self.shadow.labels(record.asked, record.status).inc()
        if record.cost_usd is not None:
            self.shadow_cost.labels(record.asked).inc(record.cost_usd)
        first = counted(record.grades)
        if first is None:
            return
        for route in ROUTES:
            score = first.student if route == "student" else first.teacher
            if score is not None:
                delivered = route == record.delivered
                self.observe_score(route, "shadow", score, weight=1.0 / record.propensity, delivered=delivered)

    def observe_score(
        self, route: Route, source: Source, score: float, *, weight: float = 1.0, delivered: bool = True
    ) -> None:
        """Add a score in [0, 1] to the sums."""
        moments = Moments()
        moments.add(score, weight)
        for moment, amount in asdict(moments).items():
            self.quality_moments.labels(route, "yes" if delivered else "no", source, moment).inc(amount)

    def observe_feedback(self, kinds: Iterable[str]) -> None:
        """Count what was kept of a judgement."""
        for kind in kinds:
            self.feedback.labels(kind).inc()

    def _quality_counter(self, name: str, text: str, labels: tuple[str, ...]) -> Counter:
        return Counter(name, text, labels, registry=self.registry)
