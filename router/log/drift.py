"""Drift in a traffic log: the detectors of the gateway over the records, in the order of time."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from policies.quality.drift import DETECTORS, Detector, Monitor, Sizes
from policies.quality.drift_samples import Digester, sample_of
from policies.quality.drift_summaries import Calibration, Summary
from policies.quality.estimates import counted
from policies.record import DecisionRecord, ShadowRecord
from policies.traffic.reader import decisions, shadows
from router.quality.drift import describe, report

FIRST_BUCKET_S = 60.0
MAX_BUCKETS = 512
"""More are merged in pairs: a day in steps of 4 minutes, a month in steps of two hours."""


@dataclass
class Bucket:
    """What was counted of a stretch of time."""

    summary: Summary
    calibration: Calibration


class Buckets:
    """Counts by time, whatever the order of the records. Memory does not grow with the log."""

    def __init__(self) -> None:
        self.length_s = FIRST_BUCKET_S
        self._buckets: dict[int, Bucket] = {}

    def at(self, created_s: float) -> Bucket:
        number = int(created_s // self.length_s)
        if number not in self._buckets:
            self._buckets[number] = Bucket(Summary(), Calibration())
            while len(self._buckets) > MAX_BUCKETS:
                self._coarsen()
            number = int(created_s // self.length_s)
        return self._buckets[number]

    def in_order(self) -> list[Bucket]:
        return [self._buckets[number] for number in sorted(self._buckets)]

    def _coarsen(self) -> None:
        self.length_s *= 2
        merged: dict[int, Bucket] = {}
        for number in sorted(self._buckets):
            bucket = merged.setdefault(number // 2, Bucket(Summary(), Calibration()))
            bucket.summary.merge(self._buckets[number].summary)
            bucket.calibration.merge(self._buckets[number].calibration)
        self._buckets = merged


def count(folder: Path, *, tag: str | None, student: str | None, since_s: float) -> tuple[Buckets, str]:
    """Count a log.

    Args:
        student: whose answers; None: that of the newest record.
    Returns:
        The counts, and the student.
    Raises:
        TrafficError.
    """
    student = student or _newest_student(decisions(folder))
    buckets, digester = Buckets(), Digester()
    for record in decisions(folder):
        if record.created_s >= since_s and (record.student == student or record.route == "teacher"):
            sample = sample_of(record, tag)
            if sample is not None:
                digester.add(sample, buckets.at(record.created_s).summary)
    for shadow in shadows(folder):
        if shadow.created_s >= since_s and shadow.student == student:
            _add_shadow(shadow, buckets)
    return buckets, student


def compare(buckets: Buckets, monitor: Monitor, sizes: Sizes) -> list[dict[str, Any]]:
    """Let time pass; the alarms that began, in their order."""
    began: list[dict[str, Any]] = []
    ringing: set[Detector] = set()
    compared = 0
    for bucket in buckets.in_order():
        now_s = bucket.summary.last_s
        compared += bucket.summary.n if monitor.fixed_s is not None else 0
        monitor.take(bucket.summary, bucket.calibration, now_s=now_s, sizes=sizes)
        alarms = {name for name, finding in monitor.findings.items() if finding.alarm}
        for name in sorted(alarms - ringing):
            what = describe(monitor.findings[name])
            began.append({"at_s": now_s, "after_requests": compared, "detector": name, "what": what})
        ringing = alarms
    return began


def figures(monitor: Monitor, sizes: Sizes, began: list[dict[str, Any]]) -> dict[str, Any]:
    """Everything, as JSON."""
    return {**report(monitor, sizes), "began": began}


def show(found: dict[str, Any], console: Console) -> None:
    """Print what `figures` gives."""
    reference, window = found["reference"], found["window"]
    if reference["fixed_s"] is None:
        console.print(
            f"The reference of {escape(found['student'])} is not complete: {reference['requests']:,} of "
            f"{reference['wanted']:,} requests, spanning enough time. Nothing is compared yet."
        )
    else:
        console.print(
            f"Student {escape(found['student'])}: the last {window['requests']:,} requests against a reference of "
            f"{reference['requests']:,}; {found['looks']:,} looks."
        )
    table = Table(
        "detector", "score", "", "largest change", "in", "n", "reference", box=box.SIMPLE_HEAD, pad_edge=False
    )
    for name in DETECTORS:
        finding = found["detectors"][name]
        if finding is None:
            table.add_row(name, "-", "", "not measured", "", "", "")
            continue
        where = f"{finding['route'] or 'all'}" + (f", {escape(finding['tag'])}" if finding["tag"] else "")
        table.add_row(
            name, f"{finding['score']:.2f}", "[bold red]ALARM[/]" if finding["alarm"] else "",
            f"{escape(finding['measure'])} {finding['effect']:+.3f} (matters from {finding['threshold']:.3f})",
            where, f"{finding['n']:,}", f"{finding['reference_n']:,}",
        )  # fmt: skip
    console.print(table)
    calibration = found["calibration"]
    if calibration["labels"]:
        console.print(
            f"Calibration on {calibration['labels']:,} graded answers: {calibration['expected_wrong']:.1%} wrong were "
            f"expected, {calibration['observed_wrong']:.1%} were; calibration error {calibration['error']:.3f}."
        )
    for each in found["began"]:
        moment = time.strftime("%Y-%m-%d %H:%M", time.gmtime(each["at_s"]))
        console.print(f"{moment} UTC, after {each['after_requests']:,} compared requests: {escape(each['what'])}")


def _newest_student(records: Iterable[DecisionRecord]) -> str:
    newest, student = float("-inf"), ""
    for record in records:
        if record.created_s > newest and record.purpose == "traffic":
            newest, student = record.created_s, record.student
    return student


def _add_shadow(shadow: ShadowRecord, buckets: Buckets) -> None:
    grade = counted(shadow.grades)
    if grade is not None and grade.student is not None and shadow.predicted is not None:
        buckets.at(shadow.created_s).calibration.add(shadow.predicted, 1.0 - grade.student)
