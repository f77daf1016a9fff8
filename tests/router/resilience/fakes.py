"""A clock that the test moves, and replicas that nothing is sent to."""

from __future__ import annotations

from random import Random
from typing import Any

from router.backends import Backend
from router.config import BackendConfig, ResilienceConfig
from router.resilience.load import EngineLoad
from router.resilience.pool import Pool


class FakeClock:
    """Monotonic seconds."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s

    def pass_(self, seconds: float) -> None:
        self.now_s += seconds

    async def sleep(self, seconds: float) -> None:
        """For what sleeps by an injected function."""
        self.now_s += seconds


class Request:
    """What the spread looks at."""

    def __init__(self, session: str | None = None, prompt: bytes = b"", *, stream: bool = False) -> None:
        self.session = session
        self.prompt = prompt
        self.stream = stream

    def session_key(self) -> bytes | None:
        return self.session.encode() if self.session else None

    def prompt_prefix(self, limit_bytes: int) -> bytes:
        return self.prompt[:limit_bytes]


def backend(route: Any = "student", name: str | None = None) -> Backend:
    return Backend(route, BackendConfig(base_url="http://127.0.0.1:9/v1", model=route), {}, name=name)


def pool(
    clock: FakeClock, *names: str, route: Any = "student", resilience: dict[str, Any] | None = None, **options: Any
) -> Pool:
    config = ResilienceConfig.model_validate(resilience or {})
    backends = [backend(route, name) for name in names or (route,)]
    return Pool(backends, config, clock=clock, random=Random(7), **options)


def engine(running: float = 0, waiting: float = 0, kv_usage: float | None = None) -> EngineLoad:
    return EngineLoad(running, waiting, kv_usage)
