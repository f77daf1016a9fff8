from __future__ import annotations

from pathlib import Path

from router.metrics import Metrics
from serving.switch_state import SwitchState, write_state


def test_phase_is_told_as_it_is_when_prometheus_asks(tmp_path: Path) -> None:
    metrics = Metrics()
    metrics.watch_promotion(tmp_path)
    assert b"router_promotion_phase{" not in metrics.render()

    for phase in ("starting", "serving"):
        write_state(tmp_path, SwitchState(phase=phase, time_s=1.0, since_s=1.0, pid=1))
        text = metrics.render().decode()
        on = [
            line for line in text.splitlines() if line.startswith("router_promotion_phase{") and line.endswith(" 1.0")
        ]
        assert on == [f'router_promotion_phase{{phase="{phase}"}} 1.0']


def test_a_state_that_cannot_be_read_leaves_the_other_metrics(tmp_path: Path) -> None:
    metrics = Metrics()
    metrics.watch_promotion(tmp_path)
    (tmp_path / "state.json").mkdir()

    assert b"router_inflight_requests" in metrics.render()
