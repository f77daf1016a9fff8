"""A tiny soak, and what it concludes from samples."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
from click.testing import CliRunner

from loadtests import soak
from loadtests.crowd import Tally
from loadtests.soak import Reading, judge
from loadtests.trend import trend_of

MB = 2**20
WELL = Tally(finished=100, left=10)


def readings(rss_mb_per_min: float = 0.0, descriptors_per_min: float = 0.0, *, count: int = 120) -> list[Reading]:
    """Five minutes, with the noise of an allocator."""
    source = random.Random(1)
    found = []
    for index in range(count):
        at_min = 5 * index / count
        size = (90 + rss_mb_per_min * at_min + source.uniform(-0.5, 0.5)) * MB
        descriptors = round(300 + descriptors_per_min * at_min + source.uniform(-20, 20))
        found.append(Reading(at_min * 60, round(size), descriptors, 200))
    return found


def failures(samples: list[Reading], tally: Tally = WELL, inflight_after: int | None = 0) -> list[str]:
    return judge(samples, tally, inflight_after=inflight_after, streams=200, minutes=5).failures


def test_soak_passes_when_memory_and_descriptors_only_fluctuate() -> None:
    assert failures(readings()) == []


def test_soak_fails_when_memory_grows() -> None:
    (failure,) = failures(readings(rss_mb_per_min=3.0))
    assert "memory grows" in failure


def test_soak_fails_when_descriptors_grow() -> None:
    (failure,) = failures(readings(descriptors_per_min=30.0))
    assert "descriptors grow" in failure


def test_soak_does_not_judge_growth_within_its_warm_up() -> None:
    samples = readings(count=120)
    for index in range(40):
        samples[index] = Reading(samples[index].at_s, (50 + index) * MB, 100, 200)
    assert failures(samples) == []


@pytest.mark.parametrize(
    ("tally", "inflight_after", "words"),
    [
        (Tally(finished=5, wrong=1, first_wrong="read: cut"), 0, "1 answers were wrong, the first one: read: cut"),
        (WELL, 3, "3 requests are still in flight"),
        (Tally(left=5), 0, "no stream was finished"),
    ],
)
def test_soak_fails_when_requests_are_lost(tally: Tally, inflight_after: int, words: str) -> None:
    (failure,) = failures(readings(), tally, inflight_after)
    assert words in failure


def test_trend_is_exact_when_samples_lie_on_a_line() -> None:
    trend = trend_of([0, 1, 2, 3, 4, 5], [10, 12, 14, 16, 18, 20])
    assert (trend.slope, trend.low, trend.high) == pytest.approx((2, 2, 2))


def test_trend_holds_zero_when_samples_are_noise() -> None:
    source = random.Random(2)
    trends = [trend_of(list(range(100)), [source.gauss(0, 1) for _ in range(100)]) for _ in range(100)]
    assert 90 <= sum(trend.low < 0 < trend.high for trend in trends) <= 100


def test_trend_is_less_sure_when_neighbours_are_alike() -> None:
    source = random.Random(3)
    steps, walk = [source.gauss(0, 1) for _ in range(200)], [0.0]
    for step in steps[1:]:
        walk.append(0.9 * walk[-1] + step)
    alike, shuffled = trend_of(list(range(200)), walk), trend_of(list(range(200)), random.Random(4).sample(walk, 200))
    assert alike.high - alike.low > 2 * (shuffled.high - shuffled.low)


def test_trend_leaves_out_what_a_known_cause_explains() -> None:
    load = [100.0, 180.0, 120.0, 190.0, 150.0, 200.0, 160.0, 210.0]
    values = [2 * each for each in load]
    assert trend_of(list(range(8)), values).slope > 10
    assert trend_of(list(range(8)), values, beside=load).slope == pytest.approx(0, abs=1e-9)
    leaking = [value + 3 * at for at, value in enumerate(values)]
    assert trend_of(list(range(8)), leaking, beside=load).slope == pytest.approx(3)
    assert trend_of(list(range(8)), leaking, beside=[5.0] * 8) == trend_of(list(range(8)), leaking)


def test_trend_refuses_when_samples_are_few() -> None:
    with pytest.raises(ValueError, match="too few"):
        trend_of([0, 1], [1, 2])


@pytest.mark.system
def test_tiny_soak_ends_with_nothing_in_flight(tmp_path: Path) -> None:
    """Its growth is not judged here: a gateway of a few seconds still warms up."""
    report = tmp_path / "soak.json"
    done = CliRunner().invoke(soak.main, ["--minutes", "0.1", "--streams", "10", "--json", str(report)])
    assert done.exit_code in (0, 1), done.output
    found = json.loads(report.read_bytes())
    assert [failure for failure in found["failures"] if "grow" not in failure] == []
    assert found["tally"]["finished"] > 0
    assert found["tally"]["left"] > 0
    assert found["inflight_after"] == 0
    assert "RSS slope" in done.output
