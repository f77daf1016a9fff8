"""The records and the metrics of a running gateway say the same about money."""

from __future__ import annotations

import re
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from policies.record import DecisionRecord
from router.pricing import students_part_usd
from tests.contract.conftest import CONFIG, RunningGateway, StartGateway

HOURLY_USD = 3.6
USD_PER_S = HOURLY_USD / 3600
MICRO_USD = 1e-6
DOUBTER = '[[routing.policies]]\ntype = "tests.contract.reviewers:EarlyDoubter"'
LISTED = "price_usd_per_1m_input_tokens = 0.02\nprice_usd_per_1m_output_tokens = 0.04\n"
assert LISTED in CONFIG
MACHINE = f"machine_usd_per_hour = {HOURLY_USD}"


@pytest.fixture
def start_machine(start_gateway: StartGateway, monkeypatch: pytest.MonkeyPatch) -> StartGateway:
    """A gateway whose student is priced by its machine alone."""

    def start(**parts: str) -> RunningGateway:
        monkeypatch.setattr("tests.contract.conftest.CONFIG", CONFIG.replace(LISTED, "", 1))
        return start_gateway(student=MACHINE, **parts)

    return start


def counted(gateway: RunningGateway, name: str) -> dict[str, float]:
    """The samples of a counter, by their labels."""
    text = httpx.get(f"{gateway.origin}/metrics").text
    return {
        labels: float(value) for labels, value in re.findall(rf"^{name}_total(\{{.*\}})? (\S+)$", text, re.MULTILINE)
    }


def spent_usd(records: list[DecisionRecord]) -> float:
    """As `locum log stats` adds it up: where the whole is unknown, at least the student's part."""
    return sum((r.cost_usd if r.cost_usd is not None else students_part_usd(r)) or 0.0 for r in records)


def ask(gateway: RunningGateway, contents: list[str], **more: object) -> None:
    def one(content: str) -> None:
        for stream in (False, True):
            body = {"model": "auto", "messages": [{"role": "user", "content": content}], "stream": stream, **more}
            gateway.post(body)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(one, contents))


MIXTURE = [
    "hi",
    "[[fake-delay-0.02]]",
    "[[fake-logprob-2.5-tokens-5]]",
    "[[fake-500]]",
    "[[fake-reset]]",
    "[[fake-reset-mid-1]]",
]


@pytest.mark.parametrize("machine", ["", MACHINE], ids=["listed", "both"])
def test_spend_of_records_is_that_of_the_metrics_when_the_student_has_list_prices(
    start_gateway: StartGateway, machine: str
) -> None:
    gateway = start_gateway(student=machine, rest=DOUBTER)
    ask(gateway, MIXTURE * 3)
    records = gateway.records()
    assert sum(counted(gateway, "router_cost_usd").values()) == pytest.approx(spent_usd(records), abs=MICRO_USD)
    drafts = sum(r.draft.cost_usd or 0.0 for r in records if r.draft is not None and r.route != "student")
    assert drafts > 0
    assert gateway.metric("router_draft_cost_usd_total") == pytest.approx(drafts, abs=MICRO_USD)
    assert not any(record.machine_priced for record in records)
    measured = [record.machine_usd for record in records]
    if machine:
        assert sum(usd or 0.0 for usd in measured) > 0
        assert all(r.cost_usd != r.machine_usd for r in records if r.route == "student")
    else:
        assert measured == [None] * len(records)


def test_spend_of_records_is_that_of_the_metrics_when_the_student_is_priced_by_its_machine(
    start_machine: StartGateway,
) -> None:
    gateway = start_machine(rest=DOUBTER)
    ask(gateway, MIXTURE * 3)
    records = gateway.records()
    assert all(record.machine_priced and record.machine_usd is not None for record in records)
    assert all(record.cost_usd == record.machine_usd for record in records if record.route == "student")
    busy = sum(record.machine_usd or 0.0 for record in records)
    assert busy > 0
    assert counted(gateway, "router_student_machine_usd")['{state="busy"}'] == pytest.approx(busy, abs=MICRO_USD)
    cost = counted(gateway, "router_cost_usd")
    assert cost['{route="student"}'] == pytest.approx(busy, abs=MICRO_USD)
    assert sum(cost.values()) == pytest.approx(spent_usd(records), abs=MICRO_USD)
    escalated = [record for record in records if record.reason == "doubtful"]
    assert escalated
    for record in escalated:
        assert record.draft is not None and record.draft.cost_usd == record.machine_usd


def test_busy_and_idle_time_of_the_machine_are_all_of_its_time(start_machine: StartGateway) -> None:
    gateway = start_machine()

    def machine() -> tuple[float, float, float]:
        before_s = time.monotonic()
        total = sum(counted(gateway, "router_student_machine_usd").values())
        return before_s, total, time.monotonic()

    before_s, first, after_s = machine()
    ask(gateway, MIXTURE)
    later_s, second, last_s = machine()
    assert (later_s - after_s) * USD_PER_S <= second - first <= (last_s - before_s) * USD_PER_S


def test_time_on_the_machine_is_charged_to_a_request_that_nobody_answered(start_machine: StartGateway) -> None:
    gateway = start_machine(teacher_model="fake-500", server="")
    gateway.post({"model": "student", "messages": [{"role": "user", "content": "[[fake-500]]"}]})
    (record,) = gateway.records()
    assert record.route is None and record.cost_usd is None
    assert record.machine_usd is not None and record.machine_usd > 0
    assert counted(gateway, "router_cost_usd")['{route="student"}'] == pytest.approx(record.machine_usd)


def test_cost_is_unreported_when_the_price_is_unknown(
    start_gateway: StartGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tests.contract.conftest.CONFIG", CONFIG.replace(LISTED, "", 1))
    gateway = start_gateway()
    gateway.post({"model": "auto", "messages": [{"role": "user", "content": "hi"}]})
    (record,) = gateway.records()
    assert (record.route, record.cost_usd, record.machine_usd) == ("student", None, None)
    assert '{route="student"}' not in counted(gateway, "router_cost_usd")
    assert gateway.metric('router_unpriced_requests_total{route="student"}') == 1
    assert counted(gateway, "router_student_machine_usd") == {}
