"""Whatever clients and backends send, the label sets of the metrics stay as they are."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import msgspec
import pytest
from prometheus_client.parser import text_string_to_metric_families

from router.reference import metric_families
from tests.contract.conftest import RunningGateway, StartGateway
from tests.contract.test_odd_input import answering

LABELS = {
    "action", "agreement", "asked", "cause", "delivered", "detector", "direction", "feature", "kind", "licence", "moment", "outcome", "policy",
    "phase", "position", "reason", "replica", "result", "route", "signal", "source", "state",
}  # fmt: skip
"""Each has a closed set of values, of the code or of the configuration. A tenant, a model, a prompt, a tag, a URL or a
bundle is none of them."""
MARK = "hostile"
PATHS = ("chat/completions", "completions", "responses", "messages", "embeddings", "feedback")


def test_every_label_is_one_of_those_with_closed_sets() -> None:
    named = {label for _, _, labels, _ in metric_families() for label in labels}
    assert named <= LABELS
    assert not any(name.startswith("_") for name in named)


def series(gateway: RunningGateway) -> set[tuple[str, tuple[tuple[str, str], ...]]]:
    text = httpx.get(f"{gateway.origin}/metrics").text
    return {
        (sample.name, tuple(sorted(sample.labels.items())))
        for family in text_string_to_metric_families(text) for sample in family.samples
    }  # fmt: skip


def requests_with(value: str) -> Iterator[tuple[str, dict[str, Any], dict[str, str]]]:
    """(path, body, headers), each with the value in another place."""
    messages = [{"role": "user", "content": f"{value} [[fake-{value}]]"}]
    chat = {"model": "auto", "messages": messages}
    for stream in (False, True):
        yield "chat/completions", {**chat, "stream": stream}, {"x-request-id": value, "user-agent": value}
        yield "chat/completions", {**chat, "stream": stream, "model": value}, {}
        yield "chat/completions", {**chat, "stream": stream, "user": value, value: value}, {}
        router = {"tags": {value: value}, "session": value, "train": "none"}
        yield "chat/completions", {**chat, "stream": stream, "router": router}, {}
    for key in ("route", "purpose", "train", "explain", "session", value):
        yield "chat/completions", {**chat, "router": {key: value}}, {}
        yield "chat/completions", chat, {f"x-router-{key}": value}
    for header in ("authorization", "x-api-key", "origin", "traceparent", "content-encoding"):
        yield "chat/completions", chat, {header: value}
    for path in PATHS:
        yield path, {"model": value, "messages": messages, "prompt": value, "input": value, "max_tokens": 3}, {}
        yield path, {"decision_id": value, "score": 0.5, "label": value, "source": value}, {}
    yield f"chat/{value}", chat, {}
    yield value, chat, {}


def send(gateway: RunningGateway, value: str) -> None:
    def one(request: tuple[str, dict[str, Any], dict[str, str]]) -> int:
        path, body, headers = request
        return httpx.post(f"{gateway.origin}/v1/{path}", json=body, headers=headers, timeout=20).status_code

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(one, requests_with(value)))


@pytest.mark.parametrize("student_model", ["student", "fake-500", "fake-logprob-2.5-tokens-5"])
def test_series_stay_the_same_when_clients_send_odd_values(start_gateway: StartGateway, student_model: str) -> None:
    doubter = '[[routing.policies]]\ntype = "tests.contract.reviewers:EarlyDoubter"\n'
    gateway = start_gateway(student_model=student_model, rest=doubter)
    send(gateway, f"{MARK}-0")
    known = series(gateway)
    for number in range(1, 4):
        send(gateway, f"{MARK}-{number}-{'x' * 40 * number}")
    assert series(gateway) == known
    values = {value for _, labels in known for _, value in labels}
    assert not [value for value in values if MARK in value]


def hostile_answers(value: str) -> list[bytes]:
    """Of a backend: a completion, a stream and errors, with the value wherever a text may stand."""
    usage = {"prompt_tokens": 3, "completion_tokens": 2, value: value, "prompt_tokens_details": {value: value}}
    choice = {"index": 0, "finish_reason": value, "message": {"role": value, "content": value}, value: value}
    about = {"model": value, "system_fingerprint": value, "object": value, "service_tier": value}
    error = {"error": {"message": value, "type": value, "code": value, "param": value}}
    bodies = [(b"200 OK", {"choices": [choice], "usage": usage, **about}), (b"400 No", error), (b"422 No", error),
              (b"500 No", error), (b"418 No", error), (b"429 No", error)]  # fmt: skip
    found = []
    for status, body in bodies:
        data = msgspec.json.encode(body)
        head = b"HTTP/1.1 %b\r\ncontent-length: %d\r\nx-request-id: %b\r\n\r\n" % (status, len(data), value.encode())
        found.append(head + data)
    return found


def test_no_label_holds_what_a_backend_says(start_gateway: StartGateway) -> None:
    for number, answer in enumerate(hostile_answers(MARK)):
        with answering(answer) as url:
            gateway = start_gateway(student_url=url, teacher_url=url, student_model=f"m{number}")
            gateway.post({"model": "auto", "messages": [{"role": "user", "content": "hi"}]})
            values = {value for _, labels in series(gateway) for _, value in labels}
            assert values
            assert not [value for value in values if MARK in value]
