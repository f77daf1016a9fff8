"""Exploration: who is drawn and with which probability, and that estimates from what was drawn are unbiased."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from policies.adapter import adapt
from policies.base import Abstain, Lot, Quote, RequestFeatures, Route, RouteDecision, Signals, escalate
from policies.chain import Vote
from policies.explore import EXCLUDED, Explore
from policies.forecast import DAY_S
from policies.governing import Governors
from policies.governor import Governor
from policies.pacer import Pacer
from policies.pacing import PacingState
from policies.record import Draft
from policies.registry import PolicyConfigError, build
from policies.replay.estimators import Arm, Estimator, estimate, scores, weighed

Floats = NDArray[np.float64]
BOTH = Explore(to_teacher=0.2, to_student=0.1)
DRAFT = Draft(text="an answer", mean_logprob=-0.1, tokens=3)


def seen(lot: Lot | None, **tags: str) -> RequestFeatures:
    signals = Signals() if lot is None else Signals(lot=lot)
    return RequestFeatures(
        prompt_bytes=1, message_count=1, approx_prompt_tokens=100, requested_output_tokens=2048, tags=tags,
        signals=signals,
    )  # fmt: skip


def decided(route: Route, *, capable: bool = True) -> RouteDecision:
    if route == "teacher":
        return escalate("weak", score=0.8, threshold=0.5, student_capable=capable)
    return RouteDecision(route="student", reason="default")


def said(answer: RouteDecision | Abstain | None) -> tuple[Route | None, float | None, str]:
    assert answer is not None
    if isinstance(answer, Abstain):
        return None, None, answer.reason
    return answer.route, pytest.approx(answer.propensity), answer.reason


@pytest.mark.parametrize(
    ("route", "lot", "expected"),
    [
        ("student", Lot(draw=0.19), ("teacher", 0.2, "explored")),
        ("student", Lot(draw=0.21), ("student", 0.8, "kept")),
        ("teacher", Lot(draw=0.09), ("student", 0.1, "explored")),
        ("teacher", Lot(draw=0.11), ("teacher", 0.9, "kept")),
        ("student", Lot(draw=0.11, share=0.5), ("student", 0.9, "kept")),
        ("student", Lot(draw=0.09, share=0.5), ("teacher", 0.1, "explored")),
        ("student", Lot(draw=0.0, share=0.0), (None, None, "no_share")),
        ("teacher", Lot(draw=0.09, share=0.0), ("student", 0.1, "explored")),
        ("student", Lot(draw=0.0, reviewed=True), (None, None, "drawn_later")),
        ("teacher", Lot(draw=0.0, reviewed=True), ("student", 0.1, "explored")),
    ],
)
def test_route_is_drawn_with_the_probability_that_is_recorded(
    route: Route, lot: Lot, expected: tuple[Route | None, float | None, str]
) -> None:
    assert said(BOTH.reconsider(seen(lot), decided(route), None)) == expected


@pytest.mark.parametrize(
    ("route", "lot", "expected"),
    [
        ("student", Lot(draw=0.19, reviewed=True), ("teacher", 0.2, "explored")),
        ("teacher", Lot(draw=0.09, reviewed=True), ("student", 0.1, "explored")),
        ("teacher", Lot(draw=0.11, reviewed=True), ("teacher", 0.9, "kept")),
        ("teacher", Lot(draw=0.0), (None, None, "drawn_before")),
    ],
)
def test_lot_is_about_the_draft_when_it_is_reviewed(
    route: Route, lot: Lot, expected: tuple[Route | None, float | None, str]
) -> None:
    assert said(BOTH.reconsider(seen(lot), decided(route), DRAFT)) == expected


@pytest.mark.parametrize("reason", sorted(EXCLUDED))
def test_nothing_is_drawn_when_the_request_is_excluded(reason: str) -> None:
    for route in ("student", "teacher"):
        answer = BOTH.reconsider(seen(Lot(draw=0.0, excluded=reason)), decided(route), None)  # type: ignore[arg-type]
        assert said(answer) == (None, None, reason)


def test_nothing_is_drawn_when_the_student_cannot_answer_or_nothing_was_told() -> None:
    assert said(BOTH.reconsider(seen(Lot(draw=0.0)), decided("teacher", capable=False), None))[2] == "student_incapable"
    assert said(BOTH.reconsider(seen(None), decided("teacher"), None))[2] == "no_lot"


def test_stratum_has_probabilities_of_its_own_when_its_tags_fit() -> None:
    policy = build("explore", {"to_teacher": 0.2, "strata": [{"tags": {"team": "docs"}, "to_student": 0.5}]})
    assert isinstance(policy, Explore)
    assert said(policy.reconsider(seen(Lot(draw=0.1), team="docs"), decided("student"), None))[2] == "no_share"
    assert said(policy.reconsider(seen(Lot(draw=0.4), team="docs"), decided("teacher"), None))[0] == "student"
    assert said(policy.reconsider(seen(Lot(draw=0.1), team="law"), decided("student"), None))[0] == "teacher"


@pytest.mark.parametrize(
    "options", [{"to_teacher": 0.6}, {"strata": [{"tags": {}}]}, {"teacher_tokens_per_day": 1, "usd_per_day": 1.0}]
)
def test_exploration_is_refused_when_it_would_be_no_exception(options: dict[str, object]) -> None:
    with pytest.raises(PolicyConfigError):
        build("explore", options)


def test_draws_are_asked_behind_all_other_governors() -> None:
    class Keeps:
        name, reasons = "keeps", frozenset({"kept_back"})

        def reconsider(self, *_: object) -> RouteDecision:
            return RouteDecision(route="student", reason="kept_back")

    votes: list[Vote] = []
    governors = Governors([BOTH, Keeps()], version="v1")
    final = governors.reconsider(seen(Lot(draw=0.15)), decided("teacher"), votes)
    assert [vote.policy for vote in votes] == ["keeps", "explore"]
    assert (final.route, final.policy, final.propensity) == ("teacher", "explore", 0.2)


class Bare:
    """A third party's governor with nothing but its method."""

    def reconsider(self, features: RequestFeatures, decision: RouteDecision, draft: Draft | None) -> RouteDecision:
        if features.tags.get("broken"):
            raise RuntimeError("planted")
        return RouteDecision(route="student", reason="undeclared")


def test_class_with_nothing_but_reconsider_is_a_governor_and_may_fail() -> None:
    governor = adapt(Bare(), type_name="plugin:Bare")
    assert isinstance(governor, Governor)
    governors, votes = Governors([governor], version="v1"), list[Vote]()
    changed = governors.reconsider(seen(None), decided("teacher"), votes)
    assert (changed.route, changed.policy, changed.reason) == ("student", "bare", "other")
    kept = governors.reconsider(seen(None, broken="yes"), decided("teacher"), votes)
    assert (kept.route, kept.reason) == ("teacher", "weak")
    assert [(vote.route, vote.reason) for vote in votes] == [("student", "other"), (None, "policy_error")]


def test_governor_is_refused_when_it_decides_as_well() -> None:
    class Both(Bare):
        def decide(self, features: RequestFeatures) -> None:
            return None

    with pytest.raises(PolicyConfigError, match="cannot decide as well"):
        adapt(Both(), type_name="plugin:Both")


def test_draft_has_its_probability_when_reviewers_were_silent_and_the_lot_kept_it() -> None:
    governors = Governors([BOTH], version="v1")
    sure = (Vote(policy="cascade", route=None, reason="confident", score=0.1, threshold=0.5),)
    kept, votes = governors.review(seen(Lot(draw=0.5, reviewed=True)), DRAFT, None, sure)
    assert kept is not None
    assert (kept.route, kept.propensity, kept.score, kept.policy) == ("student", 0.8, 0.1, "cascade")
    assert [vote.reason for vote in votes] == ["confident", "kept"]
    silent, _ = Governors([], version="v1").review(seen(None), DRAFT, None, sure)
    assert silent is None


# Unbiased, also when the budget shrinks and stops it

ROWS, RUNS = 900, 80
EPSILON = {"student": 0.5, "teacher": 0.25}
POLICY = Explore(to_teacher=EPSILON["student"], to_student=EPSILON["teacher"], teacher_tokens_per_day=60_000)
START_S = 20_000 * DAY_S


class Log:
    """One day: what was tentative, what was drawn, with which probability, and what came of it."""

    def __init__(self, seed: int) -> None:
        rng = np.random.default_rng(seed)
        self.x = rng.random(ROWS)
        self.student = np.clip(0.9 - 0.8 * self.x + rng.normal(0, 0.1, ROWS), 0, 1)
        # Answers of the teacher are long where they are good: what stops exploration depends on outcomes, of others.
        self.teacher = np.clip(0.5 + 0.4 * self.x + rng.normal(0, 0.2, ROWS), 0, 1)
        self.tokens = np.ceil(50 + 900 * self.teacher**2)
        self.taught = np.zeros(ROWS, np.bool_)
        self.propensity = np.ones(ROWS)
        self.share = np.zeros(ROWS)
        draws = rng.random(ROWS)
        budget = POLICY.daily_budget
        assert budget is not None
        pacer = Pacer(budget)
        stored: PacingState | None = None
        for row in range(ROWS):
            now_s = START_S + (row + 0.5) * DAY_S / ROWS
            self._serve(row, now_s, float(draws[row]), pacer)
            if row % 10 == 0:
                stored = pacer.merged(pacer.begin_merge(), stored, now_s)
                pacer.end_merge(stored)

    def _serve(self, row: int, now_s: float, draw: float, pacer: Pacer) -> None:
        tentative: Route = "teacher" if self.x[row] > 0.6 else "student"
        self.share[row] = pacer.state.share
        features = seen(Lot(draw=draw, share=pacer.state.share))
        answer = POLICY.reconsider(features, decided(tentative), None)
        final = tentative
        if isinstance(answer, RouteDecision):
            final, self.propensity[row] = answer.route, answer.propensity
        self.taught[row] = final == "teacher"
        if tentative == "student":
            quote: Quote = pacer.quote(features)
            pacer.wanted(now_s, quote, None, weight=POLICY.probability({}, "student"))
            if self.taught[row]:
                pacer.spent(features, now_s, 100, int(self.tokens[row]), quote)


@pytest.fixture(scope="module")
def logs() -> list[Log]:
    return [Log(seed) for seed in range(RUNS)]


Weights = Callable[[Log], Floats]


def recorded(log: Log) -> Floats:
    return 1.0 / log.propensity


def as_if_the_budget_had_not_mattered(log: Log) -> Floats:
    tentative = log.x > 0.6
    epsilon = np.where(tentative, EPSILON["teacher"], EPSILON["student"])
    weights: Floats = 1.0 / np.where(log.taught == tentative, 1.0 - epsilon, epsilon)
    return weights


def errors(logs: list[Log], estimator: Estimator, arm: str, weights: Weights) -> Floats:
    """Estimated less true mean of a model's quality over the requests that were drawn."""
    found = []
    for log in logs:
        rows = log.propensity < 1.0
        observed = log.taught[rows] if arm == "teacher" else ~log.taught[rows]
        truth = (log.teacher if arm == "teacher" else log.student)[rows]
        weight = np.where(observed, weights(log)[rows], 0.0)
        model = np.full(len(truth), 0.5) - 0.2 * log.x[rows]  # a bad one
        strata = np.zeros(len(truth), np.int64)
        ready = weighed(Arm(np.where(observed, truth, 0.0), weight, model), strata, 1, estimator)
        found.append(
            estimate(scores(ready, np.ones(len(truth)), strata, 1), n=int(observed.sum())).value - truth.mean()
        )
    return np.array(found)


def bias(found: Floats) -> float:
    """In standard errors of the simulation."""
    return float(abs(found.mean()) / (found.std(ddof=1) / math.sqrt(len(found))))


def test_budget_shrinks_the_share_so_that_it_lasts(logs: list[Log]) -> None:
    spent = [float((log.tokens + 100)[log.taught & (log.x <= 0.6)].sum()) for log in logs]
    assert max(spent) < 60_000 * 1.1
    assert np.mean(spent) > 60_000 * 0.85
    assert np.mean([log.share[-200:].mean() for log in logs]) < 0.9


@pytest.mark.parametrize("estimator", ["ips", "snips", "dr"])
@pytest.mark.parametrize("arm", ["student", "teacher"])
def test_estimates_are_unbiased_when_the_budget_shrinks_exploration(
    logs: list[Log], estimator: Estimator, arm: str
) -> None:
    assert bias(errors(logs, estimator, arm, recorded)) < 3.5


def test_estimates_are_biased_when_the_probability_ignores_the_budget(logs: list[Log]) -> None:
    assert bias(errors(logs, "ips", "teacher", as_if_the_budget_had_not_mattered)) > 6.0
