"""The OpenAI surface, seen by the official client and on the wire."""

from __future__ import annotations

import json

import httpx
import openai
import pytest

from loadtests.fake_backend import BackendThread
from tests.contract.conftest import RunningGateway, StartGateway

HI = [{"role": "user", "content": "hi"}]
ROUTER_HEADERS = (
    "x-router-route", "x-router-reason", "x-router-decision-id", "x-router-policy-version", "x-router-student",
)  # fmt: skip


def test_plain_answer_comes_from_the_student_when_no_policy_speaks(gateway: RunningGateway) -> None:
    raw = gateway.client().chat.completions.with_raw_response.create(model="auto", messages=HI)
    assert raw.headers["x-router-route"] == "student"
    assert raw.headers["x-router-reason"] == "default"
    completion = raw.parse()
    assert completion.choices[0].message.content
    assert completion.usage and completion.usage.completion_tokens == 8


def test_stream_reaches_the_official_client_whole_when_the_student_answers(gateway: RunningGateway) -> None:
    plain = gateway.client().chat.completions.create(model="auto", messages=HI)
    chunks = list(gateway.client().chat.completions.create(model="auto", messages=HI, stream=True))
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert text == plain.choices[0].message.content
    assert chunks[-1].choices[0].finish_reason == "stop"
    assert all(chunk.usage is None for chunk in chunks)


def test_stream_shows_usage_when_the_client_asked_for_it(gateway: RunningGateway) -> None:
    stream = gateway.client().chat.completions.create(
        model="auto", messages=HI, stream=True, stream_options={"include_usage": True}
    )
    usages = [chunk.usage for chunk in stream if chunk.usage is not None]
    assert len(usages) == 1
    assert usages[0].completion_tokens == 8


@pytest.mark.parametrize(
    "options", [None, {}, {"include_usage": False}, {"other": 1}, {"other": 1, "include_usage": None}]
)
def test_stream_hides_usage_but_records_it_when_the_client_did_not_ask(
    gateway: RunningGateway, student: BackendThread, options: dict[str, object] | None
) -> None:
    body = {"model": "auto", "messages": HI, "stream": True, "stream_options": options}
    response = gateway.post(body)
    assert b'"usage"' not in response.content
    assert response.content.endswith(b"data: [DONE]\n\n")
    sent = json.loads(student.state.received[-1].body)
    assert sent["stream_options"] == {**(options or {}), "include_usage": True}
    assert gateway.records()[-1].usage is not None


@pytest.mark.parametrize("name", ["student", "teacher"])
def test_forced_model_is_used_when_it_is_named(gateway: RunningGateway, name: str) -> None:
    raw = gateway.client().chat.completions.with_raw_response.create(model=name, messages=HI)
    assert (raw.headers["x-router-route"], raw.headers["x-router-reason"]) == (name, "forced")


def test_alias_means_its_target_when_it_is_configured(start_gateway: StartGateway) -> None:
    gateway = start_gateway(rest='[aliases]\n"gpt-4o" = "teacher"\n"gpt-4o-mini" = "auto"')
    client = gateway.client()
    assert {model.id for model in client.models.list()} == {"auto", "student", "teacher", "gpt-4o", "gpt-4o-mini"}
    raw = client.chat.completions.with_raw_response.create(model="gpt-4o", messages=HI)
    assert raw.headers["x-router-route"] == "teacher"
    assert client.models.retrieve("gpt-4o-mini").id == "gpt-4o-mini"


@pytest.mark.parametrize("stream", [False, True])
def test_every_response_carries_the_router_headers(gateway: RunningGateway, stream: bool) -> None:
    for body in ({"model": "auto", "messages": HI, "stream": stream}, {"model": "nope", "messages": HI}):
        response = gateway.post(body)
        for name in ROUTER_HEADERS:
            assert response.headers[name], name


def test_unknown_fields_survive_byte_for_byte_in_both_directions(
    gateway: RunningGateway, student: BackendThread
) -> None:
    body = (
        b'{ "model" : "auto", "temperature":2.50, "seed": 1E+2,"x_unknown" : {"b":1.0,"a":"\\u00e9\\/\xc3\xa9"},\n'
        b'  "messages": [ {"role":"user","content":"[[fake-extra]] caf\\u00e9 \\ud83d\\ude00","x":0.10} ] ,'
        b' "router": {"tags": {"team": "docs"}} , "top_k" :7 }'
    )
    response = gateway.post(body)
    received = student.state.received[-1]
    expected = body.replace(b'"auto"', b'"student"').replace(b'"router": {"tags": {"team": "docs"}} , ', b"")
    assert received.body == expected
    assert response.content == b"".join(received.response)


@pytest.mark.parametrize("shape", ["fake-extra", "fake-crlf", "fake-split", "fake-merge", "fake-heartbeat", "fake-odd"])
def test_stream_bytes_are_untouched_when_the_client_asked_for_usage(
    gateway: RunningGateway, student: BackendThread, shape: str
) -> None:
    body = {
        "model": "auto", "stream": True, "stream_options": {"include_usage": True},
        "messages": [{"role": "user", "content": f"[[{shape}]]"}],
    }  # fmt: skip
    response = gateway.post(body)
    assert response.content == b"".join(student.state.received[-1].response)
    assert gateway.records()[-1].completion


@pytest.mark.parametrize("shape", ["fake-extra", "fake-crlf", "fake-split", "fake-merge", "fake-heartbeat", "fake-odd"])
def test_only_usage_is_cut_out_of_a_stream_when_the_router_asked_for_it(
    gateway: RunningGateway, student: BackendThread, shape: str
) -> None:
    body = {"model": "auto", "stream": True, "messages": [{"role": "user", "content": f"[[{shape}]]"}]}
    response = gateway.post(body)
    sent = b"".join(student.state.received[-1].response)
    assert b'"usage"' in sent
    assert b'"usage"' not in response.content
    ends = b"\r\n\r\n" if shape in ("fake-crlf", "fake-odd") else b"\n\n"
    kept = [frame for frame in sent.split(ends) if b'"usage"' not in frame]
    assert [frame for frame in response.content.split(ends) if b'"usage"' not in frame] == kept


def test_router_input_is_stripped_and_the_clients_key_stays_with_us(
    gateway: RunningGateway, student: BackendThread
) -> None:
    headers = {
        "x-router-session": "s1",
        "x-router-other": "1",
        "authorization": "Bearer client-secret",
        "cookie": "a=b",
    }
    gateway.post({"model": "auto", "messages": HI, "router": {"retrieval_confidence": 0.9}}, headers=headers)
    received = student.state.received[-1]
    assert "router" not in json.loads(received.body)
    names = {name.lower() for name, _ in received.headers}
    assert not any(name.startswith(b"x-router") for name in names)
    assert not names & {b"authorization", b"cookie"}


def test_backends_key_is_sent_when_it_is_configured(start_gateway: StartGateway, teacher: BackendThread) -> None:
    gateway = start_gateway(environ={"TEACHER_KEY": "secret-of-teacher"}, teacher='api_key_env = "TEACHER_KEY"')
    gateway.post({"model": "teacher", "messages": HI})
    assert teacher.state.received[-1].header("authorization") == b"Bearer secret-of-teacher"


def test_policy_escalates_when_retrieval_confidence_is_low(gateway: RunningGateway) -> None:
    extra = {"router": {"retrieval_confidence": 0.3, "explain": True}}
    raw = gateway.client().chat.completions.with_raw_response.create(model="auto", messages=HI, extra_body=extra)
    assert raw.headers["x-router-route"] == "teacher"
    assert raw.headers["x-router-policy"] == "retrieval_confidence"
    explained = json.loads(raw.headers["x-router-explain"])
    assert explained["decision"]["policy"] == "retrieval_confidence"
    assert [vote["policy"] for vote in explained["votes"]] == ["long_context", "retrieval_confidence", "long_reasoning"]


def test_header_sets_the_same_as_the_body_and_the_body_wins(gateway: RunningGateway) -> None:
    low = {"x-router-retrieval-confidence": "0.1"}
    assert gateway.post({"model": "auto", "messages": HI}, headers=low).headers["x-router-route"] == "teacher"
    body = {"model": "auto", "messages": HI, "router": {"retrieval_confidence": 0.99}}
    assert gateway.post(body, headers=low).headers["x-router-route"] == "student"
    forced = gateway.post({"model": "auto", "messages": HI}, headers={"x-router-route": "teacher"})
    assert (forced.headers["x-router-route"], forced.headers["x-router-reason"]) == ("teacher", "forced")


def test_long_prompt_goes_to_the_teacher_when_it_exceeds_the_window(gateway: RunningGateway) -> None:
    long = [{"role": "user", "content": "word and more " * 8000}]
    response = gateway.post({"model": "auto", "messages": long})
    assert response.headers["x-router-route"] == "teacher"
    assert response.headers["x-router-policy"] == "long_context"


def test_health_and_readiness_say_what_they_know(gateway: RunningGateway, start_gateway: StartGateway) -> None:
    assert httpx.get(f"{gateway.origin}/healthz").json() == {"status": "ok"}
    ready = httpx.get(f"{gateway.origin}/readyz")
    assert ready.status_code == 200
    assert ready.json()["student"]["context_window_tokens"] == 8192
    nobody = start_gateway(student_url="http://127.0.0.1:9/v1", teacher_url="http://127.0.0.1:9/v1")
    unready = httpx.get(f"{nobody.origin}/readyz")
    assert unready.status_code == 503
    assert unready.json()["teacher"]["reachable"] is False


def test_keys_decide_the_tenant_when_auth_is_configured(start_gateway: StartGateway) -> None:
    auth = '[auth]\nkeys_env = "KEYS"'
    gateway = start_gateway(environ={"KEYS": "acme=acme-key-1234, beta=beta-key-1234"}, rest=auth)
    gateway.client("beta-key-1234").chat.completions.create(model="auto", messages=HI)
    assert gateway.records()[-1].tenant == "beta"
    for headers in ({"authorization": "Bearer wrong-key-1234"}, {"authorization": "Basic beta-key-1234"}, {}):
        response = gateway.post({"model": "auto", "messages": HI}, headers=headers)
        assert response.status_code == 401
        assert response.json()["error"]["code"] == "invalid_api_key"
    with pytest.raises(openai.AuthenticationError):
        gateway.client("wrong-key-1234").models.list()
