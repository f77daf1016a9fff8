"""A gateway with traffic, and a browser in front of its console."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest

from loadtests.console_browser import NoBrowser, browser
from loadtests.console_stage import Stage
from tests.contract.conftest import gateway, quick_stops, start_gateway, student, teacher

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext, Page

__all__ = ["gateway", "quick_stops", "start_gateway", "student", "teacher"]

WAIT_MS = 30_000
"""For what a busy machine takes its time for; nothing waits as long."""


class Operator:
    """Somebody in front of the console, and everything that their browser did."""

    def __init__(self, page: Page, stage: Stage) -> None:
        self.page = page
        self.stage = stage
        self.requested: list[str] = []
        self.complaints: list[str] = []
        page.set_default_timeout(WAIT_MS)
        page.on("request", lambda request: self.requested.append(request.url))
        page.on("pageerror", lambda error: self.complaints.append(f"error: {error}"))
        page.on("console", self._hear)

    def _hear(self, message: Any) -> None:
        if message.type in ("error", "warning") and "Failed to load resource" not in message.text:
            self.complaints.append(f"{message.type}: {message.text}")

    def sign_in(self, key: str | None = None) -> None:
        self.page.goto(f"{self.stage.origin}/admin/console")
        self.page.get_by_label("Admin key").fill(key or self.stage.key)
        self.page.get_by_role("button", name="Sign in").click()

    def open(self, view: str) -> Page:
        """A view, signed in, with what it loads."""
        if not self.requested:
            self.sign_in()
        self.page.get_by_role("navigation", name="Views").get_by_role("link", name=view).click()
        self.page.get_by_role("heading", level=1, name=view, exact=True).wait_for(state="attached")
        self.settle()
        return self.page

    def settle(self) -> None:
        """Wait until nothing loads."""
        self.page.wait_for_function("() => !document.querySelector('.loading, [aria-busy]')")

    def foreign_requests(self) -> list[str]:
        home = urlsplit(self.stage.origin).netloc
        return [url for url in self.requested if urlsplit(url).netloc != home]


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    with Stage(tmp_path_factory.mktemp("stage")) as running:
        running.traffic(120)
        yield running


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    """Not longer than a module: while Playwright's synchronous API is open, its event loop runs, and no other test of
    the process that needs a loop can have one."""
    try:
        with browser() as running:
            from playwright.sync_api import expect

            expect.set_options(timeout=WAIT_MS)
            yield running
    except NoBrowser as exc:
        pytest.skip(str(exc))


MakeOperator = Callable[..., Operator]


@pytest.fixture
def make_operator(chromium: Browser, stage: Stage) -> Iterator[MakeOperator]:
    """Operators, each in a browser profile of their own."""
    contexts: list[BrowserContext] = []
    operators: list[Operator] = []

    def make(*, width: int = 1280, height: int = 900, **options: Any) -> Operator:
        context = chromium.new_context(viewport={"width": width, "height": height}, **options)
        contexts.append(context)
        operators.append(Operator(context.new_page(), stage))
        return operators[-1]

    yield make
    for context in contexts:
        context.close()
    for each in operators:
        assert each.complaints == []
        assert each.foreign_requests() == []


@pytest.fixture
def operator(make_operator: MakeOperator) -> Operator:
    return make_operator()


@pytest.fixture
def files() -> Path:
    """The console's own."""
    return Path(__file__).parents[2] / "router" / "console"
