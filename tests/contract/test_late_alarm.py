"""Behind its commit window a stream is ended with a mark, or continued by the teacher: the client reads one answer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

import anthropic
import openai
import pytest

from loadtests.fake_backend import BackendThread
from tests.contract.conftest import RunningGateway, StartGateway, chats
from tests.contract.test_cascade import the_record
from tests.contract.test_disconnect import WaitUntil, leave
from tests.contract.test_governors import wait_for
from tests.contract.test_odd_input import EVENTS, answering, chunk
from tests.contract.windows import HI, WORDS, StartCascade, asked, direct, draft_of, reviewer, starting, stream, text_of

STUDENT = "fake-tokens-400-gap-0.02-prompt-tokens-30"
MARK, CONTINUE = reviewer("Watcher", action="mark"), reviewer("Watcher", action="continue")


@pytest.fixture
def start_cascade(start_gateway: StartGateway) -> StartCascade:
    return starting(start_gateway)


def chunks_of(gateway: RunningGateway, **members: Any) -> list[Any]:
    """As the official client reads them."""
    with gateway.client() as client:
        return list(client.chat.completions.create(model="auto", messages=cast(Any, HI), stream=True, **members))


def late_of(gateway: RunningGateway) -> Any:
    late = draft_of(gateway).window.late
    assert late is not None
    return late


def test_marked_stream_ends_for_the_official_client_and_says_why(
    start_cascade: StartCascade, student: BackendThread, teacher: BackendThread, wait_until: WaitUntil
) -> None:
    gateway = start_cascade(STUDENT, rest=MARK)
    chunks = chunks_of(gateway, stream_options={"include_usage": True})
    wait_until(lambda: student.state.aborted == 1)
    assert chats(teacher) == 0
    assert len({(chunk.id, chunk.model) for chunk in chunks}) == 1
    finished = [chunk for chunk in chunks if chunk.choices and chunk.choices[0].finish_reason is not None]
    assert [chunk.choices[0].finish_reason for chunk in finished] == ["length"]
    late = late_of(gateway)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == "".join((WORDS * 2)[: late.tokens - 1])  # without the token that rang
    mark = finished[0].model_extra["router"]["late_alarm"]
    record = the_record(gateway)
    assert mark == {
        "action": "mark", "tokens": late.tokens, "score": 0.95, "threshold": 0.9, "decision_id": record.decision_id,
    }  # fmt: skip
    usage = chunks[-1].usage
    assert usage is not None and record.usage is not None
    assert usage.completion_tokens == record.usage.completion_tokens >= late.tokens
    assert (record.outcome, record.degraded, record.finish_reason) == ("degraded", "late_alarm", "length")
    assert (record.route, record.completion, late.action) == ("student", text, "mark")
    assert late.alarm.policy == "watcher" and late.alarm.reason == "late"
    assert record.cost_usd == draft_of(gateway).cost_usd
    assert gateway.metric('router_late_alarms_total{action="mark"}') == 1


def test_finish_reason_of_a_mark_is_the_configured_one_and_the_client_accepts_it(start_cascade: StartCascade) -> None:
    gateway = start_cascade(STUDENT, rest=reviewer("Watcher", action="mark", finish_reason="low_confidence"))
    with gateway.client() as client, client.chat.completions.stream(model="auto", messages=HI) as events:  # type: ignore[arg-type]
        finished = [event for event in events if event.type == "chunk"][-1]
    assert str(finished.snapshot.choices[0].finish_reason) == "low_confidence"
    response = stream(gateway)
    assert response.text.count("data: [DONE]") == 1 and response.text.endswith("data: [DONE]\n\n")


def test_anthropic_client_reads_a_marked_answer_as_cut_off(start_cascade: StartCascade) -> None:
    gateway = start_cascade(STUDENT, rest=MARK)
    client = anthropic.Anthropic(base_url=gateway.origin, api_key="unused-key", max_retries=0, timeout=20)
    question: Any = {"model": "auto", "max_tokens": 500, "messages": HI}
    with client, client.messages.stream(**question) as events:
        message = events.get_final_message()
    assert message.stop_reason == "max_tokens"
    assert message.usage.output_tokens > 0


def test_responses_client_reads_a_marked_answer_as_incomplete(start_cascade: StartCascade) -> None:
    gateway = start_cascade(STUDENT, rest=MARK)
    with gateway.client() as client, client.responses.stream(model="auto", input="hi") as events:
        last = list(events)[-1]
    assert last.type == "response.incomplete"


@pytest.mark.parametrize("on_escalation", ["cancel", "reserve"])
def test_teacher_continues_in_the_same_stream(
    start_cascade: StartCascade,
    student: BackendThread,
    teacher: BackendThread,
    wait_until: WaitUntil,
    on_escalation: str,
) -> None:
    rest = reviewer("Watcher", action="continue", on_escalation=on_escalation)
    gateway = start_cascade(STUDENT, "fake-tokens-5-prompt-tokens-70", rest=rest)
    chunks = chunks_of(gateway, stream_options={"include_usage": True}, max_tokens=300)
    wait_until(lambda: student.state.aborted == 1)
    assert len({(chunk.id, chunk.model, chunk.created) for chunk in chunks}) == 1
    assert [chunk.choices[0].delta.role for chunk in chunks if chunk.choices and chunk.choices[0].delta.role] == [
        "assistant"
    ]
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices and chunk.choices[0].finish_reason] == [
        "stop"
    ]
    late, draft, record = late_of(gateway), draft_of(gateway), the_record(gateway)
    before = "".join((WORDS * 2)[: late.tokens - 1])
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == before + "".join(WORDS[:5]) == record.completion
    sent = asked(teacher)
    assert sent["messages"][:-1] == [*HI, {"role": "assistant", "content": before}]
    assert sent["messages"][-1]["role"] == "user"
    assert sent["max_tokens"] == 300 - late.tokens
    usage = chunks[-1].usage
    assert usage is not None and record.usage is not None
    assert (late.usage.prompt_tokens, late.usage.completion_tokens) == (70, 5)
    assert record.usage.completion_tokens == draft.usage.completion_tokens + 5
    assert usage.prompt_tokens == record.usage.prompt_tokens == draft.usage.prompt_tokens + 70
    if on_escalation == "cancel":
        assert usage.completion_tokens == record.usage.completion_tokens
    else:  # the client does not count what nobody read
        assert late.tokens + 5 <= usage.completion_tokens <= record.usage.completion_tokens
    assert (record.route, record.outcome, record.finish_reason) == ("student", "ok", "stop")
    assert late.cost_usd == pytest.approx((70 * 2.5 + 5 * 10) / 1e6)
    assert record.cost_usd == pytest.approx(draft.cost_usd + late.cost_usd)
    assert late.silence_s is not None and late.teacher == "fake-tokens-5-prompt-tokens-70"
    assert gateway.metric('router_late_alarms_total{action="continue"}') == 1
    assert gateway.metric('router_tokens_total{direction="output",route="teacher"}') == 5
    assert gateway.metric('router_cost_usd_total{route="teacher"}') == pytest.approx(late.cost_usd)
    assert gateway.metric('router_cost_usd_total{route="student"}') == pytest.approx(draft.cost_usd)


@pytest.mark.parametrize(
    "delta",
    ['{"content":" and","role":"assistant"}', '{"content": " and", "role": "assistant"}',
     '{"role":"assistant","content":" and"}', '{"content":" and","role":"assistant","tool_calls":null}'],
)  # fmt: skip
def test_role_of_a_continued_answer_is_named_once_wherever_the_teacher_writes_it(
    start_cascade: StartCascade, delta: str
) -> None:
    said = f'data: {{"id":"t","choices":[{{"index":0,"delta":{delta},"finish_reason":null}}]}}\n\n'.encode()
    with answering(EVENTS + said * 2 + chunk(finish="stop") + b"data: [DONE]\n\n") as url:
        gateway = start_cascade(STUDENT, rest=CONTINUE, teacher_url=url)
        chunks = chunks_of(gateway)
    assert [each.choices[0].delta.role for each in chunks if each.choices and each.choices[0].delta.role] == [
        "assistant"
    ]
    text = "".join(each.choices[0].delta.content or "" for each in chunks if each.choices)
    assert text.endswith(" and and") and text == the_record(gateway).completion


def test_backend_that_continues_a_final_message_is_asked_to(
    start_cascade: StartCascade, teacher: BackendThread
) -> None:
    gateway = start_cascade(STUDENT, rest=CONTINUE, teacher='continuation = "final_message"')
    stream(gateway)
    sent = asked(teacher)
    assert (sent["continue_final_message"], sent["add_generation_prompt"]) == (True, False)
    assert sent["messages"][-1]["role"] == "assistant"


def test_helper_of_the_official_client_accumulates_a_continued_answer(start_cascade: StartCascade) -> None:
    gateway = start_cascade(STUDENT, rest=CONTINUE)
    with gateway.client() as client, client.chat.completions.stream(model="auto", messages=HI) as events:  # type: ignore[arg-type]
        completion = events.get_final_completion()
    message = completion.choices[0].message
    assert (message.role, completion.choices[0].finish_reason) == ("assistant", "stop")
    assert message.content == the_record(gateway).completion


def test_anthropic_client_reads_a_continued_answer(start_cascade: StartCascade) -> None:
    gateway = start_cascade(STUDENT, rest=CONTINUE)
    client = anthropic.Anthropic(base_url=gateway.origin, api_key="unused-key", max_retries=0, timeout=20)
    question: Any = {"model": "auto", "max_tokens": 500, "messages": HI}
    with client, client.messages.stream(**question) as events:
        message = events.get_final_message()
    assert message.stop_reason == "end_turn"
    assert [block.text for block in message.content if block.type == "text"] == [the_record(gateway).completion]


@pytest.mark.parametrize(
    ("members", "student_model", "cause"),
    [
        ({"response_format": {"type": "json_object"}}, STUDENT, "structured_output"),
        ({"max_tokens": 7}, STUDENT, "no_room"),
        ({}, f"{STUDENT}-reasoning-2", "not_text"),
    ],
)
def test_what_cannot_be_continued_goes_on_as_the_student_writes_it(
    start_cascade: StartCascade,
    student: BackendThread,
    teacher: BackendThread,
    members: dict[str, object],
    student_model: str,
    cause: str,
) -> None:
    model = student_model.replace("tokens-400-gap-0.02", "tokens-14-gap-0.01") + "-fixed"
    rest = reviewer("Watcher", action="continue", from_tokens=6 if cause != "no_room" else 7)
    gateway = start_cascade(model, rest=rest)
    response = stream(gateway, **members)
    assert response.content == direct(student, model, **members)
    assert chats(teacher) == 0
    if cause == "no_room":  # the last token of an answer comes with nothing behind it, or with its end
        late = draft_of(gateway).window.late
        assert late is None or (late.action, late.cause) == ("none", cause)
    else:
        assert (late_of(gateway).action, late_of(gateway).cause) == ("none", cause)
        assert the_record(gateway).mean_logprob is not None


@pytest.mark.parametrize(("teacher_model", "cause"), [("fault-500", "server_error"), ("fault-422", "refused")])
@pytest.mark.parametrize("on_escalation", ["cancel", "reserve"])
def test_answer_stays_one_when_no_teacher_can_continue_it(
    start_cascade: StartCascade, student: BackendThread, teacher_model: str, cause: str, on_escalation: str
) -> None:
    model = "fake-tokens-14-gap-0.02-fixed"
    rest = reviewer("Watcher", action="continue", on_escalation=on_escalation)
    gateway = start_cascade(model, teacher_model, rest=rest)
    response = stream(gateway)
    assert response.text.count("data: [DONE]") == 1
    record, late = the_record(gateway), late_of(gateway)
    assert late.cause == cause
    if on_escalation == "reserve":
        assert response.content == direct(student, model)
        assert (late.action, record.outcome, record.finish_reason) == ("none", "ok", "stop")
    else:
        assert text_of(response) == "".join(WORDS[: late.tokens - 1])
        assert (late.action, record.outcome, record.finish_reason) == ("mark", "degraded", "length")
        assert json.loads(response.text.split("data: ")[-2])["router"]["late_alarm"]["cause"] == cause


def test_stream_ends_in_an_error_when_the_teacher_breaks_while_it_continues(
    start_cascade: StartCascade, student: BackendThread
) -> None:
    gateway = start_cascade(STUDENT, "fault-reset-mid-3-tokens-20", rest=CONTINUE)
    response = stream(gateway)
    assert '"error"' in response.text and "[DONE]" not in response.text
    late, record = late_of(gateway), the_record(gateway)
    assert text_of(response) == "".join((WORDS * 2)[: late.tokens - 1]) + "".join(WORDS[:3]) == record.completion
    assert record.outcome == "backend_error"
    assert late.usage.completion_tokens >= 3
    assert gateway.metric('router_breaker_state{replica="student"}') == 0


@pytest.mark.parametrize("phase", ["asked", "continues"])
def test_both_models_stop_when_the_client_leaves_behind_a_late_alarm(
    start_cascade: StartCascade, student: BackendThread, teacher: BackendThread, wait_until: WaitUntil, phase: str
) -> None:
    slow = "fault-hang" if phase == "asked" else "fake-gap-0.1-tokens-100"
    gateway = start_cascade(STUDENT, slow, rest=reviewer("Watcher", action="continue", on_escalation="reserve"))

    def is_there() -> bool:
        if phase == "asked":
            return teacher.state.in_flight == 1
        return gateway.metric('router_late_alarms_total{action="continue"}') == 1

    leave(gateway, {"stream": True}, after=b'"content":" fox"', once=is_there)
    wait_until(lambda: student.state.aborted == teacher.state.aborted == 1)
    wait_until(lambda: [record.outcome for record in gateway.records()] == ["client_disconnected"])
    record, draft, late = the_record(gateway), draft_of(gateway), late_of(gateway)
    assert record.route == "student"
    assert (late.action, late.cause) == ("continue", "abandoned" if phase == "asked" else None)
    assert late.usage.prompt_tokens == draft.usage.prompt_tokens + draft.usage.completion_tokens
    assert phase == "continues" or late.usage.completion_tokens == 0
    assert record.cost_usd == pytest.approx(draft.cost_usd + late.cost_usd) and late.cost_usd > 0
    wait_until(lambda: gateway.metric("router_inflight_requests") == 0)


def test_comments_keep_the_stream_alive_while_the_teacher_is_asked(start_cascade: StartCascade) -> None:
    gateway = start_cascade(STUDENT, "fake-delay-0.4", rest=CONTINUE, server="heartbeat_interval_s = 0.1")
    response = stream(gateway)
    assert "\n\n: waiting for the answer\n\ndata: " in response.text
    assert response.text.count("HTTP/1.1") == 0 and response.text.count("data: [DONE]") == 1


def test_text_of_a_continued_answer_is_not_kept_below_full(start_cascade: StartCascade) -> None:
    gateway = start_cascade(STUDENT, rest=CONTINUE)
    stream(gateway, store=False)
    record = the_record(gateway)
    assert record.completion is None and draft_of(gateway).text is None


def test_connections_are_used_again_after_a_continued_answer(
    start_cascade: StartCascade, teacher: BackendThread, wait_until: WaitUntil
) -> None:
    gateway = start_cascade(STUDENT, rest=CONTINUE)
    for _ in range(3):
        stream(gateway)
    assert chats(teacher) == 3
    assert teacher.state.connections_total <= 2  # the gateway's probe may have one of its own


def test_official_client_accepts_no_less_than_before(start_cascade: StartCascade) -> None:
    """An alarm that never rings changes no byte."""
    gateway = start_cascade("fake-tokens-12-fixed", rest=reviewer("Watcher", action="continue", from_tokens=500))
    assert isinstance(gateway.client(), openai.OpenAI)
    assert text_of(stream(gateway)) == "".join(WORDS)
    assert draft_of(gateway).window.late is None


def test_teacher_that_continues_is_charged_to_the_budget(start_cascade: StartCascade, tmp_path: Path) -> None:
    budget = f'\n[[routing.policies]]\ntype = "budget"\ntokens_per_day = 600\n[admin]\ndir = "{tmp_path}"\n'
    gateway = start_cascade(STUDENT, "fake-tokens-5-prompt-tokens-70", rest=CONTINUE + budget)
    stream(gateway)
    assert late_of(gateway).action == "continue"
    wait_for("router_teacher_budget_spent_ratio", gateway, 0.125)
    assert gateway.metric("router_teacher_budget_spent_ratio") == 0.125


def test_teacher_that_was_asked_in_vain_is_charged_when_the_client_has_left(
    start_cascade: StartCascade, teacher: BackendThread, tmp_path: Path
) -> None:
    budget = f'\n[[routing.policies]]\ntype = "budget"\ntokens_per_day = 1000\n[admin]\ndir = "{tmp_path}"\n'
    gateway = start_cascade(STUDENT, "fault-hang", rest=CONTINUE + budget)
    leave(gateway, {"stream": True}, after=b'"content":" fox"', once=lambda: teacher.state.in_flight == 1)
    wait_for("router_teacher_budget_spent_ratio", gateway, 0.001)
    late, draft = late_of(gateway), draft_of(gateway)
    assert gateway.metric("router_teacher_budget_spent_ratio") == late.usage.prompt_tokens / 1000
    assert the_record(gateway).cost_usd == pytest.approx(draft.cost_usd + late.cost_usd)
