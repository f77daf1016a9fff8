"""The board for the people who make the student: which one serves, is it still what was promised, what is next."""

from __future__ import annotations

from grafana_foundation_sdk.builders.dashboard import Dashboard

from deploy.dashboards.panels import board, chart, increase, listing, number, or_zero, rate, selector, third

GRADES = 'moment="n"'


def flywheel() -> Dashboard:
    return board(
        "locum-flywheel",
        "Locum: student and flywheel",
        "Which student serves, whether it still behaves as it did when it was promoted, and what the next one will "
        "be trained on.",
        (
            "Now",
            [
                listing(
                    "The student that serves",
                    "Bundle id; before bundles the model's name.",
                    f"group by (job, student) ({selector('router_student_info')})",
                    ["job", "student"],
                    width=8,
                ),
                listing(
                    "Policy document",
                    "The version in force.",
                    f"group by (job, version) ({selector('router_policy_version_info')})",
                    ["job", "version"],
                    width=8,
                ),
                number(
                    "Alarms",
                    "Drift detectors that ring.",
                    "none",
                    f"count(max by (detector) ({selector('router_drift_alarm')}) > 0) or vector(0)",
                    decimals=0,
                    bad_above=1,
                ),
                number(
                    "Training examples",
                    "Teacher answers that may be trained on, logged over the chosen time.",
                    "none",
                    or_zero(increase("router_training_examples_total", 'licence="allowed"')),
                    decimals=0,
                ),
            ],
        ),
        (
            "Does the student still behave as promised?",
            [
                chart(
                    "Drift by detector",
                    "Distance between now and the reference, in units of each detector's alarm "
                    "threshold where it has one; the highest over tags.",
                    "none",
                    (f"max by (detector) ({selector('router_drift_score')})", "{{detector}}"),
                ),
                chart(
                    "Alarms",
                    "1: the detector rings.",
                    "none",
                    (f"max by (detector) ({selector('router_drift_alarm')})", "{{detector}}"),
                    top=1,
                ),
                third(
                    "Calibration error",
                    "Expected calibration error of P(wrong) on graded requests: what the "
                    "threshold's promise stands on.",
                    "percentunit",
                    (f"max ({selector('router_calibration_error')})", "ECE"),
                ),
                third(
                    "Regression set",
                    "Mean score on the scheduled set; the teacher is asked less often.",
                    "percentunit",
                    (f"min by (route) ({selector('router_regression_score')})", "{{route}}"),
                    top=1,
                ),
                third(
                    "Regression items",
                    "Items per run by outcome.",
                    "none",
                    (rate("router_regression_items_total", by="outcome"), "{{outcome}}"),
                ),
            ],
        ),
        (
            "Promotion",
            [
                chart(
                    "Phase",
                    "What the gateway has made of the last promotion: `serving` in peace.",
                    "none",
                    (f"max by (phase) ({selector('router_promotion_phase')}) > 0", "{{phase}}"),
                    top=1,
                ),
                chart(
                    "Students in service",
                    "1: this bundle serves. Two at once: a promotion is spreading.",
                    "none",
                    (f"count by (student) ({selector('router_student_info')})", "{{student}}"),
                ),
            ],
        ),
        (
            "What the next student learns from",
            [
                third(
                    "Training examples",
                    "Teacher answers per hour by what the teacher's licence says of distilling them.",
                    "none",
                    (f"3600 * {rate('router_training_examples_total', by='licence')}", "{{licence}}"),
                ),
                third(
                    "Judgements",
                    "What labels arrive: feedback and graded shadow calls, per hour.",
                    "none",
                    (f"3600 * {rate('router_feedback_total', by='kind')}", "feedback: {{kind}}"),
                    (f"3600 * {rate('router_quality_moments_total', GRADES, by='source')}", "graded: {{source}}"),
                ),
                third(
                    "Scrubbed",
                    "Personal data taken out of records before they were written, per hour.",
                    "none",
                    (f"3600 * {rate('router_scrubbed_total', by='kind')}", "{{kind}}"),
                ),
            ],
        ),
    )
