"""Plain OpenAI requests; each answer is on disk at once, so that a resumed run sends only the rest."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import msgspec

from policies.drafts.logprobs import mean_logprob_of
from trainer.claim.data import Case
from trainer.stage import Progress

MAX_OUTPUT_TOKENS = 24
"""The longest intent has 15 tokens."""
TIMEOUT_S = 120.0
GIVE_UP_AFTER = 20
"""Failures in a row after which the server counts as gone."""


class SendingFailed(RuntimeError):
    """The server does not answer; what was answered is kept."""


class Answered(msgspec.Struct, frozen=True, kw_only=True):
    """What came back for one case."""

    id: str
    text: str
    route: str = ""
    reason: str = ""
    student: str = ""
    decision_id: str = ""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    mean_logprob: float | None = None


@dataclass(frozen=True)
class Plan:
    """Where and how to ask."""

    base_url: str
    """Up to and including `/v1`."""
    model: str
    headers: Mapping[str, str] = field(default_factory=dict)
    router: Mapping[str, object] | None = None
    """The body's `router` object, where the request has one."""
    logprobs: bool = False
    """Ask for logprobs, to know the mean; through a gateway the log has it."""
    concurrency: int = 16


def read_answers(path: Path) -> dict[str, Answered]:
    """The answers in a file, by case; a torn last line is left out."""
    if not path.exists():
        return {}
    found: dict[str, Answered] = {}
    for line in path.read_bytes().split(b"\n"):
        try:
            answered = msgspec.json.decode(line, type=Answered)
        except msgspec.DecodeError:
            continue
        found[answered.id] = answered
    return found


async def send(cases: Sequence[Case], plan: Plan, path: Path, progress: Progress) -> dict[str, Answered]:
    """Ask every case that `path` has no answer for.

    Raises:
        SendingFailed: the server is gone.
    """
    done = read_answers(path)
    waiting = [case for case in cases if case.id not in done]
    if not waiting:
        return done
    queue = iter(waiting)
    failures = 0
    limits = httpx.Limits(max_connections=plan.concurrency, max_keepalive_connections=plan.concurrency)
    async with httpx.AsyncClient(timeout=TIMEOUT_S, limits=limits, trust_env=False) as client:
        with path.open("ab", buffering=0) as file:
            if file.tell():
                file.write(b"\n")  # behind a torn line

            async def work() -> None:
                nonlocal failures
                for case in queue:
                    while True:
                        try:
                            answered = await ask(client, case, plan)
                            break
                        except (httpx.HTTPError, ValueError, KeyError) as exc:
                            failures += 1
                            if failures >= GIVE_UP_AFTER:
                                raise SendingFailed(f"{plan.base_url}: {type(exc).__name__}: {exc}") from exc
                            await asyncio.sleep(1)
                    failures = 0
                    file.write(msgspec.json.encode(answered) + b"\n")
                    done[case.id] = answered
                    progress(len(done), len(cases), "answers")

            async with asyncio.TaskGroup() as group:
                for _ in range(plan.concurrency):
                    group.create_task(work())
            os.fsync(file.fileno())
    return done


async def wait_for_student(
    base_url: str, bundle_id: str, *, timeout_s: float, interval_s: float = 1.0, api_key: str = ""
) -> None:
    """Until the gateway answers with this bundle: one that has just started would send all to the teacher.

    Raises:
        SendingFailed: another or no student serves after `timeout_s`.
    """
    body = {"model": "student", "messages": [{"role": "user", "content": "ready?"}], "max_tokens": 1}
    headers = {"x-router-purpose": "eval", "x-router-train": "none"}
    if api_key:
        headers["authorization"] = f"Bearer {api_key}"
    deadline_s, seen = time.monotonic() + timeout_s, ""
    async with httpx.AsyncClient(timeout=TIMEOUT_S, trust_env=False) as client:
        while True:
            try:
                response = await client.post(f"{base_url}/chat/completions", json=body, headers=headers)
                seen = f"HTTP {response.status_code} by {response.headers.get('x-router-student', 'nobody')}"
                if response.status_code == 200 and response.headers.get("x-router-student") == bundle_id:
                    return
            except httpx.HTTPError as exc:
                seen = f"{type(exc).__name__} {exc}"
            if time.monotonic() >= deadline_s:
                raise SendingFailed(
                    f"{base_url} does not answer with the student {bundle_id} ({seen}); see student.log"
                )
            await asyncio.sleep(interval_s)


def check_student(answers: Mapping[str, Answered], bundle_id: str, path: Path) -> None:
    """Raises: SendingFailed: not all answers came while this bundle served."""
    if others := {answer.student for answer in answers.values()} - {bundle_id}:
        raise SendingFailed(
            f"{path}: answers given while {', '.join(sorted(map(repr, others)))} served, not {bundle_id}; remove the "
            "file and run the same command again"
        )


async def ask(client: httpx.AsyncClient, case: Case, plan: Plan) -> Answered:
    """One request. Raises: httpx.HTTPError, ValueError, KeyError when the answer is none."""
    body: dict[str, object] = {
        "model": plan.model,
        "messages": case.messages,
        "temperature": 0,
        "max_tokens": MAX_OUTPUT_TOKENS,
    }
    if plan.logprobs:
        body["logprobs"] = True
    if plan.router is not None:
        body["router"] = plan.router
    response = await client.post(f"{plan.base_url}/chat/completions", json=body, headers=dict(plan.headers))
    response.raise_for_status()
    answer = response.json()
    choice, usage = answer["choices"][0], answer.get("usage") or {}
    text = choice["message"]["content"] or ""
    return Answered(
        id=case.id,
        text=text,
        route=response.headers.get("x-router-route", ""),
        reason=response.headers.get("x-router-reason", ""),
        student=response.headers.get("x-router-student", ""),
        decision_id=response.headers.get("x-router-decision-id", ""),
        prompt_tokens=usage.get("prompt_tokens", 0),
        completion_tokens=usage.get("completion_tokens", 0),
        mean_logprob=mean_logprob_of((choice.get("logprobs") or {}).get("content"), text, choice.get("finish_reason")),
    )
