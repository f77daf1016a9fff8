"""What is asked under load: request bodies for the gateway, a fake backend or a proxy in front of one alike."""

from __future__ import annotations

import random
from typing import Any, Literal

import msgspec

Name = Literal["plain", "stream", "latency", "single", "mixed"]

PROMPT_BYTES = 2_000
STREAM_CHUNKS = 50
LONG_PROMPT_BYTES = 48_000
"""About 10,000 tokens: more than a window of 8,192."""
UNIQUE_CALLS = 2_048
"""Bodies made before the clock starts; a run that needs more starts over."""

_VOCABULARY = (
    "patient ledger river budget compile harbour violin protein garden engine market island theory copper summer "
    "letter signal bridge winter novel carbon muscle orbit planet fabric silver policy memory forest vector"
)
_encode = msgspec.json.Encoder().encode


class Call(msgspec.Struct, frozen=True):
    """One request: the path after `/v1`, the body, and the policy it is meant to fire."""

    path: str
    body: bytes
    kind: str = "plain"


class Scenario(msgspec.Struct, frozen=True):
    """A load: either so many connections in a closed loop, or a constant rate."""

    name: Name
    summary: str
    connections: int = 1
    rate_per_s: float | None = None
    """Open loop when set; then `connections` is not a limit."""


SCENARIOS: dict[str, Scenario] = {
    scenario.name: scenario
    for scenario in (
        Scenario("plain", "2 kB unique prompts, plain answers, closed loop", connections=32),
        Scenario("stream", f"streams of {STREAM_CHUNKS} chunks, closed loop", connections=16),
        Scenario("latency", "2 kB unique prompts at a constant rate, open loop", rate_per_s=300.0),
        Scenario("single", "2 kB unique prompts, one at a time"),
        Scenario("mixed", "requests that fire each of the three built-in policies, closed loop", connections=16),
    )
}


def calls(name: Name, model: str, *, seed: int = 0, count: int = UNIQUE_CALLS) -> list[Call]:
    """The bodies of a scenario, the same for the same seed."""
    source = random.Random(seed)  # noqa: S311 - reproducible text, not a secret
    make = {"stream": _stream_call, "mixed": _mixed_call}.get(name, _plain_call)
    return [make(source, index, model) for index in range(count)]


def prose(source: random.Random, size_bytes: int) -> str:
    """ASCII words of about that many bytes."""
    vocabulary = _VOCABULARY.split()
    words: list[str] = []
    size = 0
    while size < size_bytes:
        word = source.choice(vocabulary)
        words.append(word)
        size += len(word) + 1
    return " ".join(words)[:size_bytes]


def _chat(model: str, content: str, **members: Any) -> bytes:
    return _encode({"model": model, "messages": [{"role": "user", "content": content}], "max_tokens": 64, **members})


def _plain_call(source: random.Random, index: int, model: str) -> Call:
    return Call("/chat/completions", _chat(model, f"{index} {prose(source, PROMPT_BYTES)}"))


def _stream_call(source: random.Random, index: int, model: str) -> Call:
    content = f"[[fake-tokens-{STREAM_CHUNKS}]] {index} {prose(source, 200)}"
    return Call("/chat/completions", _chat(model, content, stream=True), "stream")


def _mixed_call(source: random.Random, index: int, model: str) -> Call:
    kind = ("plain", "retrieval_confidence", "plain", "long_reasoning", "plain")[index % 5]
    if index % 20 == 0:
        kind = "long_context"
    content = f"{index} {prose(source, LONG_PROMPT_BYTES if kind == 'long_context' else PROMPT_BYTES)}"
    members: dict[str, Any] = {}
    if kind == "retrieval_confidence":
        chunks = [{"id": f"c{rank}", "text": prose(source, 200), "score": 0.31 - rank / 100} for rank in range(3)]
        members["router"] = {"retrieved_chunks": chunks}
    elif kind == "long_reasoning":
        members["reasoning_effort"] = "high"
    return Call("/chat/completions", _chat(model, content, **members), kind)
