"""The draw: reproducible, with the stated probability, and unbiased whatever the shares of the strata are."""

from __future__ import annotations

import random
from statistics import fmean
from typing import Any

import pytest

from policies.base import RouteDecision
from policies.chain import Vote
from policies.intervals import Moments
from policies.record import DecisionRecord, Draft
from router.config.quality import ShadowConfig, ShadowStratumConfig
from router.quality.sampling import Sampler, scored_by_policies, uniform
from tests.traffic_records import decision


def answered(number: int, score: float | None = None, **fields: Any) -> DecisionRecord:
    """An answer of the student, with the score that let it answer."""
    chosen = RouteDecision(route="student", reason="fits", policy="p", score=score, threshold=0.5)
    return decision(number, **{"route": "student", "decision": chosen, **fields})


def test_draw_is_the_same_for_whoever_looks_and_another_with_another_salt() -> None:
    records = [answered(number) for number in range(400)]
    drawn = [
        [Sampler(ShadowConfig(student_share=0.5, salt=salt)).draw(r) is not None for r in records] for salt in "aab"
    ]
    assert drawn[0] == drawn[1] != drawn[2]


def test_share_of_the_draws_is_the_propensity_that_they_state() -> None:
    sampler = Sampler(ShadowConfig(student_share=0.2))
    draws = [sampler.draw(answered(number)) for number in range(5000)]
    found = [draw for draw in draws if draw is not None]
    assert {(draw.asked, draw.propensity) for draw in found} == {("teacher", 0.2)}
    assert len(found) / len(draws) == pytest.approx(0.2, abs=0.02)
    assert not any(uniform("", str(n)) < 0.0 or uniform("", str(n)) >= 1.0 for n in range(1000))


def test_every_request_is_drawn_at_share_one_and_none_at_share_zero() -> None:
    sampler = Sampler(ShadowConfig(student_share=1.0))
    assert all(sampler.draw(answered(number)) for number in range(200))
    assert not any(sampler.draw(answered(number, route="teacher")) for number in range(200))


@pytest.mark.parametrize(
    "fields",
    [
        {"purpose": "eval"},
        {"purpose": "embedding"},
        {"capture": "metadata"},
        {"capture": "none"},
        {"outcome": "backend_error"},
        {"outcome": "client_disconnected"},
        {"route": None},
        {"completion": None},
    ],
)
def test_record_is_never_drawn_when_it_is_no_whole_answer_to_kept_traffic(fields: dict[str, Any]) -> None:
    sampler = Sampler(ShadowConfig(student_share=1.0, teacher_share=1.0))
    assert sampler.draw(answered(1)) is not None
    assert sampler.draw(answered(1, **fields)) is None


def test_first_stratum_that_fits_sets_the_share() -> None:
    sampler = Sampler(
        ShadowConfig(
            student_share=0.01,
            strata=(
                ShadowStratumConfig(tags={"team": "docs"}, student_share=0.5),
                ShadowStratumConfig(near_threshold=0.1, student_share=0.4),
                ShadowStratumConfig(min_score=0.2, max_score=0.3, student_share=0.3),
            ),
        )
    )

    def share(score: float | None, **fields: Any) -> float:
        record = answered(1, score, **fields)
        return sampler.share_of(record, scored_by_policies(record))

    assert share(0.45, tags={"team": "docs", "more": "x"}) == 0.5
    assert share(0.45, tags={"team": "law"}) == 0.4
    assert share(0.25) == 0.3
    assert share(0.1) == share(None) == 0.01


def test_score_is_that_of_the_last_word_that_had_one() -> None:
    vote = Vote(policy="cascade", route=None, reason="confident", score=0.2, threshold=0.4)
    review = RouteDecision(route="teacher", reason="low_confidence", score=0.9, threshold=0.4)
    assert scored_by_policies(answered(1, 0.3)) == (0.3, 0.5)
    assert scored_by_policies(answered(1, None, votes=(vote,))) == (0.2, 0.4)
    assert scored_by_policies(answered(1, 0.3, votes=(vote,), draft=Draft(text="d"))) == (0.2, 0.4)
    assert scored_by_policies(answered(1, 0.3, draft=Draft(text="d", escalated=True, review=review))) == (0.9, 0.4)
    assert scored_by_policies(answered(1, None)) == (None, None)


def test_weighted_estimate_is_unbiased_where_the_plain_mean_of_the_sample_is_not() -> None:
    """Uncertain requests are drawn often and are often wrong: their share of the sample is not that of the traffic."""
    rng = random.Random(7)
    population = []
    for number in range(1500):
        score = rng.random()
        population.append((answered(number, score), float(rng.random() > score)))
    truth = fmean(value for _, value in population)
    config = {"student_share": 0.05, "strata": (ShadowStratumConfig(min_score=0.6, student_share=0.6),)}
    weighted, plain, covered = [], [], 0
    for salt in range(40):
        sampler = Sampler(ShadowConfig(**config, salt=str(salt)))
        moments, values = Moments(), []
        for record, value in population:
            draw = sampler.draw(record)
            if draw is not None:
                moments.add(value, 1 / draw.propensity)
                values.append(value)
        estimate = moments.estimate("score")
        assert estimate is not None
        weighted.append(estimate.value)
        plain.append(fmean(values))
        covered += estimate.low <= truth <= estimate.high
    assert fmean(weighted) == pytest.approx(truth, abs=0.025)
    assert abs(fmean(plain) - truth) > 0.1
    assert covered >= 34  # of 40 intervals at 95 %
