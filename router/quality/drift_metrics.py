"""Gauges of drift detection and of the regression set."""

from __future__ import annotations

from typing import Literal, get_args

from prometheus_client import CollectorRegistry, Counter, Gauge

from policies.quality.drift import DETECTORS

ItemOutcome = Literal["right", "wrong", "error"]


class DriftMetrics:
    """A part of `Metrics`. Every worker sets what it last read of the shared state."""

    registry: CollectorRegistry

    def _define_drift(self) -> None:
        self.drift_score = self._livemax(
            "router_drift_score",
            "How far traffic or answers are from the reference, by detector: at 1 its alarm rings. The largest over "
            "routes and tags.",
            ("detector",),
        )
        self.drift_alarm = self._livemax(
            "router_drift_alarm", "Whether a detector's alarm rings: the score is 1 or more.", ("detector",)
        )
        self.certificate_valid = Gauge(
            "router_certificate_valid",
            "Whether what was proven of a policy's threshold still holds: 0 when its student, teacher, score or "
            "threshold has changed, or an alarm of drift has rung and was not acknowledged. 1 also when it has no "
            "certificate any more.",
            ("policy",),
            registry=self.registry,
            multiprocess_mode="livemin",
        )
        self.calibration_error = self._livemax(
            "router_calibration_error", "Mean gap between stated P(wrong) and graded outcomes, by tenths of P(wrong)."
        )
        self.regression_score = self._livemax(
            "router_regression_score",
            "Share of the regression set that the model answered right in its last round; nothing before the first.",
            ("route",),
        )
        self.regression_alarm = self._livemax(
            "router_regression_alarm", "Whether the student's last round is surely worse than its best one before."
        )
        self.regression_items = Counter(
            "router_regression_items",
            "Items of the regression set that were asked, by how that ended.",
            ("outcome",),
            registry=self.registry,
        )
        for detector in DETECTORS:
            self.drift_score.labels(detector).set(0)
            self.drift_alarm.labels(detector).set(0)
        for outcome in get_args(ItemOutcome):
            self.regression_items.labels(outcome)

    def _livemax(self, name: str, text: str, labels: tuple[str, ...] = ()) -> Gauge:
        return Gauge(name, text, labels, registry=self.registry, multiprocess_mode="livemax")
