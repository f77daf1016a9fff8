"""A real gateway on a real socket, between two fake backends."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import msgspec
import openai
import pytest
import uvicorn.server

from loadtests.fake_backend import BackendThread
from policies.record import DecisionRecord
from policies.traffic.reader import decisions
from router import server
from router.app import Background, build_app
from router.config import Config
from router.config_file import parse

CONFIG = """
[server]
port = 0
idle_grace_s = 0.01
probe_interval_s = 60.0
{server}
[student]
base_url = "{student_url}"
model = "{student_model}"
context_window_tokens = 8192
price_usd_per_1m_input_tokens = 0.02
price_usd_per_1m_output_tokens = 0.04
{student}
[teacher]
base_url = "{teacher_url}"
model = "{teacher_model}"
price_usd_per_1m_input_tokens = 2.5
price_usd_per_1m_output_tokens = 10.0
{teacher}
[log]
dir = "{log_dir}"
write_timeout_s = 10.0  # a busy machine must not let an answer overtake its record
{rest}
"""


class RunningGateway:
    """A gateway served by uvicorn on a thread of its own."""

    def __init__(
        self,
        config: Config,
        environ: dict[str, str],
        background: Background | None = None,
        *,
        path: Path | None = None,
    ) -> None:
        self.config = config
        self._listener = server.bind(config.server)
        self.origin = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._started = threading.Event()
        app = build_app(config, environ=environ, background=background, path=path)
        self._server = server.build(app, config.server, self._listener, lambda _: self._started.set())
        self._thread = threading.Thread(target=self._server.run, args=([self._listener],), daemon=True)

    def start(self) -> None:
        self._thread.start()
        assert self._started.wait(20), "the gateway did not start"

    def begin_stop(self) -> None:
        self._server.should_exit = True

    def stop(self) -> None:
        self.begin_stop()
        self._thread.join(20)
        assert not self._thread.is_alive(), "the gateway did not stop"

    def client(self, key: str = "unused-key") -> openai.OpenAI:
        """The official client, without its own retries."""
        return openai.OpenAI(base_url=f"{self.origin}/v1", api_key=key, max_retries=0, timeout=20)

    def post(self, body: Any, **options: Any) -> httpx.Response:
        """A raw request, for what the official client would not send."""
        content = body if isinstance(body, bytes) else msgspec.json.encode(body)
        options = {"timeout": 20, **options}
        return httpx.post(f"{self.origin}/v1/chat/completions", content=content, **options)

    def records(self) -> list[DecisionRecord]:
        """What the traffic log holds now."""
        return list(decisions(Path(self.config.log.dir)))

    def metric(self, line_start: str) -> float:
        """The value of the first sample whose line starts like this; 0 when there is none."""
        for line in httpx.get(f"{self.origin}/metrics").text.splitlines():
            if line.startswith(line_start):
                return float(line.rpartition(" ")[2])
        return 0.0

    def total(self, name: str) -> float:
        """The values of all samples of a metric together, whatever their labels."""
        lines = httpx.get(f"{self.origin}/metrics").text.splitlines()
        return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith((f"{name}{{", f"{name} ")))


def chats(backend: BackendThread) -> int:
    """How many chat requests a backend has seen; the gateway's probes are not among them."""
    return sum(received.path.endswith("/chat/completions") for received in backend.state.received)


StartGateway = Callable[..., RunningGateway]


@pytest.fixture(scope="session", autouse=True)
def quick_stops() -> Iterator[None]:
    """uvicorn looks every 0.1 s whether it is to stop, and then waits as long: more than most tests take themselves."""
    seen = SimpleNamespace(**vars(asyncio))
    seen.sleep = lambda delay_s: asyncio.sleep(min(delay_s, 0.01))
    uvicorn.server.asyncio = seen  # type: ignore[attr-defined]
    yield
    uvicorn.server.asyncio = asyncio  # type: ignore[attr-defined]


@pytest.fixture(scope="session")
def student() -> Iterator[BackendThread]:
    with BackendThread(models=("student",)) as running:
        yield running


@pytest.fixture(scope="session")
def teacher() -> Iterator[BackendThread]:
    with BackendThread(models=("teacher",)) as running:
        yield running


@pytest.fixture
def start_gateway(student: BackendThread, teacher: BackendThread, tmp_path: Path) -> Iterator[StartGateway]:
    """Starts a gateway; the models' names choose what the fake backends do."""
    running: list[RunningGateway] = []
    student.state.reset()
    teacher.state.reset()

    def start(environ: dict[str, str] | None = None, **parts: str) -> RunningGateway:
        values = {
            "server": "", "student": "", "teacher": "", "rest": "",
            "student_url": student.base_url, "teacher_url": teacher.base_url,
            "student_model": "student", "teacher_model": "teacher",
            "log_dir": str(tmp_path / "traffic"),
        }  # fmt: skip
        config = parse(CONFIG.format(**(values | parts)))
        if "dir" not in config.admin.model_fields_set:  # as a key, it would end the tables that tests add to `rest`
            admin = config.admin.model_copy(update={"dir": str(tmp_path / "admin")})
            config = config.model_copy(update={"admin": admin})
        gateway = RunningGateway(config, environ or {})
        running.append(gateway)
        gateway.start()
        return gateway

    yield start
    for gateway in running:
        gateway.begin_stop()
    for gateway in running:
        gateway.stop()


@pytest.fixture
def gateway(start_gateway: StartGateway) -> RunningGateway:
    return start_gateway()


@pytest.fixture
def wait_until() -> Callable[[Callable[[], bool]], None]:
    """Waits for something that another thread does; fails after a generous time."""

    def wait(condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 15
        while not condition():
            assert time.monotonic() < deadline, "the condition never became true"
            time.sleep(0.01)

    return wait
