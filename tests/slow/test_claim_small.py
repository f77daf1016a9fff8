"""The whole chain on real models in its smallest size: it shows that every link holds, and nothing about quality."""

from __future__ import annotations

import csv
import itertools
import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from policies.traffic.reader import decisions

pytestmark = [pytest.mark.slow, pytest.mark.timeout(2400)]

INTENTS = {
    "card_arrival": ("my card has not come", "where is the new card", "the card is still on its way"),
    "top_up_failed": ("my top up did not work", "the money was not added", "adding funds gave an error"),
    "transfer_timing": ("how long does a transfer take", "when will my transfer be there", "is the transfer quick"),
    "pin_blocked": ("my pin is blocked", "i typed the wrong pin", "the machine refused my pin"),
    "exchange_rate": ("which exchange rate do you use", "is the rate good", "how is the rate made"),
    "cash_withdrawal_charge": ("why was i charged for cash", "a fee for the machine", "cash costs a fee"),
}
AMBIGUOUS = ("it is about my card", "i have a question on my card", "a problem with the card")
"""Half of the people who write this mean one intent, half the other: errors that a student can be unsure of."""
OPENINGS = ("hello,", "please help:", "hi there,", "i wonder,", "quick question:", "sorry,", "good day,", "listen,")
ENDINGS = ("thanks", "what now?", "can you look?", "since monday", "for a week", "it is urgent", "again", "as always")


def write_data(folder: Path) -> None:
    rows = [
        (f"{opening} {body} {ending}", intent)
        for intent, bodies in INTENTS.items()
        for opening, body, ending in itertools.product(OPENINGS, bodies, ENDINGS)
    ]
    dice = random.Random(7)
    for opening, body, ending in itertools.product(OPENINGS, AMBIGUOUS, ENDINGS):
        rows.append((f"{opening} {body} {ending}", dice.choice(("card_arrival", "pin_blocked"))))
    dice.shuffle(rows)
    for name, part in (("train.csv", rows[:600]), ("test.csv", rows[600:700])):
        with (folder / name).open("w", newline="") as file:
            csv.writer(file).writerows([("text", "category"), *part])


def test_claim_runs_from_labels_to_figures_when_the_size_is_small(
    tmp_path: Path, serving_python: str, student_model: object
) -> None:
    """Twice: the second run finds everything done, and prints the same figures."""
    write_data(tmp_path)
    work = tmp_path / "claim"
    command = [sys.executable, "-m", "trainer.claim", str(tmp_path), "--work", str(work), "--size", "small"]
    environ = {**os.environ, "LOCUM_SERVING_PYTHON": serving_python}
    first = subprocess.run(command, env=environ, capture_output=True, text=True, check=False)
    assert first.returncode == 0, first.stderr[-4000:]
    figures = json.loads((work / "claim.json").read_text())

    assert figures["routing"]["n"] == 80
    assert 0 < figures["routing"]["escalated"]["calls"] < 1
    assert figures["speed"]["student_requests_per_s"] > figures["speed"]["teacher_requests_per_s"]
    assert set(figures["targets"]) and figures["gate"] in ("pass", "fail", "inconclusive")

    purposes = {record.decision_id: record.purpose for record in decisions(work / "traffic")}
    trained = set().union(*(trained_ids(file) for file in work.glob("runs/intents/logprobs/*/*.parquet")))
    assert trained
    assert {purposes[decision_id] for decision_id in trained} == {"traffic"}
    assert "eval" in purposes.values()

    tested = [json.loads(line) for line in (work / "answers" / "test-routed.jsonl").read_bytes().split(b"\n") if line]
    assert len({answer["student"] for answer in tested}) == 1
    assert tested[0]["student"] == json.loads((work / "students" / "current.json").read_text())["bundle_id"]

    again = subprocess.run(command, env=environ, capture_output=True, text=True, check=False)
    assert again.returncode == 0, again.stderr[-4000:]
    assert again.stdout == first.stdout


def trained_ids(path: Path) -> set[str]:
    import pyarrow.parquet as pq

    return set(pq.read_table(path, columns=["decision_id"]).column("decision_id").to_pylist())
