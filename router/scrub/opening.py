"""Makes the traffic log that a configuration asks for, with or without an engine before it."""

from __future__ import annotations

from collections.abc import Mapping

from router.config import ConfigError, LogConfig
from router.config.scrub import ScrubConfig
from router.metrics import Metrics
from router.scrub.findings import Engine, Engines
from router.traffic_log import TrafficLog

SOURCE = "log.scrub"


def open_log(config: LogConfig, metrics: Metrics, environ: Mapping[str, str]) -> TrafficLog:
    """Raises: ConfigError: an engine cannot be made."""
    if not config.scrub.is_on:
        return TrafficLog(config, metrics, environ)
    from router.scrub.spool import ScrubbedLog  # noqa: PLC0415 - a gateway that does not scrub does without it

    return ScrubbedLog(config, metrics, open_engine(config.scrub), environ)


def open_engine(config: ScrubConfig) -> Engine:
    """Raises: ConfigError."""
    from router.scrub.engine import BuiltInEngine, PatternError  # noqa: PLC0415

    try:
        built_in = BuiltInEngine(config.enabled, config.patterns)
    except PatternError as exc:
        raise ConfigError(SOURCE, [f"patterns.{exc}"]) from exc
    except ImportError as exc:
        raise ConfigError(SOURCE, ["scrubbing needs RE2: pip install google-re2"]) from exc
    if config.engine == "builtin":
        return built_in
    from router.scrub.presidio import PresidioEngine  # noqa: PLC0415

    try:
        return Engines([built_in, PresidioEngine(config.presidio)])
    except ImportError as exc:
        raise ConfigError(SOURCE, ["engine = \"presidio\" needs pip install 'locum[scrub]'"]) from exc
    except OSError as exc:
        model = config.presidio.spacy_model
        raise ConfigError(SOURCE, [f"presidio.spacy_model: {model!r} is not installed"]) from exc
    except ValueError as exc:
        raise ConfigError(SOURCE, [f"presidio.entities: {exc}"]) from exc
