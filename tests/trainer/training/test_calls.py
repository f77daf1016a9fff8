"""Retries, what no retry can mend, and what an error says: the same for judge, re-scoring and evaluation."""

from __future__ import annotations

import socket

import httpx
import pytest

from tests.trainer.training.conftest import FakeTeacher
from trainer.calls import Caller, Calls, Unanswered, error_text
from trainer.recipe import Endpoint
from trainer.stage import StageError

CALLER = Caller("quality.judge", "judge", attempts=7)
CHAT = {"model": "teacher", "messages": []}


class Sleeper:
    def __init__(self) -> None:
        self.slept: list[float] = []

    async def __call__(self, delay_s: float) -> None:
        self.slept.append(delay_s)


async def post(url: str, sleep: Sleeper, model: str = "teacher") -> httpx.Response:
    async with Calls(Endpoint(base_url=url, model=model), CALLER, sleep=sleep) as calls:
        return await calls.post("/chat/completions", {**CHAT, "model": model})


async def test_call_waits_twice_as_long_each_time_when_the_endpoint_is_busy(teacher: FakeTeacher) -> None:
    teacher.failing = [503, 429, 500]
    sleep = Sleeper()
    assert (await post(teacher.url, sleep)).status_code == 200
    assert sleep.slept == [0.5, 1.0, 2.0] and len(teacher.bodies) == 4


async def test_call_gives_up_and_names_the_last_problem_when_the_endpoint_stays_busy(teacher: FakeTeacher) -> None:
    teacher.failing = [503] * 20
    sleep = Sleeper()
    with pytest.raises(Unanswered, match="HTTP 503: told to fail") as caught:
        await post(teacher.url, sleep)
    assert caught.value.problem == "HTTP 503"
    assert len(teacher.bodies) == 7 and max(sleep.slept) <= 20.0


async def test_call_is_repeated_when_nothing_listens() -> None:
    with socket.socket() as reserved:  # bound and not listening: connections are refused
        reserved.bind(("127.0.0.1", 0))
        sleep = Sleeper()
        with pytest.raises(Unanswered, match="ConnectError"):
            await post(f"http://127.0.0.1:{reserved.getsockname()[1]}/v1", sleep)
    assert len(sleep.slept) == 6


async def test_wrong_model_ends_at_once_and_names_the_table(teacher: FakeTeacher) -> None:
    with pytest.raises(StageError, match=r"quality\.judge: .* answers HTTP 404: no such model; check .*\(absent\)"):
        await post(teacher.url, Sleeper(), model="absent")
    assert len(teacher.bodies) == 1


async def test_refused_request_is_returned_and_not_repeated(teacher: FakeTeacher) -> None:
    teacher.failing = [422]
    assert (await post(teacher.url, Sleeper())).status_code == 422
    assert len(teacher.bodies) == 1


def test_missing_key_names_the_field_and_the_variable() -> None:
    endpoint = Endpoint(base_url="http://127.0.0.1:9/v1", model="m", api_key_env="A_KEY")
    with pytest.raises(StageError, match=r"quality\.judge\.api_key_env: the variable A_KEY is not set"):
        Calls(endpoint, CALLER, environ={})


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b'{"error": {"message": "too long", "code": 400}}', "too long"),
        (b'{"error": "too long"}', "too long"),
        (b'{"detail": 1}', "{'detail': 1}"),
        (b"<html>bad gateway", "<html>bad gateway"),
        (b"x" * 9000, "x" * 400),
    ],
)
def test_error_text_is_the_message_or_the_body(content: bytes, text: str) -> None:
    assert error_text(httpx.Response(400, content=content)) == text
