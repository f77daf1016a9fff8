"""Drift detection on simulated traffic: silent over a month without a change, and quick when there is one."""

from __future__ import annotations

import copy
import random
from collections.abc import Iterator
from typing import Any

import msgspec
import numpy as np
import pytest

from policies.base import RequestFeatures
from policies.quality.drift import Detector, Monitor, Sizes
from policies.quality.drift_samples import Digester, is_json, log_bin, projection_bin, sample_of
from policies.quality.drift_summaries import BINS, MAX_TAGS, PROJECTION_BINS, Calibration, Stream, Summary
from policies.record import DecisionRecord, Usage
from tests.traffic_records import decision

SIZES = Sizes()
PANE = SIZES.window_requests // 4
WORDS = {
    "billing": [
        "invoice",
        "refund",
        "payment",
        "card",
        "charge",
        "month",
        "account",
        "total",
        "amount",
        "due",
        "bank",
        "tax",
    ],
    "code": [
        "function",
        "class",
        "loop",
        "error",
        "python",
        "import",
        "return",
        "string",
        "list",
        "index",
        "compile",
        "bug",
    ],
}
COMMON = [
    "the",
    "a",
    "of",
    "to",
    "is",
    "in",
    "my",
    "and",
    "what",
    "how",
    "do",
    "you",
    "i",
    "it",
    "please",
    "can",
    "for",
    "on",
    "with",
    "this",
]


def request(chance: random.Random, number: int, **change: Any) -> DecisionRecord:
    """One request of simulated traffic, a second after the one before; `change` says what is different."""
    topic = WORDS["code" if chance.random() < change.get("code", 0.1) else "billing"]
    turn = " ".join(chance.choice(topic if chance.random() < 0.4 else COMMON) for _ in range(25))
    refuses = chance.random() < change.get("refusals", 0.01)
    tokens = max(1, int(chance.lognormvariate(4.0, 0.7) * change.get("length", 1.0)))
    broken = chance.random() < change.get("broken", 0.02)
    return decision(
        number,
        route="student",
        tags={"team": "a" if chance.random() < 0.7 else "b"},
        features=RequestFeatures(
            prompt_bytes=200, message_count=1, approx_prompt_tokens=40, requested_output_tokens=500,
            last_user_turn=turn, has_response_format=True,
        ),
        completion="I'm sorry, I cannot help with that." if refuses else ("{" if broken else "") + '{"answer": 1}',
        finish_reason="stop",
        usage=Usage(prompt_tokens=40, completion_tokens=tokens),
        backend_fingerprint=change.get("fingerprint", "fp_1"),
    )  # fmt: skip


def traffic(chance: random.Random, n: int, start: int = 0, **change: Any) -> Iterator[tuple[int, Summary]]:
    """Summaries of 100 requests each, and how many requests there were by then."""
    digester = Digester()
    for first in range(start, start + n, 100):
        summary = Summary()
        for number in range(first, first + 100):
            sample = sample_of(request(chance, number, **change), "team")
            assert sample is not None
            digester.add(sample, summary)
        yield first + 100 - start, summary


@pytest.fixture(scope="module")
def settled() -> Monitor:
    """With a reference and a window of the same traffic."""
    monitor, chance = Monitor(student="student"), random.Random(1)
    for _, summary in traffic(chance, SIZES.reference_requests + SIZES.window_requests):
        monitor.take(summary, Calibration(), now_s=summary.last_s, sizes=SIZES)
    assert monitor.fixed_s is not None
    assert monitor.looks == 4
    assert not any(finding.alarm for finding in monitor.findings.values())
    return monitor


@pytest.mark.parametrize(
    ("detector", "change", "within"),
    [
        ("refusals", {"refusals": 0.08}, 1500),
        ("format", {"broken": 0.12}, 1000),
        ("length", {"length": 1.6}, 1500),
        ("inputs", {"code": 0.9}, 1500),
    ],
)
def test_shift_is_found_within_the_stated_number_of_requests(
    settled: Monitor, detector: Detector, change: dict[str, float], within: int
) -> None:
    monitor, chance = copy.deepcopy(settled), random.Random(2)
    for _, summary in traffic(chance, within, start=7000, **change):
        monitor.take(summary, Calibration(), now_s=summary.last_s, sizes=SIZES)
        if monitor.findings[detector].alarm:
            break
    assert monitor.findings[detector].alarm, monitor.findings[detector]
    others = {name for name, finding in monitor.findings.items() if finding.alarm} - {detector}
    assert not others


def test_small_shift_does_not_ring_however_long_it_lasts(settled: Monitor) -> None:
    monitor, chance = copy.deepcopy(settled), random.Random(3)
    for _, summary in traffic(chance, 3000, start=7000, refusals=0.018, length=1.1):
        monitor.take(summary, Calibration(), now_s=summary.last_s, sizes=SIZES)
        assert not any(finding.alarm for finding in monitor.findings.values())


def counted(generator: np.random.Generator, n: int) -> Summary:
    """Counts of `n` requests without the requests: a month of them in a second."""
    summary = Summary(n=n, first_s=0.0, last_s=900.0)
    shape = np.exp(-0.5 * ((np.arange(PROJECTION_BINS) - 16) / 5.0) ** 2)
    lengths = np.exp(-0.5 * ((np.arange(BINS) - 20) / 4.0) ** 2)
    for tag, part in (("", n), ("a", n // 2), ("b", n // 4)):
        histograms = {f"words{j}": generator.multinomial(part, shape / shape.sum()).tolist() for j in range(3)}
        summary.streams[f"/{tag}"] = Stream(histograms=histograms)
        summary.streams[f"student/{tag}"] = Stream(
            rates={
                "refusal": [int(generator.binomial(part, 0.004)), part],
                "truncated": [int(generator.binomial(part, 0.05)), part],
            },
            histograms={"length": generator.multinomial(part, lengths / lengths.sum()).tolist()},
        )
    return summary


def test_no_alarm_rings_by_chance_in_a_month_of_looks() -> None:
    """1,440 looks, one in half an hour. The effect alone must not be what keeps it silent: the evidence stays below 1."""
    generator, monitor = np.random.default_rng(4), Monitor(student="student")
    strongest = 0.0
    for _ in range(SIZES.reference_requests // PANE + 30 * 24 * 2):
        labels = Calibration()
        for p in generator.random(20) * 0.4:
            labels.add(float(p), float(generator.random() < p))
        monitor.take(counted(generator, PANE), labels, now_s=0.0, sizes=SIZES)
        strongest = max([strongest, *(finding.evidence for finding in monitor.findings.values())])
        assert not any(finding.alarm for finding in monitor.findings.values())
    assert monitor.looks > 1400
    assert 0.3 < strongest < 1.0


def test_calibration_alarm_rings_when_the_student_is_wrong_more_often_than_stated() -> None:
    chance, monitor = random.Random(5), Monitor(student="student")
    for n in range(1, 2001):
        stated, labels = chance.random() * 0.4, Calibration()
        labels.add(stated, float(chance.random() < stated + 0.15))
        monitor.take(Summary(), labels, now_s=n, sizes=SIZES)
        if monitor.findings and monitor.findings["calibration"].alarm:
            break
    assert monitor.findings["calibration"].alarm
    assert n <= 1000
    assert monitor.findings["calibration"].effect == pytest.approx(0.15, abs=0.05)
    assert monitor.labels.error == pytest.approx(0.15, abs=0.05)


def test_new_fingerprint_of_the_teacher_rings_at_once(settled: Monitor) -> None:
    monitor = copy.deepcopy(settled)
    for fingerprint in ("fp_1", "fp_2"):
        summary = Summary()
        sample = sample_of(decision(9000, backend_fingerprint=fingerprint))
        assert sample is not None
        Digester().add(sample, summary)
        monitor.take(summary, Calibration(), now_s=1.0, sizes=SIZES)
        if fingerprint == "fp_1":  # the reference had no answer of the teacher: the first one is taken for it
            assert "teacher_fingerprint" not in monitor.findings
    assert monitor.findings["teacher_fingerprint"].alarm
    assert monitor.findings["teacher_fingerprint"].measure == "fp_2"


def test_summaries_of_two_workers_add_up_to_that_of_one() -> None:
    chance = random.Random(6)
    records = [request(chance, n) for n in range(300)]
    whole, parts = Summary(), [Summary(), Summary()]
    for n, record in enumerate(records):
        sample = sample_of(record, "team")
        assert sample is not None
        Digester().add(sample, whole)
        Digester().add(sample, parts[n % 2])
    parts[0].merge(parts[1])
    assert parts[0] == whole


def test_state_survives_the_way_through_a_store(settled: Monitor) -> None:
    monitor = msgspec.msgpack.decode(msgspec.msgpack.encode(settled), type=Monitor)
    assert monitor == settled


def test_restart_collects_a_new_reference_for_another_student(settled: Monitor) -> None:
    monitor = copy.deepcopy(settled)
    monitor.restart("other", 5.0)
    assert (monitor.fixed_s, monitor.reference.n, monitor.findings) == (None, 0, {})
    monitor.use(settled.reference, 6.0)
    assert monitor.student == "other"
    assert monitor.fixed_s == 6.0


def test_tags_are_bounded_when_clients_invent_them() -> None:
    summary, digester = Summary(), Digester()
    for n in range(200):
        sample = sample_of(decision(n, tags={"team": str(n)}), "team")
        assert sample is not None
        digester.add(sample, summary)
    assert len({name.partition("/")[2] for name in summary.streams} - {""}) == MAX_TAGS + 1
    assert sum(counts[1] for name, s in summary.streams.items() if name.startswith("teacher/") and name != "teacher/"
               for counts in [s.rates["refusal"]]) == 200  # fmt: skip


def test_embeddings_take_the_place_of_words_where_they_are_measured() -> None:
    summary = Summary()
    sample = sample_of(request(random.Random(7), 1), None, (0.6, 0.8))
    assert sample is not None
    Digester().add(sample, summary)
    histograms = summary.streams["/"].histograms
    assert sum(histograms["embedding0"]) == 1
    assert not any(name.startswith("words") for name in histograms)


@pytest.mark.parametrize("fields", [{"purpose": "eval"}, {"route": None}, {"outcome": "backend_error"}])
def test_what_is_no_answered_traffic_is_not_sampled(fields: dict[str, Any]) -> None:
    assert sample_of(decision(1, **fields)) is None


def test_bins_rise_with_what_they_hold() -> None:
    assert [log_bin(n) for n in (0, 1, 2, 4)] == [0, 1, 4, 7]
    assert log_bin(10**9) == BINS - 1
    assert [projection_bin(v) for v in (-9.0, -0.1, 0.1, 9.0)] == [0, 15, 16, PROJECTION_BINS - 1]
    assert all(projection_bin(v / 10) <= projection_bin(v / 10 + 0.1) for v in range(-50, 50))


def test_json_is_told_from_text() -> None:
    assert is_json('{"a": [1, 2]}')
    assert not is_json('{"a": 1')
    assert not is_json("Sure! {}")
    assert not is_json("[" * 100_000)
