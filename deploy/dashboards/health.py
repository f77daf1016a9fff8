"""The board for the people who are on call: is it up, is it fast, and what is in the way."""

from __future__ import annotations

from grafana_foundation_sdk.builders.dashboard import Dashboard

from deploy.dashboards.panels import Query, board, chart, increase, number, or_zero, quantile, rate, selector, third

FAILED = 'outcome=~"backend_error|timeout|rejected"'


def _quantiles(metric: str, by: str = "route") -> tuple[Query, ...]:
    names = ((0.5, "p50"), (0.95, "p95"), (0.99, "p99"))
    legend = f"{{{{{by}}}}} " if by else ""
    return tuple((quantile(q, metric, by=by), f"{legend}{name}") for q, name in names)


def health() -> Dashboard:
    return board(
        "locum-health",
        "Locum: service health",
        "Latency, errors, what stands in the way, and the machinery behind it.",
        (
            "Now",
            [
                number("Requests per second", "All outcomes.", "reqps", rate("router_requests_total")),
                number(
                    "Failed",
                    "Share of requests that ended in an error of a backend, a timeout or a refusal, over the chosen "
                    "time.",
                    "percentunit",
                    f"{or_zero(increase('router_requests_total', FAILED))} / {increase('router_requests_total')}",
                    decimals=2,
                    bad_above=0.01,
                ),
                number(
                    "In flight",
                    "Requests being answered.",
                    "none",
                    f"sum ({selector('router_inflight_requests')})",
                    decimals=0,
                ),
                number(
                    "Waiting",
                    "Requests that wait for a place.",
                    "none",
                    f"sum ({selector('router_admission_waiting_requests')})",
                    decimals=0,
                ),
                number(
                    "Backends down",
                    "Replicas that the last probe did not reach.",
                    "none",
                    f"count({selector('router_replica_up')} == 0) or vector(0)",
                    decimals=0,
                    bad_above=1,
                ),
                number(
                    "Records lost",
                    "Answers that went out before their record was written, over the chosen time.",
                    "none",
                    or_zero(increase("router_spool_dropped_total")),
                    decimals=0,
                    bad_above=1,
                ),
            ],
        ),
        (
            "Speed",
            [
                chart(
                    "Latency",
                    "From arrival to the end of the answer.",
                    "s",
                    *_quantiles("router_request_duration_seconds"),
                ),
                chart(
                    "Time to first token",
                    "Streams: from arrival to the first event for the client. Under a commit "
                    "window this includes what is held back.",
                    "s",
                    *_quantiles("router_time_to_first_token_seconds"),
                ),
                chart(
                    "Between tokens",
                    "Streams: gap between two reads with events.",
                    "s",
                    *_quantiles("router_inter_token_latency_seconds"),
                ),
                chart(
                    "The gateway's own part",
                    "From the end of the request body to the first call of a backend; "
                    "signals that policies ask for (embeddings) are part of it.",
                    "s",
                    *_quantiles("router_overhead_seconds", by=""),
                ),
            ],
        ),
        (
            "Outcomes",
            [
                third(
                    "By outcome",
                    "Requests per second.",
                    "reqps",
                    (rate("router_requests_total", by="outcome"), "{{outcome}}"),
                    stacked=True,
                ),
                third(
                    "Refused at the door",
                    "What stood in the way of requests that were not let in.",
                    "reqps",
                    (rate("router_admission_refusals_total", by="cause"), "{{cause}}"),
                ),
                third(
                    "Waiting and in flight",
                    "Requests.",
                    "none",
                    (f"sum ({selector('router_inflight_requests')})", "in flight"),
                    (f"sum ({selector('router_admission_waiting_requests')})", "waiting"),
                ),
            ],
        ),
        (
            "Backends",
            [
                third(
                    "Reachable",
                    "1: the last probe reached the replica, from every worker.",
                    "none",
                    (f"min by (replica) ({selector('router_replica_up')})", "{{replica}}"),
                    top=1,
                ),
                third(
                    "Breakers",
                    "0 closed: gets requests; 1 half-open: a few; 2 open: none.",
                    "none",
                    (f"max by (replica) ({selector('router_breaker_state')})", "{{replica}}"),
                    top=2,
                ),
                third(
                    "Fallbacks and retries",
                    "After failures before the first byte.",
                    "reqps",
                    (rate("router_fallbacks_total", by="cause"), "fallback: {{cause}}"),
                    (rate("router_retries_total", by="cause"), "retry: {{cause}}"),
                ),
                third(
                    "Spills",
                    "Requests that the teacher got because the student was busy or loading.",
                    "reqps",
                    (rate("router_spills_total", by="reason"), "{{reason}}"),
                ),
                third(
                    "Hedges",
                    "Second attempts beside a slow first one.",
                    "reqps",
                    (rate("router_hedges_total", by="outcome"), "{{outcome}}"),
                ),
                third(
                    "Response cache",
                    "Lookups by result.",
                    "reqps",
                    (rate("router_cache_lookups_total", by="result"), "{{result}}"),
                ),
            ],
        ),
        (
            "The machinery",
            [
                third(
                    "Records waiting for the disk",
                    "Normal: a handful.",
                    "none",
                    (f"sum ({selector('router_spool_lag_records')})", "records"),
                ),
                third(
                    "Records not written in time",
                    "By cause: slow, disk_full, write_error, queue_full.",
                    "cps",
                    (rate("router_spool_dropped_total", by="cause"), "{{cause}}"),
                ),
                third(
                    "Shared state",
                    "1: reachable from every worker. Below it, uses that failed.",
                    "none",
                    (f"min ({selector('router_state_up')})", "reachable"),
                    (rate("router_state_errors_total", by="feature"), "failed: {{feature}}"),
                ),
                third(
                    "Policies that raised",
                    "`on_policy_error` decided instead.",
                    "cps",
                    (rate("router_policy_errors_total", by="policy"), "{{policy}}"),
                ),
                third(
                    "Signals that did not come in time",
                    "Policies that need them abstained.",
                    "cps",
                    (rate("router_signals_unavailable_total", by="signal"), "{{signal}}"),
                ),
                third(
                    "Policy document not applied",
                    "Versions that could not be used or kept; the one before serves.",
                    "cps",
                    (rate("router_policy_apply_failures_total", by="cause"), "{{cause}}"),
                ),
            ],
        ),
    )
