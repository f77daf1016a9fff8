"""The board for the people who pay: what is answered where, what it costs and saves, and whether quality held."""

from __future__ import annotations

from grafana_foundation_sdk.builders.dashboard import Dashboard

from deploy.dashboards.panels import board, chart, increase, number, or_zero, rate, selector, third

DELIVERED = 'delivered="yes"'
ANSWERED = 'route=~"student|teacher"'
SPENT = increase("router_cost_usd_total")
ALL_TEACHER = increase("router_counterfactual_cost_usd_total")
OVERSIGHT = f"{or_zero(increase('router_shadow_cost_usd_total'))} + {or_zero(increase('router_judge_cost_usd_total'))}"


def cost_and_quality() -> Dashboard:
    return board(
        "locum-cost-quality",
        "Locum: cost and quality",
        "What is answered where, what it costs against all-teacher, and how good the answers are.",
        (
            "The split, over the chosen time",
            [
                number(
                    "Answered by the student",
                    "Share of the answered requests; cached answers count for the model that wrote them.",
                    "percentunit",
                    increase("router_requests_total", 'route="student"')
                    + " / "
                    + increase("router_requests_total", ANSWERED),
                ),
                number(
                    "Spend",
                    "Of all answers whose price is known, drafts that were thrown away included.",
                    "currencyUSD",
                    SPENT,
                    decimals=4,
                ),
                number(
                    "All-teacher",
                    "What the teacher would have charged for the same tokens.",
                    "currencyUSD",
                    ALL_TEACHER,
                    decimals=4,
                ),
                number(
                    "Times cheaper",
                    "All-teacher over spend, at the configured prices.",
                    "none",
                    f"{ALL_TEACHER} / {SPENT}",
                ),
                number(
                    "Spent on oversight",
                    "Shadow calls and judges: what it costs to know the quality. In no other figure of this board.",
                    "currencyUSD",
                    OVERSIGHT,
                    decimals=4,
                ),
                number(
                    "Without a price",
                    "Answers whose cost is unknown: they are missing in every figure in USD.",
                    "none",
                    or_zero(increase("router_unpriced_requests_total")),
                    decimals=0,
                    bad_above=1,
                ),
            ],
        ),
        (
            "Quality",
            [
                chart(
                    "Quality by route, over a day",
                    "Mean grade of the answers that clients got, in [0, 1], with a 95 % interval, weighted by the "
                    "probability with which each request was sampled. Wide intervals mean few grades.",
                    "percentunit",
                    (selector("router_quality_score", DELIVERED), "{{route}} ({{source}})"),
                    (selector("router_quality_score_low", DELIVERED), "{{route}} ({{source}}) low"),
                    (selector("router_quality_score_high", DELIVERED), "{{route}} ({{source}}) high"),
                    top=1,
                ),
                chart(
                    "Student minus teacher, on the same requests",
                    "Difference of the mean grades where the student answered and the teacher was asked too. "
                    "0: no loss.",
                    "percentunit",
                    (selector("router_quality_parity"), "student - teacher"),
                ).min(-1),
                third(
                    "Grades behind it",
                    "How many answers were graded in a day, by route and source.",
                    "none",
                    (
                        selector("router_quality_moment:increase1d", 'moment="n", delivered="yes"'),
                        "{{route}} ({{source}})",
                    ),
                ),
                third(
                    "Shadow calls",
                    "Sampled requests that the other model was asked too. Skipped ones bias nothing but leave gaps.",
                    "reqps",
                    (rate("router_shadow_total", by="asked, outcome"), "{{asked}} {{outcome}}"),
                ),
                third(
                    "Feedback",
                    "Judgements that clients sent.",
                    "reqps",
                    (rate("router_feedback_total", by="kind"), "{{kind}}"),
                ),
            ],
        ),
        (
            "Who answers, and why",
            [
                third(
                    "Answers by route",
                    "Requests per second by the model that answered.",
                    "reqps",
                    (rate("router_requests_total", ANSWERED, by="route"), "{{route}}"),
                    stacked=True,
                ),
                third(
                    "Escalations by reason",
                    "Requests that a policy sent to the teacher.",
                    "reqps",
                    (rate("router_escalations_total", by="policy, reason"), "{{policy}}: {{reason}}"),
                    stacked=True,
                ),
                third(
                    "Fallbacks by cause",
                    "Backends that failed before the first byte, so that another one answered: "
                    "not the policies' doing.",
                    "reqps",
                    (rate("router_fallbacks_total", by="cause"), "{{cause}}"),
                ),
            ],
        ),
        (
            "The teacher's budget and exploration",
            [
                third(
                    "Spent of the day's budgets",
                    "Of the policies budget and explore: since midnight UTC, and what budget expects to have spent "
                    "at the next. Well below 1: the policies want less than there is.",
                    "percentunit",
                    (f"max({selector('router_teacher_budget_spent_ratio')})", "budget"),
                    (f"max({selector('router_teacher_budget_forecast_ratio')})", "budget, expected at midnight"),
                    (f"max({selector('router_exploration_budget_spent_ratio')})", "explore"),
                ),
                third(
                    "Price of the teacher",
                    "What an escalation must be worth, in score, for each 1,000 tokens or USD. 0: there is enough for "
                    "all that the policies want. It ought to be steady.",
                    "none",
                    (f"max({selector('router_teacher_budget_price')})", "price"),
                ),
                third(
                    "Votes in shadow",
                    "Of policies that have no say yet: whether they agree with what was decided.",
                    "reqps",
                    (rate("router_shadow_votes_total", by="policy, agreement"), "{{policy}}: {{agreement}}"),
                    stacked=True,
                ),
            ],
        ),
        (
            "Money",
            [
                chart(
                    "Spend and what it would have been",
                    "USD per hour.",
                    "currencyUSD",
                    (f"3600 * {rate('router_cost_usd_total', by='route')}", "{{route}}"),
                    (f"3600 * {rate('router_counterfactual_cost_usd_total')}", "all-teacher"),
                ),
                chart(
                    "Tokens",
                    "As the backends counted them, drafts included. Cached and reasoning tokens are part "
                    "of input and output.",
                    "none",
                    (rate("router_tokens_total", by="route, direction"), "{{route}} {{direction}}"),
                ),
                third(
                    "Drafts thrown away",
                    "USD per hour for answers of the student that the cascade rejected.",
                    "currencyUSD",
                    (f"3600 * {rate('router_draft_cost_usd_total')}", "drafts"),
                ),
                third(
                    "The student's machine",
                    "USD per hour while it works and while it waits, where `machine_usd_per_hour` is set.",
                    "currencyUSD",
                    (f"3600 * {rate('router_student_machine_usd_total', by='state')}", "{{state}}"),
                    stacked=True,
                ),
                third(
                    "Oversight",
                    "USD per hour for shadow calls and judges.",
                    "currencyUSD",
                    (f"3600 * {rate('router_shadow_cost_usd_total', by='asked')}", "shadow calls to the {{asked}}"),
                    (f"3600 * {rate('router_judge_cost_usd_total')}", "judges"),
                ),
            ],
        ),
    )
