"""`GET /admin/summary`: cost and quality, split by who answered, over a window of time."""

from __future__ import annotations

import asyncio
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import Response

from policies.intervals import Moments, proportion
from router.admin.administration import Administration
from router.admin.history import MetricHistory, Values, Window
from router.admin.policy import answer, in_query
from router.generations import Generations

STEPS = 60
"""Points of the curves."""
MAX_WINDOW_S = 10 * 366 * 86_400
ROUTES = ("student", "teacher")
MOMENTS = ("n", "w", "w2", "ws", "w2s", "w2s2")


class SummaryEndpoint:
    """Reads the metrics, never the log: it costs the same whatever the traffic."""

    def __init__(self, admin: Administration, generations: Generations, history: MetricHistory) -> None:
        self._admin = admin
        self._generations = generations
        self._history = history

    def add_to(self, app: FastAPI) -> None:
        app.add_api_route("/admin/summary", self.summary, methods=["GET"])

    async def summary(self, request: Request) -> Response:
        """The last `window_s` seconds; without it, everything since the gateway started."""
        await self._admin.door.enter(request)
        length_s = in_query(request, "window_s", default=0)
        window = await asyncio.to_thread(
            self._history.window, min(length_s, MAX_WINDOW_S) if length_s else None, steps=STEPS
        )
        generation = self._generations.current
        return answer(
            {
                "policy_version": self._admin.live.applied.version,
                "policy": generation.decider.version,
                "student": generation.bundle_id,
                "window_s": length_s or None,
                **summary_of(window),
            }
        )


def summary_of(window: Window) -> dict[str, Any]:
    """Everything that the metrics say about a window. Money in USD, times in Unix seconds."""
    counted, now = window.counted, window.now
    return {
        "start_s": window.start_s,
        "end_s": window.end_s,
        "requests": _requests(counted),
        "student_share": _student_share(counted),
        "cost": _cost(counted),
        "quality": _quality(counted),
        "latency": {route: _latency(counted, route) for route in ROUTES},
        "escalations": _listed(counted, "router_escalations_total", "policy", "reason"),
        "fallbacks": _listed(counted, "router_fallbacks_total", "cause"),
        "policy_errors": _listed(counted, "router_policy_errors_total", "policy"),
        "refusals": _listed(counted, "router_admission_refusals_total", "cause"),
        "outcomes": _listed(counted, "router_requests_total", "outcome"),
        "reasons": _listed(counted, "router_requests_total", "route", "reason"),
        "shadow": _listed(counted, "router_shadow_total", "asked", "outcome"),
        "dropped_records": counted.total("router_spool_dropped_total"),
        "now": {
            "inflight_requests": now.total("router_inflight_requests"),
            "waiting_records": now.total("router_spool_lag_records"),
            "backends": {route: now.total("router_backend_up", route=route) > 0 for route in ROUTES},
            "drift_score": _by_detector(now, "router_drift_score"),
            "drift_alarm": _by_detector(now, "router_drift_alarm"),
        },
        "series": [_point(end_s, values) for end_s, values in window.steps],
    }


def _requests(counted: Values) -> dict[str, float]:
    by_route = {route: counted.total("router_requests_total", route=route) for route in (*ROUTES, "none")}
    return {"total": sum(by_route.values()), **by_route}


def _student_share(counted: Values) -> dict[str, float | int] | None:
    student, teacher = (round(counted.total("router_requests_total", route=route)) for route in ROUTES)
    return proportion(student, student + teacher).as_json() if student + teacher else None


def _cost(counted: Values) -> dict[str, float]:
    """Money for drafts that were thrown away is part of the student's; measuring quality stands apart."""
    by_route = {f"{route}_usd": counted.total("router_cost_usd_total", route=route) for route in ROUTES}
    spent_usd, all_teacher_usd = sum(by_route.values()), counted.total("router_counterfactual_cost_usd_total")
    return {
        **by_route,
        "answers_usd": spent_usd,
        "all_teacher_usd": all_teacher_usd,
        "saved_usd": all_teacher_usd - spent_usd,
        "drafts_usd": counted.total("router_draft_cost_usd_total"),
        "shadow_usd": counted.total("router_shadow_cost_usd_total"),
        "judge_usd": counted.total("router_judge_cost_usd_total"),
        "embeddings_usd": counted.total("router_embedding_cost_usd_total"),
        "machine_busy_usd": counted.total("router_student_machine_usd_total", state="busy"),
        "machine_idle_usd": counted.total("router_student_machine_usd_total", state="idle"),
        "unpriced_requests": counted.total("router_unpriced_requests_total"),
    }


def _quality(counted: Values) -> list[dict[str, Any]]:
    """Of the answers that clients got: by model and where the grade comes from, each with its interval."""
    found = []
    for route, source in sorted(counted.by("router_quality_moments_total", "route", "source")):
        sums = {
            moment: counted.total(
                "router_quality_moments_total", route=route, delivered="yes", source=source, moment=moment
            )
            for moment in MOMENTS
        }
        estimate = Moments(n=round(sums.pop("n")), **sums).estimate("score")
        if estimate is not None:
            found.append({"route": route, "source": source, "score": estimate.as_json()})
    return found


def _latency(counted: Values, route: str) -> dict[str, float | None]:
    name = "router_request_duration_seconds"
    count = counted.total(f"{name}_count", route=route)
    return {
        "mean_s": counted.total(f"{name}_sum", route=route) / count if count else None,
        "p50_s": quantile(counted, f"{name}_bucket", route, 0.5),
        "p95_s": quantile(counted, f"{name}_bucket", route, 0.95),
    }


def quantile(counted: Values, name: str, route: str, share: float) -> float | None:
    """From a histogram, linear within a bucket as Prometheus does it; None without observations. The last bucket
    has no end: what lies in it is said to be at its begin."""
    buckets: dict[float, float] = {}
    for (bound, found), count in counted.by(name, "le", "route", zeros=True).items():
        if found == route:
            buckets[float(bound)] = count
    if not buckets:
        return None
    rank, below, start_s = share * max(buckets.values()), 0.0, 0.0
    for bound_s in sorted(buckets):
        count = buckets[bound_s]
        if count >= rank and count > below:
            if bound_s == float("inf"):
                return start_s
            return start_s + (bound_s - start_s) * (rank - below) / (count - below)
        below, start_s = count, bound_s
    return start_s


def _listed(counted: Values, name: str, *labels: str) -> list[dict[str, Any]]:
    return [
        {**dict(zip(labels, group, strict=True)), "count": count} for group, count in counted.by(name, *labels).items()
    ]


def _by_detector(now: Values, name: str) -> dict[str, float]:
    return {detector: value for (detector,), value in now.by(name, "detector", zeros=True).items()}


def _point(end_s: float, counted: Values) -> dict[str, float]:
    cost = _cost(counted)
    return {
        "end_s": end_s,
        **{route: counted.total("router_requests_total", route=route) for route in ROUTES},
        "answers_usd": cost["answers_usd"],
        "all_teacher_usd": cost["all_teacher_usd"],
    }
