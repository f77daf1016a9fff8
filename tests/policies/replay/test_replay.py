"""The whole way, from columns and shadows to reports, against simulated traffic with known truth."""

from __future__ import annotations

import math
from functools import cache

import msgspec
import numpy as np
import pytest

from policies.intervals import Estimate
from policies.record import Grade, ShadowRecord
from policies.replay.replay import NothingToReplay, RecordsNeeded, Replay, Selection
from policies.replay.report import Report
from policies.replay.source import Log
from tests.policies.replay.simulation import (
    Document,
    World,
    columns_with,
    explored_log,
    log_with_explored_drafts,
    shadowed_log,
)
from tests.policies.replay.test_evaluate import Picky, chain_of

LOGGED = Document(0.4, 0.45)
CANDIDATES = {"looser": Document(0.2, 0.6), "stricter": Document(0.6, 0.3), "without a cascade": Document(0.5)}
DRAWS, ROWS = 25, 1500


@cache
def everything() -> World:
    return World.draw(np.random.default_rng(99), 500_000)


def shadowed(seed: int, rows: int = ROWS) -> Log:
    rng = np.random.default_rng(seed)
    return shadowed_log(rng, World.draw(rng, rows), LOGGED, hard_share=0.3, easy_share=0.15)


@cache
def reports() -> dict[str, list[Report]]:
    found: dict[str, list[Report]] = {name: [] for name in CANDIDATES}
    for seed in range(DRAWS):
        replay = Replay(shadowed(seed), LOGGED.chain())
        for name, candidate in CANDIDATES.items():
            found[name].append(replay.report(candidate.chain()))
    return found


def check(estimates: list[Estimate | None], truth: float) -> None:
    """Unbiased within the error of the simulation, and covered about as often as promised."""
    known = [each for each in estimates if each is not None]
    assert len(known) == len(estimates)
    values = np.array([each.value for each in known])
    assert abs(values.mean() - truth) < 4 * values.std() / math.sqrt(len(values))
    covered = float(np.mean([each.low <= truth <= each.high for each in known]))
    assert covered >= 0.77  # 0.95 less 4 errors of the simulation


@pytest.mark.parametrize("name", CANDIDATES)
def test_report_is_unbiased_when_both_models_are_shadowed(name: str) -> None:
    candidate, world = CANDIDATES[name], everything()
    check([each.quality for each in reports()[name]], candidate.quality(world))
    check([each.quality_loss for each in reports()[name]], candidate.loss(world))
    check([each.student_share for each in reports()[name]], candidate.share(world))
    check([each.cost_usd_per_request for each in reports()[name]], candidate.cost(world))


def test_report_is_unbiased_when_routes_are_explored() -> None:
    logged, candidate = Document(0.4), Document(0.7)
    found = []
    for seed in range(DRAWS):
        rng = np.random.default_rng(seed)
        log = explored_log(rng, World.draw(rng, ROWS), logged, epsilon=0.2)
        found.append(Replay(log, logged.chain()).report(candidate.chain()))
    check([each.quality for each in found], candidate.quality(everything()))
    check([each.cost_usd_per_request for each in found], candidate.cost(everything()))


@pytest.mark.parametrize("candidate", [Document(0.0, 0.3), Document(0.4, 0.6), Document(0.4)])
def test_report_is_unbiased_when_drafts_are_explored(candidate: Document) -> None:
    logged = Document(0.4, 0.45) if candidate.escalate_below else Document(0.0, 0.5)
    found = []
    for seed in range(DRAWS):
        rng = np.random.default_rng(seed)
        log = log_with_explored_drafts(rng, World.draw(rng, ROWS), logged, epsilon=0.2)
        found.append(Replay(log, logged.chain()).report(candidate.chain()))
    check([each.quality for each in found], candidate.quality(everything()))
    check([each.cost_usd_per_request for each in found], candidate.cost(everything()))


def test_quality_is_refused_when_only_delivered_answers_were_judged() -> None:
    rng = np.random.default_rng(5)
    log = explored_log(rng, World.draw(rng, ROWS), Document(0.4), epsilon=0.0)
    replay = Replay(log, Document(0.4).chain())
    same, other = replay.report(Document(0.4).chain()), replay.report(Document(0.2).chain())
    assert same.quality is not None  # every answer that it would deliver was delivered, and judged
    assert other.quality is None and other.student_share is not None
    assert any("quality is not estimated" in each for each in other.warnings)
    assert other.unsupported > 0.15 * ROWS


def test_student_share_is_refused_when_no_draft_was_ever_judged() -> None:
    rng = np.random.default_rng(5)
    log = explored_log(rng, World.draw(rng, ROWS), Document(0.4), epsilon=0.0)
    found = Replay(log, Document(0.4).chain()).report(Document(0.4, 0.3).chain())
    assert found.student_share is None and found.cost_usd_per_request is None
    assert any("no draft with a mean logprob" in each for each in found.warnings)


def test_review_of_undrafted_requests_is_a_guess_when_the_teacher_is_not_shadowed() -> None:
    log = shadowed(3)
    log.shadows = [each for each in log.shadows if each.asked == "teacher"]
    found = Replay(log, LOGGED.chain()).report(Document(0.2, 0.45).chain())
    assert found.quality is None
    assert found.unsupported > 0.1 * ROWS
    assert any("a model's guess" in each for each in found.warnings)


def test_document_in_force_is_replayed_exactly_when_it_is_what_was_logged() -> None:
    log = shadowed(4)
    found = Replay(log, LOGGED.chain()).report(LOGGED.chain())
    assert found.student_share is not None and found.cost_usd_per_request is not None
    assert found.student_share.value == pytest.approx(float((log.columns.route == 1).mean()))
    assert found.cost_usd_per_request.value == pytest.approx(float(log.columns.cost_usd.mean()))


@pytest.mark.parametrize("shadowed_too", [False, True])
def test_judgement_is_no_label_of_the_student_when_a_teacher_ended_the_answer(shadowed_too: bool) -> None:
    rng = np.random.default_rng(5)
    world, logged = World.draw(rng, ROWS), Document(0.0)
    log = explored_log(rng, world, logged, epsilon=0.0)
    if shadowed_too:
        log = shadowed_log(rng, world, logged, hard_share=0.5, easy_share=0.5)
    continued = world.logprob < np.quantile(world.logprob, 0.04)
    log.columns.continued[:] = continued

    def lied() -> Log:
        """With other judgements on the answers that two models wrote."""
        other = {f"{row + 1:032x}" for row in np.flatnonzero(continued)}
        feedback = [
            msgspec.structs.replace(each, score=1.0 - (each.score or 0.0)) if each.decision_id in other else each
            for each in log.feedback
        ]
        perfect = (Grade(grader="exact", student=1.0, teacher=1.0),)
        shadows = [
            msgspec.structs.replace(each, grades=perfect) if each.decision_id in other else each for each in log.shadows
        ]
        return Log(log.columns, shadows, feedback)

    replay = Replay(log, logged.chain())
    found, other = replay.report(logged.chain()), Replay(lied(), logged.chain()).report(logged.chain())
    assert found.quality == other.quality and found.quality_loss == other.quality_loss
    assert found.quality is not None and found.quality.low <= logged.quality(world) <= found.quality.high
    assert found.unsupported >= int(continued.sum())
    assert any(f"{continued.sum()} answers were begun by the student" in each for each in replay.warnings)


def test_records_of_another_student_do_not_count() -> None:
    columns = columns_with(10, student=[2] * 4 + [3] * 6, teacher=3, tenant=1)
    replay = Replay(Log(columns), None, Selection(student="student"))
    assert replay.records == 4
    assert any("6 records were made under another student" in each for each in replay.warnings)
    with pytest.raises(NothingToReplay, match="of the student 'new'"):
        Replay(Log(columns), None, Selection(student="new"))


def test_unanswered_and_cached_requests_are_left_out_and_counted() -> None:
    columns = columns_with(10, student=2, teacher=3, answered=[False] + [True] * 9, cached=[False] * 8 + [True] * 2)
    replay = Replay(Log(columns), None)
    assert replay.records == 7
    assert "1 requests got no answer: left out" in replay.warnings
    assert "2 answers came from the cache: left out" in replay.warnings


def test_sample_is_called_incomplete_when_much_of_it_was_skipped() -> None:
    log = shadowed(6)
    skipped = [each for number, each in enumerate(log.shadows) if number % 2]
    log.shadows = [
        ShadowRecord(**{name: getattr(each, name) for name in each.__struct_fields__} | {"status": "skipped_budget", "grades": ()})
        if each in skipped
        else each
        for each in log.shadows
    ]  # fmt: skip
    assert any("skipped_budget" in each for each in Replay(log, LOGGED.chain()).warnings)


def test_policy_of_others_needs_the_records() -> None:
    replay = Replay(Log(columns_with(3, student=2, teacher=3)), None)
    with pytest.raises(RecordsNeeded, match="picky"):
        replay.report(chain_of([Picky()]))  # type: ignore[list-item]
