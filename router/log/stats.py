"""`locum log stats`: what is in the log, what it cost, and whether distilling would pay at this volume."""

# ruff: noqa: S608 - nothing in these statements comes from a user

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from policies.traffic.sql import LogDatabase

MONTH_S = 365.25 / 12 * 86_400
SHORT_SPAN_S = 86_400.0
"""Below a day the extrapolation to a month says little."""

Row = dict[str, Any]

# The student's work beside an answer that is not its own, as `router.pricing.students_part_usd` has it. A record has no
# cost when a part of it is unknown, as after a client has left; the student's part may be known all the same.
_BESIDE = "CASE WHEN machine_priced THEN machine_usd ELSE draft.cost_usd END"
_TOTALS = f"""
SELECT count(*) AS records, min(created_s) AS first_s, max(created_s) AS last_s,
       sum(COALESCE(cost_usd, {_BESIDE})) FILTER (WHERE purpose <> 'embedding') AS cost_usd,
       sum(counterfactual_cost_usd) AS counterfactual_cost_usd,
       count(*) FILTER (WHERE cost_usd IS NULL AND route IS NOT NULL) AS without_cost,
       sum(machine_usd) AS machine_usd, bool_or(machine_priced) AS machine_priced
FROM records
"""
_DRAFTS = "FROM records WHERE draft IS NOT NULL AND (route IS DISTINCT FROM 'student' OR draft.window.asked_again)"
# An answer that the student began and a teacher continued: each has its part.
_CONTINUED = "COALESCE(draft.window.late.action = 'continue', false)"
_COUNTS = ("prompt_tokens", "cached_tokens", "cache_write_tokens", "completion_tokens", "reasoning_tokens")
_SUMS = ", ".join(f"sum({count})::BIGINT AS {count}" for count in _COUNTS)


_OWN_COUNTS = ", ".join(
    f"CASE WHEN {_CONTINUED} THEN draft.usage.{count} ELSE usage.{count} END AS {count}" for count in _COUNTS
)


def _counts_of(usage: str) -> str:
    return ", ".join(f"{usage}.{count} AS {count}" for count in _COUNTS)


_TOKENS = f"""
SELECT name, sum(requests)::BIGINT AS requests, {_SUMS}, sum(cost_usd) AS cost_usd
FROM (SELECT route AS name, 1 AS requests, {_OWN_COUNTS},
             CASE WHEN {_CONTINUED} THEN cost_usd - COALESCE(draft.window.late.cost_usd, 0)
                  WHEN route = 'student' THEN cost_usd ELSE cost_usd - COALESCE({_BESIDE}, 0) END AS cost_usd
      FROM records WHERE route IS NOT NULL
      UNION ALL
      SELECT 'student', 0, {_counts_of("draft.usage")}, NULL {_DRAFTS}
      UNION ALL
      SELECT 'teacher', 0, {_counts_of("draft.window.late.usage")}, draft.window.late.cost_usd
      FROM records WHERE {_CONTINUED}
      UNION ALL
      SELECT 'student', 0, {_counts_of("draft.sample_usage")}, NULL
      FROM records WHERE route = 'student' AND draft.sample_usage IS NOT NULL
      UNION ALL
      SELECT 'student', 0, NULL, NULL, NULL, NULL, NULL, {_BESIDE} FROM records WHERE route IS DISTINCT FROM 'student'
        AND {_BESIDE} IS NOT NULL)
GROUP BY name ORDER BY name
"""
# Beside the spend of requests: what it costs to know how good the answers are.
_QUALITY = """
SELECT count(*) AS shadows, count(*) FILTER (WHERE asked = 'student') AS asked_student,
       count(*) FILTER (WHERE asked = 'teacher') AS asked_teacher,
       sum(cost_usd) AS cost_usd, sum(judge_cost_usd) AS judge_cost_usd,
       count(*) FILTER (WHERE status = 'ok' AND cost_usd IS NULL) AS without_cost
FROM shadows WHERE status NOT LIKE 'skipped%'
"""
# Apart from the spend: no model that is routed has a part in them, and the teacher could not have answered instead.
_EMBEDDINGS = """
SELECT count(*) AS requests, sum(usage.prompt_tokens)::BIGINT AS prompt_tokens, sum(cost_usd) AS cost_usd
FROM records WHERE purpose = 'embedding'
"""
_THROWN_AWAY = f"""
SELECT count(*) AS drafts, {_SUMS}, sum(cost_usd) AS cost_usd
FROM (SELECT {_counts_of("draft.usage")}, draft.cost_usd AS cost_usd {_DRAFTS})
"""
_LABELS = """
SELECT (SELECT count(*) FROM feedback) AS judgements, count(*) AS judged_records,
       count(score) AS scores, count(label) AS labels, count(correction) AS corrections,
       avg(score) AS mean_score
FROM judgements
"""
# In this order: a record counts at the first condition that holds.
_USABLE = """
SELECT CASE WHEN purpose <> 'traffic' THEN 'not_traffic'
            WHEN outcome <> 'ok' THEN 'not_answered'
            WHEN route IS DISTINCT FROM 'teacher' THEN 'not_from_the_teacher'
            WHEN capture <> 'full' OR completion IS NULL OR request IS NULL THEN 'text_not_captured'
            WHEN distillation = 'denied' THEN 'licence_denied'
            WHEN distillation = 'conditional' THEN 'licence_conditional'
            ELSE 'usable' END AS name, count(*) AS records
FROM records GROUP BY 1 ORDER BY 2 DESC
"""
# What a request of real traffic would cost at the teacher, by the log's prices or by those that are given.
_TEACHER = """
SELECT count(*) AS requests, avg(counterfactual_cost_usd) AS logged_usd,
       avg(usage.prompt_tokens) AS prompt_tokens, avg(usage.completion_tokens) AS completion_tokens
FROM records WHERE purpose = 'traffic' AND route IS NOT NULL
"""


@dataclass(frozen=True)
class Assumptions:
    """What the log cannot know. Money in USD."""

    student_usd_per_month: float
    """The machine that serves the student, whether it is busy or not."""
    training_usd: float
    """Distilling once."""
    escalated_share: float
    """Share of the teacher-priced tokens that still goes to the teacher."""
    teacher_input_usd_per_1m: float | None = None
    teacher_output_usd_per_1m: float | None = None
    """Override the prices of the log."""


def collect(log: LogDatabase, assumptions: Assumptions) -> dict[str, Any]:
    """All figures, as JSON. Raises: QueryError."""
    totals = _rows(log, _TOTALS)[0]
    span_s = (totals["last_s"] or 0.0) - (totals["first_s"] or 0.0)
    teacher = _rows(log, _TEACHER)[0]
    return {
        "records": totals["records"],
        "first_s": totals["first_s"],
        "last_s": totals["last_s"],
        "span_s": span_s,
        **{f"by_{key}": _counts(log, key) for key in ("route", "reason", "outcome", "purpose", "capture")},
        "tokens": {row.pop("name"): row for row in _rows(log, _TOKENS)},
        "drafts_thrown_away": _rows(log, _THROWN_AWAY)[0],
        "spend": _spend(totals, span_s),
        "machine": {"usd": totals["machine_usd"], "part_of_spend": bool(totals["machine_priced"])},
        "quality": _rows(log, _QUALITY)[0],
        "embeddings": _rows(log, _EMBEDDINGS)[0],
        "labels": _rows(log, _LABELS)[0],
        "distillation": {row["name"]: row["records"] for row in _rows(log, _USABLE)},
        "break_even": break_even(teacher, span_s, assumptions),
        "damaged_lines": len(log.damage),
        "doubled_records": len(log.doubled),
    }


def _counts(log: LogDatabase, column: str) -> dict[str, int]:
    sql = f"SELECT COALESCE({column}, 'none') AS name, count(*) AS records FROM records GROUP BY 1 ORDER BY 2 DESC, 1"
    return {row["name"]: row["records"] for row in _rows(log, sql)}


def _spend(totals: Row, span_s: float) -> dict[str, Any]:
    spent, counterfactual = totals["cost_usd"], totals["counterfactual_cost_usd"]
    return {
        "usd": spent,
        "usd_per_month": _monthly(spent, span_s),
        "counterfactual_usd": counterfactual,
        "counterfactual_usd_per_month": _monthly(counterfactual, span_s),
        "answers_without_cost": totals["without_cost"],
        "extrapolated_from_s": span_s,
    }


def _monthly(amount: float | None, span_s: float) -> float | None:
    return amount * MONTH_S / span_s if amount is not None and span_s > 0 else None


def break_even(teacher: Row, span_s: float, assumptions: Assumptions) -> dict[str, Any]:
    """Compare all-teacher with a student that keeps `1 - escalated_share` of the teacher's work.

    Per month: all-teacher costs n*t; with the student q*n*t + M, so it pays from n = M / ((1 - q) * t) requests on,
    and what distilling costs once is back after that divided by the savings.
    """
    per_request, source = _teacher_usd_per_request(teacher, assumptions)
    requests = _monthly(float(teacher["requests"]), span_s)
    share = assumptions.escalated_share
    result: dict[str, Any] = {
        "assumptions": {
            "student_usd_per_month": assumptions.student_usd_per_month,
            "training_usd": assumptions.training_usd,
            "escalated_share": share,
        },
        "teacher_usd_per_request": per_request,
        "teacher_price_source": source,
        "requests_per_month": requests,
        "all_teacher_usd_per_month": None,
        "with_student_usd_per_month": None,
        "saving_usd_per_month": None,
        "break_even_requests_per_month": None,
        "payback_months": None,
        "pays": None,
    }
    if per_request:
        result["break_even_requests_per_month"] = assumptions.student_usd_per_month / ((1 - share) * per_request)
    if per_request is not None and requests is not None:
        before = requests * per_request
        after = share * before + assumptions.student_usd_per_month
        saving = before - after
        result |= {
            "all_teacher_usd_per_month": before,
            "with_student_usd_per_month": after,
            "saving_usd_per_month": saving,
            "payback_months": assumptions.training_usd / saving if saving > 0 else None,
            "pays": saving > 0,
        }
    return result


def _teacher_usd_per_request(teacher: Row, assumptions: Assumptions) -> tuple[float | None, str]:
    input_usd, output_usd = assumptions.teacher_input_usd_per_1m, assumptions.teacher_output_usd_per_1m
    if input_usd is None or output_usd is None:
        return teacher["logged_usd"], "log"
    if teacher["prompt_tokens"] is None:
        return None, "options"
    return (teacher["prompt_tokens"] * input_usd + teacher["completion_tokens"] * output_usd) / 1e6, "options"


def _rows(log: LogDatabase, sql: str) -> list[Row]:
    names, rows = log.query(sql)
    return [dict(zip(names, row, strict=True)) for row in rows]
