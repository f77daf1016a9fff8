"""The proof of the traffic log: a small one on real processes, and that it sees what it is there to see."""

from __future__ import annotations

import os
import random
from collections import Counter
from pathlib import Path

import pytest

from loadtests import systems
from loadtests.log_proof.clients import Tally
from loadtests.log_proof.damage import HARMS, damage_all
from loadtests.log_proof.disk import MountRefused, fill
from loadtests.log_proof.kills import differences, kill_again_and_again
from loadtests.log_proof.ledger import Held, held
from tests.traffic_records import decision, decision_id, judgement, write_segment


def kept(decisions: dict[str, int], *, judgements: dict[str, int] | None = None, damaged: int = 0) -> Held:
    return Held(Counter(decisions), Counter(judgements or {}), damaged, 0)


@pytest.mark.parametrize(
    ("tally", "there", "found"),
    [
        (Tally(answered={"a": "plain"}), kept({"a": 1, "b": 1}), None),
        (Tally(answered={"a": "plain", "b": "stream"}), kept({"a": 1}), "1 answers have no record, e.g. b"),
        (
            Tally(answered={"a": "plain"}),
            kept({"a": 1, "b": 2}),
            "1 records of answers are there more than once, e.g. b",
        ),
        (Tally(judged=["a"]), kept({"a": 1}), "1 judgements have no record, e.g. a"),
        (Tally(), kept({}, judgements={"a": 2}), "1 records of judgements are there more than once, e.g. a"),
        (Tally(), kept({}, damaged=1), "1 lines are damaged"),
        (Tally(repeated=1), kept({}), "1 answers had an id that another one had before"),
    ],
)
def test_difference_between_clients_and_log_is_named(tally: Tally, there: Held, found: str | None) -> None:
    assert differences(tally, there) == ([] if found is None else [found])


def test_log_is_read_without_the_products_reader(tmp_path: Path) -> None:
    path = write_segment(tmp_path, "a", [decision(1), decision(2), judgement(1, score=1.0), decision(2)])
    path.write_bytes(path.read_bytes() + b"damaged\nunfin")
    assert held(tmp_path) == Held(
        Counter({decision_id(1): 1, decision_id(2): 2}),
        Counter({decision_id(1): 1}),
        damaged_lines=1,
        unfinished_lines=1,
    )


@pytest.mark.parametrize("kind", list(HARMS))
def test_harm_changes_a_segment(kind: str, tmp_path: Path) -> None:
    data = write_segment(tmp_path, "a", [decision(number) for number in range(20)]).read_bytes()
    assert HARMS[kind](data, random.Random(1)) != data


@pytest.mark.system
@pytest.mark.timeout(400)
async def test_every_damage_is_found_and_costs_no_record_that_it_spared(tmp_path: Path) -> None:
    segments = [
        write_segment(tmp_path, str(place), [decision(place * 100 + number) for number in range(12)])
        for place in range(5)
    ]
    results = await damage_all(tmp_path / "damaged", segments, seed=1)
    assert [failure for each in results for failure in each.failures] == []
    lost = {each.kind: each.lost for each in results}
    assert lost["a bit of a line end"] == 0
    assert lost["a bit of a record"] == len(segments)


@pytest.mark.system
@pytest.mark.timeout(400)
async def test_every_answered_request_is_logged_once_when_processes_are_killed_under_load(tmp_path: Path) -> None:
    port = systems.free_port()
    with systems.fake_backend(port, cores=os.sched_getaffinity(0), folder=tmp_path):
        result = await kill_again_and_again(tmp_path, upstream_port=port, kills=5, seed=7)
    assert result.failures == []
    assert sum(result.kills.values()) == 5
    assert len(result.tally.answered) > 50
    assert result.tally.cut_off > 0  # it was killed under load


@pytest.mark.system
@pytest.mark.timeout(400)
async def test_full_disk_fails_no_request_and_the_log_goes_on_when_there_is_room(tmp_path: Path) -> None:
    port = systems.free_port()
    with systems.fake_backend(port, cores=os.sched_getaffinity(0), folder=tmp_path):
        try:
            result = await fill(tmp_path, upstream_port=port, seed=7)
        except MountRefused as exc:
            pytest.skip(str(exc))
    assert result.failures == []
    assert result.dropped > 0
