"""Sends the demo's requests through the official `openai` client and measures what a client sees."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from serving.demo.checks import check_answer
from serving.demo.requests import DemoRequest
from serving.demo.results import Prices, Result

if TYPE_CHECKING:
    from openai import AsyncOpenAI

CLIENT_TIMEOUT_S = 590.0
"""Longer than any of the gateway's: its error says more than a client that gave up."""

Finished = Callable[[Result], None]


async def run_requests(
    requests: Sequence[DemoRequest],
    *,
    base_url: str,
    prices: Prices,
    concurrency: int,
    finished: Finished,
) -> list[Result]:
    """Send all requests, at most `concurrency` at a time, in their order; those of one session never overlap.

    Args:
        base_url: the gateway's, up to and including `/v1`.
        finished: told of each result at once, so that an interrupted run loses none.
    """
    from openai import AsyncOpenAI  # noqa: PLC0415 - the extra [demo]; the command says so when it is missing

    permits = asyncio.Semaphore(concurrency)
    turns: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
    async with AsyncOpenAI(base_url=base_url, api_key="unused", max_retries=0, timeout=CLIENT_TIMEOUT_S) as client:

        async def one(request: DemoRequest) -> Result:
            turn = turns[request.session] if request.session else contextlib.nullcontext()
            async with turn, permits:
                result = await send(client, request, prices)
            finished(result)
            return result

        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(one(request)) for request in requests]
    return [task.result() for task in tasks]


async def send(client: AsyncOpenAI, request: DemoRequest, prices: Prices) -> Result:
    """One request; an error is a result, not an exception."""
    from openai import APIStatusError, OpenAIError  # noqa: PLC0415

    question = request.question
    result = Result(
        id=question.id,
        kind=question.kind,
        model=question.model,
        stream=request.stream,
        question=question.text,
        expected=question.expected,
        carrier=question.carrier,
        reasoning_effort=question.reasoning_effort,
        latency_s=0.0,
    )
    started_s = time.perf_counter()
    try:
        raw = await client.chat.completions.with_raw_response.create(**_arguments(request))
        _read_headers(result, raw.headers)
        if request.stream:
            await _read_stream(result, raw.parse(), started_s)
        else:
            _read_plain(result, raw.parse())
    except OpenAIError as exc:
        if isinstance(exc, APIStatusError):
            _read_headers(result, exc.response.headers)
        result.error = f"{type(exc).__name__}: {exc}"
    result.latency_s = time.perf_counter() - started_s
    if result.error is None and result.finish_reason is None:
        result.error = "the answer ended without a finish_reason"
    result.ok = result.error is None
    if result.ok:
        result.correct = check_answer(question, result.answer, request.shown_names)
        _add_cost(result, prices)
    return result


def _arguments(request: DemoRequest) -> dict[str, Any]:
    question = request.question
    arguments: dict[str, Any] = {
        "model": question.model,
        "messages": list(request.messages),
        "max_tokens": question.max_tokens,
        "temperature": 0.0,
        "extra_body": request.extra_body,
    }
    if question.reasoning_effort is not None:
        arguments["reasoning_effort"] = question.reasoning_effort
    if request.stream:
        arguments |= {"stream": True, "stream_options": {"include_usage": True}}
    return arguments


def _read_headers(result: Result, headers: Mapping[str, str]) -> None:
    result.route = headers.get("x-router-route")
    result.policy = headers.get("x-router-policy")
    result.reason = headers.get("x-router-reason")
    result.degraded = headers.get("x-router-degraded")
    result.decision_id = headers.get("x-router-decision-id")
    result.policy_version = headers.get("x-router-policy-version")


async def _read_stream(result: Result, stream: Any, started_s: float) -> None:
    parts: list[str] = []
    async for chunk in stream:
        if chunk.usage is not None:
            _read_usage(result, chunk.usage)
        for choice in chunk.choices:
            if choice.delta.content:
                if result.ttft_s is None:
                    result.ttft_s = time.perf_counter() - started_s
                parts.append(choice.delta.content)
            result.finish_reason = choice.finish_reason or result.finish_reason
    result.answer = "".join(parts)


def _read_plain(result: Result, completion: Any) -> None:
    choice = completion.choices[0]
    result.answer = choice.message.content or ""
    result.finish_reason = choice.finish_reason
    if completion.usage is not None:
        _read_usage(result, completion.usage)


def _read_usage(result: Result, usage: Any) -> None:
    result.prompt_tokens = usage.prompt_tokens
    result.completion_tokens = usage.completion_tokens


def _add_cost(result: Result, prices: Prices) -> None:
    if result.route is None or result.prompt_tokens is None or result.completion_tokens is None:
        return
    tokens = (result.prompt_tokens, result.completion_tokens)
    result.cost_usd = prices.cost_usd(result.route, *tokens)
    result.counterfactual_cost_usd = prices.cost_usd("teacher", *tokens)
