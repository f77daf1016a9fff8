"""`report.json` and `report.html`: the figures and the verdict, for programs and for people. One file, no network."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from trainer.evaluation import plots
from trainer.evaluation.gate import GateResult
from trainer.stage import StageError

ABSENT = "n/a"
TEMPLATE = Path(__file__).with_name("report.html.j2")


def report_json(name: str, evaluation: Mapping[str, Any], gate: GateResult) -> dict[str, Any]:
    """Shares instead of the outcome of every single question: those are in evaluation.json."""
    shown = {key: value for key, value in evaluation.items() if key not in ("suites", "safety")}
    return {
        "name": name,
        "verdict": gate.verdict,
        "gate": msgspec.to_builtins(gate),
        **shown,
        "suites": suite_rows(evaluation),
        "safety": safety_rows(evaluation),
    }


def report_html(name: str, evaluation: Mapping[str, Any], gate: GateResult, confidence: float) -> str:
    """Raises: StageError: jinja2 is not installed."""
    try:
        from jinja2 import Environment  # noqa: PLC0415 - heavy, and only in the extra
    except ImportError as exc:
        raise StageError("the report needs jinja2: pip install 'locum[loop]'") from exc
    environment = Environment(autoescape=True)
    environment.filters.update(percent=_percent, points=_points, number=_number, level=_level)
    shown = [check for check in gate.checks if check.kind in ("overall", "category")]
    return environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        name=name,
        evaluation=evaluation,
        gate=gate,
        confidence=confidence,
        suites=suite_rows(evaluation),
        safety=safety_rows(evaluation),
        format_rows=_format_rows(evaluation),
        accuracy_plot=plots.intervals(shown),
        reliability_plot=plots.reliability(evaluation["calibration"].get("reliability", [])),
    )


def suite_rows(evaluation: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [
        {
            "name": name,
            "licence": suite["licence"],
            "against": suite["reference"],
            "n": len(suite["student"]),
            "student": _share(suite["student"]),
            "reference": _share(suite["outcomes"]),
        }
        for name, suite in evaluation["suites"].items()
    ]


def safety_rows(evaluation: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [
        {
            "name": name,
            "n": max((len(each) for each in outcomes.values()), default=0),
            **{role: _share(outcomes.get(role)) for role in ("student", "teacher", "previous")},
        }
        for name, outcomes in evaluation["safety"].items()
    ]


def _share(outcomes: Mapping[str, bool] | None) -> float | None:
    return sum(outcomes.values()) / len(outcomes) if outcomes else None


def _format_rows(evaluation: Mapping[str, Any]) -> list[tuple[str, str]]:
    drift, speeds = evaluation["format"]["teacher"], evaluation["speed"]
    rows = [
        ("answer length, student / teacher", _number(drift["length_ratio"])),
        ("answers cut at the limit, student", _percent(drift["truncated_share"])),
        ("answers cut at the limit, teacher", _percent(drift["reference_truncated_share"])),
        ("empty answers, student", _percent(drift["empty_share"])),
        ("answers outside the task's labels, student", _percent(drift["outside_labels_share"])),
        ("answers outside the task's labels, teacher", _percent(drift["reference_outside_labels_share"])),
    ]
    for role in ("student", "teacher"):
        if (measured := speeds[role]) is not None:
            rows += [
                (f"requests a second, {role}", f"{measured['requests_per_s']:.1f}"),
                (f"output tokens a second, {role}", f"{measured['output_tokens_per_s']:.1f}"),
                (f"USD per 1,000 requests, {role} (measured)", f"{measured['usd_per_1000_requests']:.6f}"),
            ]
    if speeds["times_cheaper"] is not None:
        rows.append(("student cheaper by", f"{speeds['times_cheaper']:.2f} times"))
    return rows


def _percent(value: float | None) -> str:
    return ABSENT if value is None else f"{value * 100:.1f} %"


def _points(value: float | None) -> str:
    return ABSENT if value is None else f"{value * 100:+.1f}"


def _level(value: float) -> str:
    return f"{value:.2%}"


def _number(value: float | None) -> str:
    return ABSENT if value is None else f"{value:.3f}"
