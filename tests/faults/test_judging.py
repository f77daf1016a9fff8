"""The judges judge: a bare upstream, which protects nobody, fails what it must fail and keeps what it must keep."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from loadtests.children import Child
from loadtests.faults.cases import CASES
from loadtests.faults.play import Cell
from loadtests.faults.report import Report, SystemReport, page
from loadtests.faults.stage import Backends, Stage
from loadtests.faults.system import Launch
from loadtests.faults.systems.locum import Locum
from loadtests.faults.transcript import read_stream
from loadtests.faults.wire import Client

BY_NAME = {case.name: case for case in CASES}
A_BARE_UPSTREAM_FAILS = (
    "reset-mid-stream",
    "closed-mid-stream",
    "no-finish-reason",
    "choice-lost",
    "error-mid-stream",
    "done-missing",
    "html-502",
    "html-200-alone",
    "invalid-json",
)
A_BARE_UPSTREAM_PASSES = (
    "retry-after",
    "leaves-mid-stream",
    "leaves-plain",
    "leaves-first-byte",
    "parameters",
    "tools",
    "request-members",
    "request-bytes",
    "answer-members",
    "answer-bytes",
    "answer-id",
    "usage-unasked",
    "usage-asked",
    "crlf",
    "split-utf8",
    "heartbeats",
    "pipelined",
    "expect-continue",
    "many-streams",
    "interim-answers",
    "answer-trailers",
)


@pytest_asyncio.fixture
async def bare() -> AsyncIterator[Stage]:
    """The first upstream in the place of the gateway."""
    async with Backends() as backends:
        nobody = Child("nobody", ["true"], cores=set(), ready_url="", log=None, ready_timeout_s=0)  # type: ignore[arg-type]
        launch = Launch(command=(), ready_path="/health", model="student")
        yield Stage(Locum(), launch, nobody, backends.first.origin, backends)


@pytest.mark.parametrize("name", A_BARE_UPSTREAM_FAILS)
async def test_case_is_failed_when_nothing_protects_the_client(bare: Stage, name: str) -> None:
    verdict = await BY_NAME[name].judge(bare, BY_NAME[name].upstream)
    assert not verdict.passed, verdict.saw
    assert verdict.saw


@pytest.mark.parametrize("name", A_BARE_UPSTREAM_PASSES)
async def test_case_is_passed_when_nothing_is_in_the_way(bare: Stage, name: str) -> None:
    verdict = await BY_NAME[name].judge(bare, BY_NAME[name].upstream)
    assert verdict.passed, verdict.saw


class Staying(Client):
    """Never closes its connection, whatever it says."""

    def leave(self, *, reset: bool = False) -> None:
        """Stay."""

    async def __aexit__(self, *error: object) -> None:
        """Stay."""


class StayingStage(Stage):
    def connect(self, **options: int) -> Client:
        return Staying(self.origin, **options)


async def test_case_is_failed_when_the_upstream_goes_on_for_nobody(bare: Stage) -> None:
    stage = StayingStage(bare.system, bare.launch, bare.child, bare.origin, bare.upstreams)
    verdict = await BY_NAME["leaves-plain"].judge(stage, BY_NAME["leaves-plain"].upstream)
    assert not verdict.passed
    assert "for nobody" in verdict.saw


def test_stream_is_read_by_the_rules_of_events_when_lines_end_oddly() -> None:
    body = b': beat\r\n\r\ndata: {"choices":[{"index":0,\r\ndata: "delta":{"content":"a"}}]}\r\n\r\ndata:[DONE]\n\ndata: x\n'
    found = read_stream(body)
    assert (found.text, found.done, found.after_done) == ("a", 1, 0)
    assert found.rest_bytes == len(b"data: x")


def test_page_shows_a_sentence_for_every_failed_case() -> None:
    cells = [
        Cell(case=case.name, outcome="fail" if case is CASES[0] else "pass", saw=f"saw {case.name}") for case in CASES
    ]
    systems = [
        SystemReport(name="One", version="1.0", about="as is", cells=cells),
        SystemReport(name="Two", version="2.0", about="as is", not_installed="no such package"),
    ]
    text = page(Report(date="2026-11-22", commit="abc", hardware="a machine", python="3.11", systems=systems))
    assert "not installed: no such package" in text
    assert f"saw {CASES[0].name}." in text
    assert f"saw {CASES[1].name}." not in text
    assert all(f"| {case.title} |" in text for case in CASES)


def test_names_of_cases_are_unique() -> None:
    assert len(BY_NAME) == len(CASES)
