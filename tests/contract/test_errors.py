"""What clients see when something is wrong: their own input, or the backends."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable

import httpx
import openai
import pytest

from loadtests.fake_backend import BackendThread
from router.config import ConfigError
from tests.contract.conftest import RunningGateway, StartGateway, chats

HI = [{"role": "user", "content": "hi"}]
NOBODY = "http://127.0.0.1:9/v1"
STREAM = {"model": "auto", "messages": HI, "stream": True}
PLAIN = {"model": "auto", "messages": HI}


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"model": "auto"}, "messages"),
        ({"model": "auto", "messages": []}, "messages"),
        ({"model": "auto", "messages": "hi"}, "messages"),
        ({"model": "auto", "messages": ["hi"]}, "messages.0"),
        ({"model": "auto", "messages": [{"content": "hi"}]}, "messages.0.role"),
        ({"model": "auto", "messages": [{"role": "user", "content": 7}]}, "messages.0.content"),
        ({"model": "auto", "messages": [{"role": "user", "content": ["hi"]}]}, "messages.0.content.0"),
        ({"messages": HI}, "model"),
        ({"model": 5, "messages": HI}, "model"),
        ({**PLAIN, "stream": "yes"}, "stream"),
        ({**PLAIN, "max_tokens": 0}, "max_tokens"),
        ({**PLAIN, "max_completion_tokens": "9"}, "max_completion_tokens"),
        ({**PLAIN, "router": 3}, "router"),
        ({**PLAIN, "router": {"rout": "teacher"}}, "router"),
        ({**PLAIN, "router": {"route": "both"}}, "router.route"),
        ({**PLAIN, "router": {"retrieval_confidence": 1.2}}, "router.retrieval_confidence"),
        ({**PLAIN, "router": {"retrieved_chunks": [{"score": 1}]}}, "router.retrieved_chunks"),
        ({**PLAIN, "model": "student", "router": {"route": "teacher"}}, "router.route"),
    ],
)
def test_bad_request_is_a_400_that_names_the_field(gateway: RunningGateway, body: object, param: str) -> None:
    response = gateway.post(body)
    error = response.json()["error"]
    assert response.status_code == 400, error
    assert error["type"] == "invalid_request_error"
    assert error["param"].startswith(param)
    assert gateway.records()[-1].outcome == "client_error"


@pytest.mark.parametrize(
    "name", ["x-router-retrieval-confidence", "x-router-route", "x-router-explain", "x-router-train"]
)
def test_bad_router_header_is_a_400_that_names_it(gateway: RunningGateway, name: str) -> None:
    response = gateway.post(PLAIN, headers={name: "maybe"})
    assert response.status_code == 400
    assert response.json()["error"]["param"] == name


@pytest.mark.parametrize(
    "body", [b"", b"{", b'{"model": "auto",}', b"[]", b"\xff{}", b'{"a": NaN}', b'{"a":' * 100_000]
)
def test_invalid_json_is_a_400_with_the_position(gateway: RunningGateway, body: bytes) -> None:
    response = gateway.post(body)
    assert response.status_code == 400
    error = response.json()["error"]
    assert error["code"] == "invalid_json"
    assert "position" in error["message"] or "deep" in error["message"]


def test_unknown_model_is_a_404_in_the_official_clients_terms(gateway: RunningGateway) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        gateway.client().chat.completions.create(model="gpt-9", messages=HI)
    assert caught.value.code == "model_not_found"
    assert caught.value.param == "model"


def test_body_over_the_limit_is_a_413(start_gateway: StartGateway) -> None:
    gateway = start_gateway(server="max_body_bytes = 2048")
    assert gateway.post({**PLAIN, "pad": "x" * 3000}).status_code == 413

    def chunks() -> object:
        yield b'{"pad": "' + b"x" * 1500
        yield b"x" * 1500 + b'"}'

    response = httpx.post(f"{gateway.origin}/v1/chat/completions", content=chunks())
    assert response.status_code == 413


@pytest.mark.parametrize("body", [PLAIN, STREAM])
@pytest.mark.parametrize(
    ("fault", "cause"),
    [
        ("fault-500", "server_error"),
        ("fault-503", "server_error"),
        ("fault-502-html", "server_error"),
        ("fault-429-retry-after-7", "rate_limited"),
        ("fault-401-string", "unauthorized"),
        ("fault-404", "model_not_found"),
        ("fault-400-context", "context_overflow"),
        ("fault-reset", "disconnected"),
        ("fault-close", "disconnected"),
        ("fault-garbage", "invalid_response"),
    ],
)
def test_teacher_answers_when_the_student_fails_before_the_first_byte(
    start_gateway: StartGateway, body: dict[str, object], fault: str, cause: str
) -> None:
    gateway = start_gateway(student_model=fault)
    response = gateway.post(body)
    assert response.status_code == 200
    assert response.headers["x-router-route"] == "teacher"
    assert response.headers["x-router-reason"] == f"fallback_{cause}"
    assert "x-router-degraded" not in response.headers
    assert gateway.metric(f'router_fallbacks_total{{cause="{cause}"}}') == 1
    record = gateway.records()[-1]
    assert (record.route, record.decision.route, record.fallback_cause) == ("teacher", "student", cause)


@pytest.mark.parametrize("body", [PLAIN, STREAM])
def test_too_long_request_is_a_400_in_the_backends_words_when_nobody_else_may_answer(
    start_gateway: StartGateway, body: dict[str, object]
) -> None:
    rest = "[routing]\nfall_back_when_student_forced = false"
    response = start_gateway(student_model="fault-400-context", rest=rest).post({**body, "model": "student"})
    error = response.json()["error"]
    assert (response.status_code, error["code"], error["param"]) == (400, "context_length_exceeded", "messages")
    assert "maximum context length is 8192 tokens" in error["message"]
    assert "retry-after" not in response.headers


@pytest.mark.parametrize("fault", ["fault-error-frame", "fault-empty-stream", "fault-truncate-0", "fault-reset-mid-0"])
def test_teacher_answers_a_stream_when_the_students_ends_before_its_first_event(
    start_gateway: StartGateway, fault: str
) -> None:
    response = start_gateway(student_model=fault).post(STREAM)
    assert response.status_code == 200
    assert response.headers["x-router-route"] == "teacher"
    assert response.content.endswith(b"data: [DONE]\n\n")
    assert b'"error"' not in response.content


def test_teacher_answers_when_there_is_no_student(start_gateway: StartGateway) -> None:
    gateway = start_gateway(student_url=NOBODY)
    response = gateway.post(PLAIN)
    assert response.headers["x-router-reason"] == "fallback_connect_error"
    assert gateway.post({**PLAIN, "model": "student"}).headers["x-router-route"] == "teacher"


def test_forced_student_fails_alone_when_fall_back_is_turned_off(start_gateway: StartGateway) -> None:
    gateway = start_gateway(student_url=NOBODY, rest="[routing]\nfall_back_when_student_forced = false")
    assert gateway.post({**PLAIN, "model": "student"}).status_code == 503
    assert gateway.post(PLAIN).status_code == 200


def test_student_answers_degraded_when_the_teacher_is_away_and_only_quality_suffers(
    start_gateway: StartGateway,
) -> None:
    gateway = start_gateway(teacher_url=NOBODY)
    response = gateway.post({**PLAIN, "router": {"retrieval_confidence": 0.1}})
    assert response.status_code == 200
    assert response.headers["x-router-route"] == "student"
    assert response.headers["x-router-degraded"] == "teacher_unavailable"
    assert gateway.records()[-1].outcome == "degraded"


@pytest.mark.parametrize("body", [{**PLAIN, "model": "teacher"}, {**PLAIN, "max_tokens": 9000}])
def test_answer_is_503_with_retry_after_when_only_the_absent_teacher_could_serve(
    start_gateway: StartGateway, body: dict[str, object]
) -> None:
    gateway = start_gateway(teacher_url=NOBODY)
    response = gateway.post(body)
    assert response.status_code == 503
    assert int(response.headers["retry-after"]) > 0
    assert response.json()["error"]["code"] == "no_backend_available"


@pytest.mark.parametrize("body", [PLAIN, STREAM])
def test_answer_is_503_in_openai_form_when_nobody_is_there(
    start_gateway: StartGateway, body: dict[str, object]
) -> None:
    gateway = start_gateway(student_url=NOBODY, teacher_url=NOBODY)
    response = gateway.post(body)
    assert response.status_code == 503
    assert set(response.json()["error"]) == {"message", "type", "param", "code"}
    assert response.headers["retry-after"]
    assert response.headers["x-router-route"] == "none"
    assert gateway.records()[-1].outcome == "backend_error"


def test_rate_limit_of_a_forced_teacher_reaches_the_client_with_its_retry_after(start_gateway: StartGateway) -> None:
    gateway = start_gateway(teacher_model="fault-429-retry-after-7")
    response = gateway.post({**PLAIN, "model": "teacher"})
    assert (response.status_code, response.headers["retry-after"]) == (429, "7")


@pytest.mark.parametrize("body", [PLAIN, STREAM])
def test_clients_own_mistake_is_passed_on_when_the_backend_finds_it(
    start_gateway: StartGateway, teacher: BackendThread, body: dict[str, object]
) -> None:
    gateway = start_gateway(student_model="fault-422")
    response = gateway.post(body)
    assert response.status_code == 422
    assert response.json()["error"]["message"]
    assert response.headers["x-router-route"] == "student"
    assert chats(teacher) == 0


@pytest.mark.parametrize("fault", ["fault-reset-mid-3", "fault-truncate-3", "fault-cut-3", "fault-error-frame-mid-3"])
def test_stream_ends_in_an_error_event_without_done_when_the_backend_dies_in_it(
    start_gateway: StartGateway, fault: str
) -> None:
    gateway = start_gateway(student_model=fault)
    response = gateway.post(STREAM)
    assert response.status_code == 200
    assert b"[DONE]" not in response.content
    last = response.content.rstrip().rpartition(b"data: ")[2]
    error = json.loads(last)["error"]
    assert error["message"]
    assert error["type"]
    assert error["code"]
    assert response.content.count(b'"content":"') >= 3
    assert gateway.records()[-1].outcome == "backend_error"


def test_official_client_raises_when_the_stream_breaks(start_gateway: StartGateway) -> None:
    stream = start_gateway(student_model="fault-reset-mid-3").client().chat.completions.create(**STREAM)
    with pytest.raises(openai.APIError):
        list(stream)


def test_done_is_added_when_a_finished_stream_lacks_it(start_gateway: StartGateway) -> None:
    response = start_gateway(student_model="fault-no-done").post(STREAM)
    assert response.content.endswith(b"data: [DONE]\n\n")
    assert b'"error"' not in response.content


@pytest.mark.parametrize("body", [PLAIN, STREAM])
def test_silent_student_is_given_up_when_its_time_is_over(start_gateway: StartGateway, body: dict[str, object]) -> None:
    limits = "first_token_timeout_s = 0.2\nrequest_timeout_s = 0.2"
    gateway = start_gateway(student_model="fault-hang", student=limits)
    response = gateway.post(body)
    assert response.headers["x-router-reason"] == "fallback_timeout"
    assert response.headers["x-router-route"] == "teacher"


def test_stream_ends_in_an_error_event_when_the_backend_falls_silent(
    start_gateway: StartGateway, student: BackendThread, wait_until: Callable[[Callable[[], bool]], None]
) -> None:
    gateway = start_gateway(student_model="fault-hang-mid-3", student="idle_timeout_s = 0.2")
    response = gateway.post(STREAM)
    assert json.loads(response.content.rstrip().rpartition(b"data: ")[2])["error"]["code"] == "timeout"
    assert gateway.records()[-1].outcome == "timeout"
    wait_until(lambda: student.state.in_flight == 0)


def test_request_ends_when_its_whole_time_is_over(start_gateway: StartGateway) -> None:
    gateway = start_gateway(student_model="fault-hang", server="request_timeout_s = 0.3")
    assert gateway.post(PLAIN).status_code == 504


def test_other_methods_and_paths_are_answered_in_openai_form(gateway: RunningGateway) -> None:
    wrong_method = httpx.get(f"{gateway.origin}/v1/chat/completions")
    assert (wrong_method.status_code, wrong_method.json()["error"]["code"]) == (405, "method_not_allowed")
    wrong_path = httpx.get(f"{gateway.origin}/v2/chat")
    assert (wrong_path.status_code, wrong_path.json()["error"]["code"]) == (404, "not_found")


def test_log_folder_that_cannot_be_written_is_named_before_anything_starts(start_gateway: StartGateway) -> None:
    with pytest.raises(ConfigError, match=r"log\.dir"):
        start_gateway(log_dir="/proc/no-such-folder")


def test_running_stream_gets_an_error_event_and_a_record_when_the_drain_time_is_over(
    start_gateway: StartGateway, student: BackendThread, wait_until: Callable[[Callable[[], bool]], None]
) -> None:
    gateway = start_gateway(student_model="fault-hang-mid-3", server="drain_timeout_s = 1")
    with httpx.stream("POST", f"{gateway.origin}/v1/chat/completions", json=STREAM, timeout=20) as response:
        lines = response.iter_lines()
        next(lines)
        gateway.stop()
        rest = [line for line in lines if line]
    assert json.loads(rest[-1].removeprefix("data: "))["error"]["code"] == "shutting_down"
    assert gateway.records()[-1].error_code == "shutting_down"
    wait_until(lambda: student.state.in_flight == 0)


def test_client_that_does_not_send_its_body_is_told_so_when_its_time_is_over(start_gateway: StartGateway) -> None:
    gateway = start_gateway(server="body_timeout_s = 0.3")
    with socket.create_connection(("127.0.0.1", int(gateway.origin.rpartition(":")[2])), timeout=10) as client:
        client.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 500\r\n\r\n{")
        assert b"body_timeout" in client.recv(65536)
