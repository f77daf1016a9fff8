"""`router_promotion_phase`: what the gateway has made of the registry's pointer, read when Prometheus asks."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import get_args

from prometheus_client.metrics_core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from serving.switch_state import Phase, read_state

NAME = "router_promotion_phase"
HELP = "Phase of the last promotion: 1 for the one that it is in."


class PromotionPhase(Collector):
    """One series a phase, since PromQL can tell a phase only from its absence in all others. Nothing before a gateway
    has written the registry's state."""

    def __init__(self, registry_folder: Path) -> None:
        self._folder = registry_folder

    def describe(self) -> Iterator[Metric]:
        yield GaugeMetricFamily(NAME, HELP, labels=["phase"])

    def collect(self) -> Iterator[Metric]:
        family = GaugeMetricFamily(NAME, HELP, labels=["phase"])
        try:
            state = read_state(self._folder)
        except OSError:
            state = None  # the scrape goes on without it
        if state is not None:
            for phase in get_args(Phase):
                family.add_metric([phase], float(phase == state.phase))
        yield family
