"""What a request costs in machine time: the models one after the other on the same cores."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from statistics import median

import httpx

from trainer.claim.client import TIMEOUT_S, Plan, ask
from trainer.claim.data import Case
from trainer.claim.servers import running_model
from trainer.claim.settings import Settings
from trainer.claim.steps import Ledger, Result


async def measure_speed(settings: Settings, ledger: Ledger, models: dict[str, Path], cases: Sequence[Case]) -> Result:
    """Requests a second of each model, in turns on the student's cores, while the others are idle.

    The student is asked for logprobs, as the gateway asks it: the cascade needs them, and they cost time.
    Interleaved rounds, so that a busy neighbour of this machine slows all of them; the ratio is taken round by round.
    """
    found = ledger.found("speed")
    if found:
        return found
    chosen = list(cases[: settings.size.speed_requests])
    rounds: dict[str, list[float]] = {name: [] for name in models}
    async with AsyncExitStack() as running:
        urls = {}
        for name, model in models.items():
            show = ledger.progress(f"serve {name} for the speed")
            urls[name] = await running.enter_async_context(
                running_model(model, name, settings.student_cores, settings, show)
            )
        progress = ledger.progress("speed")
        plans = {name: Plan(url, name, logprobs=name == "student") for name, url in urls.items()}
        for plan in plans.values():  # the first requests compile and warm
            await _requests_per_s(chosen[: plan.concurrency], plan)
        for number in range(settings.size.speed_rounds):
            for name, plan in plans.items():
                rounds[name].append(await _requests_per_s(chosen, plan))
                progress(number + 1, settings.size.speed_rounds, "rounds")
    result: Result = {"requests": len(chosen), "cores": len(settings.student_cores), "rounds": rounds}
    result |= {f"{name.replace('-', '_')}_requests_per_s": round(median(values), 2) for name, values in rounds.items()}
    result["student_times_faster"] = {
        name: round(median(s / other for s, other in zip(rounds["student"], values, strict=True)), 2)
        for name, values in rounds.items()
        if name != "student"
    }
    return ledger.keep("speed", result)


async def _requests_per_s(cases: Sequence[Case], plan: Plan) -> float:
    queue = iter(cases)
    limits = httpx.Limits(max_connections=plan.concurrency)
    async with httpx.AsyncClient(timeout=TIMEOUT_S, limits=limits, trust_env=False) as client:

        async def work() -> None:
            for case in queue:
                await ask(client, case, plan)

        started = time.perf_counter()
        async with asyncio.TaskGroup() as group:
            for _ in range(plan.concurrency):
                group.create_task(work())
        return len(cases) / (time.perf_counter() - started)
