"""What the gateway asks for itself is recorded, and leaves no trace in the answer."""

from __future__ import annotations

import json

import httpx
import pytest

from loadtests.fake_backend import BackendThread
from policies.record import TokenIds
from tests.contract.conftest import RunningGateway, StartGateway, chats

HI = [{"role": "user", "content": "hi"}]
BOTH = "capture_logprobs = true\ncapture_token_ids = true"
SHAPES = ("fake-fixed", "fake-fixed-extra", "fake-fixed-sparse", "fake-fixed-finish-length", "fake-fixed-split")


@pytest.fixture
def curious(start_gateway: StartGateway) -> RunningGateway:
    """Wants logprobs and token ids of the student, token ids of the teacher."""
    return start_gateway(student=BOTH, teacher="capture_token_ids = true")


def asked(shape: str, **members: object) -> dict[str, object]:
    return {"messages": [{"role": "user", "content": f"[[{shape}]] hello"}], **members}


def sent_to(backend: BackendThread) -> dict[str, object]:
    sent: dict[str, object] = json.loads(backend.state.received[-1].body)
    return sent


@pytest.mark.parametrize("route", ["student", "teacher"])
@pytest.mark.parametrize("shape", SHAPES)
def test_answer_is_byte_for_byte_the_one_without_our_options(
    curious: RunningGateway, student: BackendThread, teacher: BackendThread, shape: str, route: str
) -> None:
    backend = student if route == "student" else teacher
    direct = httpx.post(f"{backend.base_url}/chat/completions", json=asked(shape, model=route))
    routed = curious.post(asked(shape, model=route))
    assert sent_to(backend)["return_token_ids"] is True
    assert b"5000" in b"".join(backend.state.received[-1].response)
    assert routed.content == direct.content


@pytest.mark.parametrize(
    ("given", "kept"), [("logprobs", b'"logprobs":{'), ("return_token_ids", b'"prompt_token_ids":[1000')]
)
def test_what_the_client_asked_for_stays(
    curious: RunningGateway, student: BackendThread, given: str, kept: bytes
) -> None:
    body = asked("fake-fixed", model="student", **{given: True})
    direct = httpx.post(f"{student.base_url}/chat/completions", json=body)
    routed = curious.post(body)
    assert kept in routed.content
    assert routed.content == direct.content
    record = curious.records()[-1]
    assert record.mean_logprob == pytest.approx(-0.25)
    assert record.token_ids is not None


def test_mean_logprob_and_token_ids_are_recorded_without_the_stop_token(curious: RunningGateway) -> None:
    curious.post(asked("fake-logprob-0.5-tokens-3-prompt-tokens-2", model="auto"))
    curious.post(asked("fake-logprob-0.5-tokens-3-finish-length", model="auto"))
    ended, cut_off = curious.records()
    assert ended.mean_logprob == cut_off.mean_logprob == pytest.approx(-0.5)
    assert ended.token_ids == TokenIds(prompt=(1000, 1001), completion=(5000, 5001, 5002))


def test_forced_student_is_measured_as_well(curious: RunningGateway) -> None:
    curious.post(asked("fake-logprob-2", model="student"))
    record = curious.records()[-1]
    assert record.mean_logprob == pytest.approx(-2.0)
    assert record.draft is None


def test_request_reaches_the_backend_with_our_options_spliced_in(
    curious: RunningGateway, student: BackendThread
) -> None:
    body = (
        b'{ "model" : "auto", "temperature":2.50, "logprobs" : false , "messages": [{"role":"user","content":"hi"}] }'
    )
    curious.post(body)
    expected = (
        body.replace(b'"auto"', b'"student"')
        .replace(b"false", b"true")
        .replace(b"}] }", b'}],"return_token_ids":true }')
    )
    assert student.state.received[-1].body == expected


@pytest.mark.parametrize("members", [{"n": 2}, {"stream": True}])
def test_nothing_is_added_where_there_is_no_one_plain_answer(
    curious: RunningGateway, student: BackendThread, members: dict[str, object]
) -> None:
    curious.post({"model": "auto", "messages": HI, **members})
    assert {"logprobs", "return_token_ids"}.isdisjoint(sent_to(student))


def test_mistake_with_top_logprobs_stays_the_clients(curious: RunningGateway, student: BackendThread) -> None:
    curious.post({"model": "auto", "messages": HI, "top_logprobs": 2})
    assert "logprobs" not in sent_to(student)


@pytest.mark.parametrize("members", [{"store": False}, {"router": {"train": "metadata"}}])
def test_token_ids_are_not_asked_for_below_full(
    curious: RunningGateway, student: BackendThread, members: dict[str, object]
) -> None:
    curious.post({"model": "auto", "messages": HI, **members})
    assert "return_token_ids" not in sent_to(student)
    record = curious.records()[-1]
    assert record.token_ids is None
    assert record.mean_logprob == pytest.approx(-0.25)


def test_token_ids_that_the_client_asked_for_are_not_kept_below_full(curious: RunningGateway) -> None:
    curious.post({"model": "auto", "messages": HI, "return_token_ids": True, "store": False})
    assert curious.records()[-1].token_ids is None


def test_request_is_repeated_without_our_options_when_the_backend_refuses_them(
    curious: RunningGateway, student: BackendThread, teacher: BackendThread
) -> None:
    response = curious.post(asked("fake-strict", model="auto"))
    assert response.headers["x-router-route"] == "student"
    assert (response.status_code, chats(student), chats(teacher)) == (200, 2, 0)
    assert "logprobs" not in sent_to(student)


def test_clients_own_mistake_is_passed_on_when_options_were_added(curious: RunningGateway) -> None:
    response = curious.post(asked("fault-422", model="auto"))
    assert response.status_code == 422
    assert curious.records()[-1].outcome == "client_error"


def test_nothing_is_added_by_default(gateway: RunningGateway, student: BackendThread) -> None:
    gateway.post({"model": "auto", "messages": HI})
    assert set(sent_to(student)) == {"model", "messages"}
    assert gateway.records()[-1].mean_logprob is None


@pytest.mark.parametrize("stream", [False, True])
def test_record_says_what_the_backend_states_about_itself(gateway: RunningGateway, stream: bool) -> None:
    gateway.post({"model": "auto", "messages": HI, "stream": stream})
    assert gateway.records()[-1].backend_fingerprint == "student"


@pytest.mark.parametrize("purpose", ["traffic", "eval", "shadow", "judge", "canary"])
def test_purpose_is_recorded_and_stripped(gateway: RunningGateway, student: BackendThread, purpose: str) -> None:
    gateway.post({"model": "auto", "messages": HI, "router": {"purpose": purpose}})
    gateway.post({"model": "auto", "messages": HI}, headers={"x-router-purpose": purpose})
    records = gateway.records()
    assert [record.purpose for record in records] == [purpose, purpose]
    assert all(record.capture == "full" and record.completion for record in records)
    assert "router" not in sent_to(student)


def test_purpose_is_traffic_by_default_and_a_wrong_one_is_refused(gateway: RunningGateway) -> None:
    gateway.post({"model": "auto", "messages": HI})
    assert gateway.records()[-1].purpose == "traffic"
    wrong = gateway.post({"model": "auto", "messages": HI}, headers={"x-router-purpose": "training"})
    assert wrong.status_code == 400
    assert wrong.json()["error"]["param"] == "x-router-purpose"
