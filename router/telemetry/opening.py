"""Opens telemetry where it is configured; without it nothing of OpenTelemetry is imported."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING

from router.config import ConfigError, TelemetryConfig

if TYPE_CHECKING:
    from router.telemetry.exporting import Telemetry


def open_telemetry(config: TelemetryConfig | None, environ: Mapping[str, str] = os.environ) -> Telemetry | None:
    """None: it is off. Raises: ConfigError: the packages are missing, or the headers are unusable."""
    if config is None or not (config.traces or config.metrics):
        return None
    try:
        from router.telemetry.exporting import Telemetry  # noqa: PLC0415 - an extra
    except ImportError as exc:
        raise ConfigError("telemetry", [f"needs {exc.name}: pip install 'locum[otel]'"]) from exc
    return Telemetry(config, environ)
