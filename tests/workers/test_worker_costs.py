"""Money over several workers: what the records say together is what the merged metrics say."""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from loadtests.fake_backend import BackendThread
from policies.record import DecisionRecord
from policies.traffic.reader import decisions
from router.pricing import students_part_usd
from tests.workers.test_workers import CONFIG, Serving, eventually

pytestmark = pytest.mark.system
HOURLY_USD = 3.6
USD_PER_S = HOURLY_USD / 3600
MICRO_USD = 1e-6
PRICED = CONFIG.replace("[teacher]", f"machine_usd_per_hour = {HOURLY_USD}\n[teacher]").replace(
    "[log]",
    "price_usd_per_1m_input_tokens = 2.5\nprice_usd_per_1m_output_tokens = 10.0\n"
    'price_usd_per_1m_reasoning_tokens = 12.0\n[[routing.policies]]\ntype = "tests.contract.reviewers:Doubter"\n[log]',
)
WEAK = "[[fake-logprob-2.5-tokens-5-delay-0.02]]"


@pytest.fixture(scope="module")
def serving(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    with BackendThread(models=("student",)) as backend:
        running = Serving(tmp_path_factory.mktemp("costs"), backend, PRICED)
        yield running
        running.process.send_signal(signal.SIGTERM)
        running.process.wait(60)


def counted(serving: Serving, name: str) -> dict[str, float]:
    text = httpx.get(f"{serving.url}/metrics", timeout=30).text
    return {
        labels: float(value) for labels, value in re.findall(rf"^{name}_total(\{{.*\}})? (\S+)$", text, re.MULTILINE)
    }


def machine_usd(serving: Serving) -> float:
    return sum(counted(serving, "router_student_machine_usd").values())


def ask_much(serving: Serving) -> None:
    with ThreadPoolExecutor(12) as pool:
        list(pool.map(serving.ask, ["[[fake-delay-0.05]]", WEAK, "hi"] * 20))


def logged(serving: Serving) -> list[DecisionRecord]:
    return list(decisions(serving.folder / "traffic"))


def test_costs_of_all_records_are_those_of_the_metrics_to_the_micro_dollar(serving: Serving) -> None:
    ask_much(serving)
    assert len(serving.workers()) == 2
    records = logged(serving)
    assert len(records) >= 60
    busy = sum(record.machine_usd or 0.0 for record in records)
    cost = counted(serving, "router_cost_usd")
    spent = sum((r.cost_usd if r.cost_usd is not None else students_part_usd(r)) or 0.0 for r in records)
    drafts = sum(r.draft.cost_usd or 0.0 for r in records if r.draft is not None and r.route != "student")
    assert busy > 0 and drafts > 0
    assert counted(serving, "router_student_machine_usd")['{state="busy"}'] == pytest.approx(busy, abs=MICRO_USD)
    assert cost['{route="student"}'] == pytest.approx(busy, abs=MICRO_USD)
    assert sum(cost.values()) == pytest.approx(spent, abs=MICRO_USD)
    assert counted(serving, "router_draft_cost_usd")[""] == pytest.approx(drafts, abs=MICRO_USD)
    all_teacher = sum(record.counterfactual_cost_usd or 0.0 for record in records)
    assert counted(serving, "router_counterfactual_cost_usd")[""] == pytest.approx(all_teacher, abs=MICRO_USD)


def test_machine_is_never_charged_more_than_its_time_when_a_worker_is_killed(serving: Serving) -> None:
    before_s, first, after_s = time.monotonic(), machine_usd(serving), time.monotonic()
    with ThreadPoolExecutor(12) as pool:
        running = [pool.submit(serving.ask, "[[fake-delay-1.0]]") for _ in range(12)]
        time.sleep(0.5)
        workers = serving.workers()
        os.kill(next(iter(workers)), signal.SIGKILL)
        errors = [future.exception() for future in running]
    assert any(errors), "no request was cut off"
    eventually(lambda: len(serving.workers()) == 2 and serving.workers() != workers)
    ask_much(serving)
    later_s, second, last_s = time.monotonic(), machine_usd(serving), time.monotonic()
    assert (later_s - after_s) * USD_PER_S - MICRO_USD <= second - first <= (last_s - before_s) * USD_PER_S + MICRO_USD
