"""Lines of the process's own log name their request, and hold no content."""

from __future__ import annotations

import asyncio
import gc
import json
import logging
from collections.abc import Iterator
from io import StringIO
from typing import Any

import pytest

from router.chat import ChatRequest
from router.logs import JsonFormatter, TextFormatter, belong_to
from router.routing import Decider
from tests.contract.conftest import StartGateway

SECRET = "a planted prompt"


class Request:
    def __init__(self, decision_id: str, route: str | None = None) -> None:
        self.decision_id = decision_id
        self.route = route


@pytest.fixture(params=[JsonFormatter, TextFormatter])
def output(request: Any) -> Iterator[StringIO]:
    written = StringIO()
    handler = logging.StreamHandler(written)
    handler.setFormatter(request.param())
    root = logging.getLogger()
    root.addHandler(handler)
    yield written
    root.removeHandler(handler)


@pytest.fixture
def lines() -> Iterator[list[dict[str, Any]]]:
    """What is logged as JSON."""
    found: list[dict[str, Any]] = []

    class Keeping(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            found.append(json.loads(self.format(record)))

    handler = Keeping()
    handler.setFormatter(JsonFormatter())
    loggers = [logging.getLogger(name) for name in ("router", "locum", "asyncio")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
    yield found
    for logger, level in zip(loggers, levels, strict=True):
        logger.removeHandler(handler)
        logger.setLevel(level)


def fail() -> None:
    try:
        raise ValueError(SECRET)
    except ValueError as exc:
        raise RuntimeError(f"cannot handle {SECRET}") from exc


def test_traceback_has_types_and_places_and_no_messages(output: StringIO) -> None:
    try:
        fail()
    except RuntimeError:
        logging.getLogger("router").exception("it failed")
    text = output.getvalue()
    assert SECRET not in text
    assert text.rindex("ValueError") < text.rindex("RuntimeError")
    assert "test_logs.py" in text
    assert "in fail" in text


async def test_exception_of_a_task_that_nobody_awaited_is_logged_without_its_message(output: StringIO) -> None:
    async def doomed() -> None:
        raise ValueError(SECRET)

    task = asyncio.create_task(doomed())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    del task
    gc.collect()
    text = output.getvalue()
    assert "never retrieved" in text
    assert SECRET not in text
    assert "ValueError" in text


async def test_lines_carry_the_decision_id_of_their_own_task(lines: list[dict[str, Any]]) -> None:
    requests = [Request(f"id-{number}") for number in range(5)]

    async def serve(request: Request) -> None:
        belong_to(request)
        await asyncio.sleep(0.001)
        request.route = "student"
        await asyncio.create_task(helper())

    async def helper() -> None:
        logging.getLogger("router").info("working")

    await asyncio.gather(*(asyncio.create_task(serve(request)) for request in requests))
    assert sorted(line["decision_id"] for line in lines) == [f"id-{number}" for number in range(5)]
    assert {line["route"] for line in lines} == {"student"}
    logging.getLogger("router").info("outside")
    assert "decision_id" not in lines[-1]


def test_line_of_json_is_one_line_whatever_the_message(output: StringIO) -> None:
    logging.getLogger("router").error("first\nsecond %s", {"odd": object()})
    text = output.getvalue()
    if text.startswith("{"):
        assert text.count("\n") == 1
        assert json.loads(text)["level"] == "error"


def test_access_log_has_a_line_a_request_without_content(
    start_gateway: StartGateway, lines: list[dict[str, Any]]
) -> None:
    gateway = start_gateway(server="access_log = true")
    for stream in (False, True):
        gateway.post({"model": "auto", "messages": [{"role": "user", "content": SECRET}], "stream": stream})
    gateway.post(b"{")
    records = {record.decision_id: record for record in gateway.records()}
    requests = [line for line in lines if line["logger"] == "locum.access"]
    assert {line["decision_id"] for line in requests} == set(records)
    for line in requests:
        record = records[line["decision_id"]]
        assert (line["status"], line["reason"], line["outcome"]) == (record.status, record.reason, record.outcome)
        assert line["route"] == (record.route or "none")
        assert line.get("cost_usd") == record.cost_usd
    assert SECRET not in json.dumps(lines)


def test_fault_of_the_gateway_is_logged_without_the_content_that_it_quotes(
    start_gateway: StartGateway, lines: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def quote(self: Decider, request: ChatRequest, **options: Any) -> None:
        raise ValueError(f"no rule for {request.body.text}")

    gateway = start_gateway(server="access_log = true")
    monkeypatch.setattr(Decider, "decide", quote)
    answer = gateway.post({"model": "auto", "messages": [{"role": "user", "content": SECRET}]})
    assert answer.status_code == 500
    assert SECRET not in answer.text
    (fault,) = [line for line in lines if line["level"] == "error"]
    assert fault["exception"] == "ValueError"
    assert fault["decision_id"] == answer.headers["x-router-decision-id"]
    assert any("in quote" in place for place in fault["traceback"])
    assert SECRET not in json.dumps(lines)


def test_every_line_of_a_request_carries_its_decision_id(
    start_gateway: StartGateway, lines: list[dict[str, Any]]
) -> None:
    gateway = start_gateway(student_model="fake-500", teacher_model="fake-reset")
    gateway.post({"model": "auto", "messages": [{"role": "user", "content": SECRET}]})
    (record,) = gateway.records()
    failures = [line for line in lines if " failed: " in line["message"]]
    assert failures
    assert {line["decision_id"] for line in failures} == {record.decision_id}
