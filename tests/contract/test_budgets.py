"""Budgets of tenants, through real gateways on real sockets."""

from __future__ import annotations

import pytest

from loadtests.fake_backend import BackendThread
from tests.contract import conftest
from tests.contract.conftest import StartGateway, chats
from tests.contract.scripted import Says, scripted
from tests.contract.tenants import (
    AUTH,
    KEYS,
    RETRIEVAL,
    TO_TEACHER,
    ask,
    error_of,
)
from tests.contract.test_cascade import DOUBTER
from tests.contract.windows import window

DEAR = "[[fake-prompt-tokens-100000-tokens-0]]"
"""0.25 USD at the teacher, 0.002 USD at the student."""


def test_budget_is_overdrawn_by_what_runs_and_then_refuses(start_gateway: StartGateway) -> None:
    gateway = start_gateway(KEYS, rest=f"{AUTH}[tenants.acme]\nbudget_usd_per_day = 0.3\nbudget_usd_per_month = 9")
    assert ask(gateway, DEAR, model="teacher").status_code == 200
    assert ask(gateway, DEAR, model="teacher").status_code == 200
    refused = ask(gateway)
    assert refused.status_code == 429
    assert (error_of(refused)["code"], error_of(refused)["type"]) == ("insufficient_quota", "insufficient_quota")
    assert 1 <= int(refused.headers["retry-after"]) <= 24 * 3600
    assert refused.headers["x-should-retry"] == "false"
    assert gateway.metric('router_admission_refusals_total{cause="budget_day"}') == 1
    assert ask(gateway, key="key-of-beta").status_code == 200


def test_student_goes_on_alone_when_the_budget_is_spent(
    start_gateway: StartGateway, student: BackendThread, teacher: BackendThread
) -> None:
    limits = f'{AUTH}[limits]\nbudget_usd_per_day = 0.2\non_budget_spent = "student_only"\n'
    gateway = start_gateway(KEYS, rest=limits + RETRIEVAL)
    before = ask(gateway, DEAR, router=TO_TEACHER)
    assert before.headers["x-router-route"] == "teacher"
    teacher.state.reset()
    degraded = ask(gateway, router=TO_TEACHER)
    assert (degraded.headers["x-router-route"], degraded.headers["x-router-degraded"]) == ("student", "budget_spent")
    assert gateway.records()[-1].outcome == "degraded"
    ordinary = ask(gateway, router={"retrieval_confidence": 0.9})
    assert ordinary.headers["x-router-route"] == "student"
    assert "x-router-degraded" not in ordinary.headers
    for fields in ({"model": "teacher"}, {"max_tokens": 100_000}):  # the client insists; the student cannot
        refused = ask(gateway, **fields)
        assert (refused.status_code, error_of(refused)["code"]) == (429, "insufficient_quota")
    failed = ask(gateway, "[[fault-500]]")
    assert failed.status_code == 503
    assert chats(teacher) == 0


def test_draft_that_was_thrown_away_is_paid_for_too(start_gateway: StartGateway) -> None:
    limits = '[limits]\nbudget_usd_per_day = 0.2\non_budget_spent = "student_only"\n'
    gateway = start_gateway(KEYS, rest=f"{AUTH}{limits}{DOUBTER}")
    weak = "[[fake-prompt-tokens-100000-tokens-5-logprob-2.5]]"
    first = ask(gateway, weak)
    assert first.headers["x-router-route"] == "teacher"
    cost_usd = gateway.records()[-1].cost_usd
    assert cost_usd == pytest.approx(0.25 + 0.002, rel=1e-3)
    second = ask(gateway, weak)  # the teacher is not asked about drafts any more
    assert second.headers["x-router-route"] == "student"


@pytest.mark.parametrize("stream", [False, True])
def test_teacher_behind_a_draft_is_charged_when_the_students_price_is_unknown(
    start_gateway: StartGateway, monkeypatch: pytest.MonkeyPatch, stream: bool
) -> None:
    head, prices, rest = conftest.CONFIG.partition(
        "price_usd_per_1m_input_tokens = 0.02\nprice_usd_per_1m_output_tokens = 0.04\n"
    )
    assert prices
    monkeypatch.setattr(conftest, "CONFIG", head + rest)
    gateway = start_gateway(KEYS, rest=f"{AUTH}[limits]\nbudget_usd_per_day = 0.2\n{window() if stream else DOUBTER}")
    weak = "[[fake-prompt-tokens-100000-tokens-20-logprob-2.5]]"
    assert ask(gateway, weak, stream=stream).headers["x-router-route"] == "teacher"
    assert gateway.records()[-1].cost_usd is None
    assert ask(gateway, weak, stream=stream).status_code == 429


def test_draft_is_charged_when_nobody_answers_after_it_was_cancelled(start_gateway: StartGateway) -> None:
    limits = "[limits]\nbudget_usd_per_day = 0.003\n"
    with scripted(Says("word " * 60, logprob=-2.5, gap_s=0.01), Says(status=500)) as student:
        gateway = start_gateway(
            KEYS, rest=f"{AUTH}{limits}{window()}", student_url=student.base_url, teacher_model="fault-500"
        )
        long_prompt = "hi " * 150_000  # some 0.002 USD at the student
        assert ask(gateway, long_prompt, stream=True).status_code == 503
        draft = gateway.records()[-1].draft
        assert draft is not None and draft.cost_usd
        assert ask(gateway, long_prompt, stream=True).status_code == 429
