"""Tokens and requests a second of a served model, and what a request costs at a machine-hour's price."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any

import msgspec

from trainer.calls import all_or_first_error
from trainer.evaluation.endpoint import ModelClient
from trainer.evaluation.journal import Prompt

CONCURRENCY = 16
WARM_UP_REQUESTS = 4


class Speed(msgspec.Struct, frozen=True, kw_only=True):
    requests: int
    duration_s: float
    requests_per_s: float
    output_tokens_per_s: float
    prompt_tokens_per_s: float
    usd_per_1000_requests: float
    """Machine-hour price over throughput: the measured cost."""
    concurrency: int = CONCURRENCY


async def measure(
    client: ModelClient, prompts: Sequence[Prompt], requests: int, *, max_tokens: int, usd_per_hour: float
) -> Speed | None:
    """The prompts in turn, CONCURRENCY at once, nothing else running; None when nothing was answered.

    Raises: EndpointDown.
    """
    for prompt in prompts[:WARM_UP_REQUESTS]:
        await client.ask("warm", prompt.messages, max_tokens)
    answers: list[Any] = []
    waiting = iter([prompts[index % len(prompts)] for index in range(requests)])

    async def work() -> None:
        for prompt in waiting:
            answer = await client.ask(prompt.id, prompt.messages, max_tokens)
            if answer.text is not None:
                answers.append(answer)
            await asyncio.sleep(0)

    started = time.monotonic()
    await all_or_first_error([work() for _ in range(CONCURRENCY)])
    duration_s = max(time.monotonic() - started, 1e-9)
    if not answers:
        return None
    rate = len(answers) / duration_s
    return Speed(
        requests=len(answers),
        duration_s=round(duration_s, 3),
        requests_per_s=round(rate, 3),
        output_tokens_per_s=round(sum(each.tokens for each in answers) / duration_s, 1),
        prompt_tokens_per_s=round(sum(each.prompt_tokens for each in answers) / duration_s, 1),
        usd_per_1000_requests=usd_per_hour / (rate * 3600) * 1000,
    )
