"""Comments while a stream's answer is awaited: for clients and proxies that give up on silence."""

from __future__ import annotations

import httpx

from tests.contract.conftest import RunningGateway, StartGateway

BEATING = "heartbeat_interval_s = 0.05"
COMMENT = ": waiting for the answer\n\n"


def streamed(gateway: RunningGateway, directives: str = "fake") -> httpx.Response:
    messages = [{"role": "user", "content": f"[[{directives}]] hi"}]
    return gateway.post({"model": "auto", "stream": True, "messages": messages})


def test_stream_sends_comments_when_the_answer_takes_long(start_gateway: StartGateway) -> None:
    gateway = start_gateway(server=BEATING)
    response = streamed(gateway, "fake-delay-0.4")
    assert response.headers["x-router-route"] == "pending"
    assert response.headers["content-type"] == "text/event-stream"
    assert response.text.startswith(COMMENT)
    assert response.text.endswith("data: [DONE]\n\n") and '"error"' not in response.text
    [record] = gateway.records()
    assert (record.route, record.outcome) == ("student", "ok")
    assert response.headers["x-router-decision-id"] == record.decision_id


def test_stream_has_no_comment_when_the_answer_is_quick(start_gateway: StartGateway) -> None:
    response = streamed(start_gateway(server="heartbeat_interval_s = 5.0"))
    assert COMMENT not in response.text
    assert response.headers["x-router-route"] == "student"


def test_teacher_answers_in_the_same_stream_when_the_student_fails_behind_a_comment(
    start_gateway: StartGateway,
) -> None:
    gateway = start_gateway(server=BEATING, student="first_token_timeout_s = 0.3", student_model="fault-hang")
    response = streamed(gateway, "")
    assert response.text.startswith(COMMENT)
    assert response.text.endswith("data: [DONE]\n\n") and '"error"' not in response.text
    [record] = gateway.records()
    assert (record.route, record.reason) == ("teacher", "fallback_timeout")


def test_error_is_an_event_when_nobody_answers_behind_a_comment(start_gateway: StartGateway) -> None:
    gateway = start_gateway(
        server=BEATING,
        student="first_token_timeout_s = 0.3",
        teacher="first_token_timeout_s = 0.3",
        student_model="fault-hang",
        teacher_model="fault-hang",
    )
    response = streamed(gateway, "")
    assert response.status_code == 200
    assert response.text.startswith(COMMENT)
    assert '"code":"no_backend_available"' in response.text and "[DONE]" not in response.text


def test_refusal_is_an_event_when_it_comes_behind_a_comment(start_gateway: StartGateway) -> None:
    response = streamed(start_gateway(server=BEATING), "fault-422+fake-delay-0.3")
    assert response.text.startswith(COMMENT)
    assert '"code":"refused_by_backend"' in response.text and "[DONE]" not in response.text
