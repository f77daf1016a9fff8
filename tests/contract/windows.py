"""What tests of the commit window share: a window, a stream through the gateway, and the draft in its record."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import httpx

from loadtests.fake_backend import BackendThread
from tests.contract.conftest import RunningGateway, StartGateway
from tests.contract.test_cascade import the_record

HI = [{"role": "user", "content": "hi"}]
DONE = b"data: [DONE]\n\n"
WEAK, SURE = "fake-logprob-2.5-tokens-12", "fake-logprob-0.5-tokens-12"
WORDS = ["The", " quick", " brown", " fox", " jumps", " over", " the", " lazy", " dog", ".", "The", " quick"]
StartCascade = Callable[..., RunningGateway]


def window(tokens: int = 4, time_s: float = 5.0, on_escalation: str = "cancel") -> str:
    return reviewer("EarlyDoubter", tokens=tokens, time_s=time_s, on_escalation=on_escalation)


def reviewer(name: str, **options: object) -> str:
    """A policy table."""
    members = "\n".join(f"{key} = {json.dumps(value)}" for key, value in options.items())
    return f'[[routing.policies]]\ntype = "tests.contract.reviewers:{name}"\n{members}'


RESERVE = window(on_escalation="reserve")


def starting(start_gateway: StartGateway) -> StartCascade:
    """Starts gateways whose window is the default of these tests."""

    def start(student_model: str, teacher_model: str = "teacher", **parts: str) -> RunningGateway:
        return start_gateway(student_model=student_model, teacher_model=teacher_model, **{"rest": window(), **parts})

    return start


def stream(gateway: RunningGateway, **members: object) -> httpx.Response:
    return gateway.post({"model": "auto", "messages": HI, "stream": True, **members})


def text_of(response: httpx.Response) -> str:
    chunks = [json.loads(line[6:]) for line in response.text.splitlines() if line.startswith("data: {")]
    return "".join(choice["delta"].get("content") or "" for chunk in chunks for choice in chunk.get("choices", ()))


def direct(backend: BackendThread, model: str, **members: object) -> bytes:
    """What the backend sends to a client of its own."""
    body = {"model": model, "messages": HI, "stream": True, **members}
    return httpx.post(f"{backend.base_url}/chat/completions", json=body).content


def asked(backend: BackendThread) -> dict[str, Any]:
    body: dict[str, Any] = json.loads(backend.state.received[-1].body)
    return body


def draft_of(gateway: RunningGateway) -> Any:
    draft = the_record(gateway).draft
    assert draft is not None
    return draft
