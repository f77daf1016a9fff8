"""The learner of the cascade's score, the frozen reference, and the artefact that a gateway scores drafts by."""

from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from policies import artefact
from policies.base import PolicyConfigError, RequestFeatures
from policies.draft_signals import DraftSignals
from policies.drafts.score import DraftScore
from policies.record import Draft
from policies.scoring.model import ScoreModel, TrainingData, load
from tests.trainer.routing.data import outcomes
from trainer.routing.crossfit import blind, fitted_score
from trainer.routing.learner import Exportable, Learner
from trainer.routing.learners import draft_learners, frozen_reference
from trainer.routing.learners.draft import DraftLearner, DraftScorer
from trainer.routing.learners.draft_basis import MAX_PAIRED, Basis
from trainer.routing.learners.draft_logistic import chance, fit
from trainer.routing.learners.reference import Reference
from trainer.routing.measures import auroc, ranking
from trainer.routing.outcomes import Floats, Ints, Outcomes

TRAINING = TrainingData(sha256="0" * 64, n=400, columns=("prompt", "weak", "strong"), date="2026-01-01")


def groups(rows: Outcomes) -> Ints:
    return np.arange(len(rows), dtype=np.int64)


def better_auroc(score: Floats, rows: Outcomes) -> float:
    return float(auroc(ranking(score), np.ones((1, len(rows))), rows.advantage > 0)[0])


@pytest.fixture(scope="module")
def rows() -> Outcomes:
    return outcomes(500)


@pytest.fixture(scope="module")
def fitted(rows: Outcomes) -> DraftScorer:
    return DraftLearner().fit(rows, groups=groups(rows), seed=0)


def test_learners_score_unseen_drafts_better_than_chance_when_signals_tell(rows: Outcomes) -> None:
    other = outcomes(500, seed=1)
    for learner in (*draft_learners(), Reference()):
        assert better_auroc(fitted_score(learner, rows, groups(rows), blind(other), 0), other) > 0.8, learner.name


def test_learner_sees_a_middle_that_no_line_does_when_gains_are_not_at_the_ends() -> None:
    generator = np.random.default_rng(3)
    n = 3_000
    signal = generator.random(n)
    middle = (signal > 0.35) & (signal < 0.65)  # below, both are wrong; above, both are right
    rows = Outcomes(
        ids=tuple(map(str, range(n))),
        text=None,
        weak=(signal >= 0.65).astype(float),
        strong=np.where(middle, generator.random(n) < 0.9, signal >= 0.65).astype(float),
        signals=signal[:, None],
        signal_names=("mean_logprob",),
    )
    train, test = rows.part(np.arange(n) < 1_500), rows.part(np.arange(n) >= 1_500)
    ours = better_auroc(fitted_score(DraftLearner(), train, groups(train), blind(test), 0), test)
    line = better_auroc(fitted_score(Reference(), train, groups(train), blind(test), 0), test)
    assert ours > 0.95
    assert line < 0.75


@pytest.mark.usefixtures("few_trees")
@pytest.mark.parametrize("n", [40, 200])
def test_learner_gives_probabilities_when_rows_are_few_and_there_is_one_signal(n: int) -> None:
    rows = outcomes(n, text=False)
    one = replace(rows, signals=rows.signals[:, :1], signal_names=("confidence",), categorical={})
    for learner in (DraftLearner(), Reference()):
        score = fitted_score(learner, one, groups(one), blind(one), 0)
        assert np.isfinite(score).all() and score.min() >= 0 and score.max() <= 1


@pytest.mark.usefixtures("few_trees")
def test_learner_scores_every_row_when_outcomes_never_vary_for_one_model() -> None:
    rows = outcomes(120)
    perfect = replace(rows, strong=np.ones(len(rows)))
    never = replace(rows, weak=np.zeros(len(rows)))
    spoiling = replace(rows, weak=np.ones(len(rows)))
    for each in (perfect, never, spoiling):
        score = fitted_score(DraftLearner(), each, groups(each), blind(each), 0)
        assert np.isfinite(score).all()


@pytest.mark.usefixtures("few_trees")
def test_learner_takes_a_signal_that_is_empty_everywhere_or_constant() -> None:
    rows = outcomes(120)
    columns = np.column_stack([rows.signals, np.full(120, np.nan), np.full(120, 7.0)])
    more = replace(rows, signals=columns, signal_names=(*rows.signal_names, "empty", "constant"))
    for learner in (DraftLearner(), Reference()):
        assert np.isfinite(fitted_score(learner, more, groups(more), blind(more), 0)).all()


def test_learner_uses_what_is_missing_when_only_that_tells() -> None:
    generator = np.random.default_rng(0)
    signal = generator.random(400)
    gone = generator.random(400) < 0.2
    weak = (~gone).astype(float)
    rows = Outcomes(
        ids=tuple(map(str, range(400))), text=None, weak=weak, strong=np.ones(400),
        signals=np.where(gone, np.nan, signal)[:, None], signal_names=("stated_confidence",),
    )  # fmt: skip
    for learner in (DraftLearner(), Reference()):
        score = fitted_score(learner, rows, groups(rows), blind(rows), 0)
        assert score[gone].min() > score[~gone].max()


def test_scores_are_equal_when_rows_groups_and_seed_are(rows: Outcomes, fitted: DraftScorer) -> None:
    again: DraftScorer = pickle.loads(pickle.dumps(DraftLearner().fit(rows, groups=groups(rows), seed=0)))  # noqa: S301
    assert np.array_equal(fitted.score(rows), again.score(rows))


def test_artefact_scores_as_the_learner_does_when_served(rows: Outcomes, fitted: DraftScorer, tmp_path: Path) -> None:
    assert isinstance(fitted, Exportable)
    artefact.write(tmp_path / "draft.json", fitted.artefact(TRAINING))
    model = load(tmp_path / "draft.json", use="draft")
    expected = fitted.score(rows)
    for row in range(0, 60):
        assert served(model, rows, row) == pytest.approx(expected[row], abs=1e-6)


def test_artefact_is_served_when_everything_is_missing(fitted: DraftScorer) -> None:
    model = ScoreModel(fitted.artefact(TRAINING))
    assert 0.0 <= model.probability({}, None) <= 1.0
    assert 0.0 <= model.probability({"confidence": 1e30, "tokens": -1e30}, "") <= 1.0


@pytest.mark.usefixtures("few_trees")
def test_artefact_needs_no_text_when_it_was_fitted_without(rows: Outcomes) -> None:
    scorer = DraftLearner(with_text=False).fit(rows, groups=groups(rows), seed=0)
    model = ScoreModel(scorer.artefact(TRAINING))
    assert not model.needs_text
    expected = scorer.score(rows)
    assert served(model, rows, 3) == pytest.approx(expected[3], abs=1e-6)


@pytest.mark.usefixtures("few_trees")
def test_cascade_takes_the_artefact_when_its_columns_have_the_names_that_a_gateway_measures(
    rows: Outcomes, tmp_path: Path
) -> None:
    named = replace(rows, signal_names=("mean_logprob", "tokens"), categorical={})
    scorer = DraftLearner().fit(named, groups=groups(named), seed=0)
    artefact.write(tmp_path / "draft.json", scorer.artefact(TRAINING))
    score = DraftScore.by_model(tmp_path / "draft.json")
    assert score.silent is None and score.model is not None
    assert set(score.model.names) == {"mean_logprob", "tokens"}


def test_cascade_reads_the_tag_of_a_request_when_the_artefact_was_fitted_on_one(rows: Outcomes, tmp_path: Path) -> None:
    of_tag = {"tag.topic": rows.categorical["topic"]}
    named = replace(rows, text=None, signal_names=("mean_logprob", "tokens"), categorical=of_tag)
    scorer = DraftLearner().fit(named, groups=groups(named), seed=0)
    artefact.write(tmp_path / "draft.json", scorer.artefact(TRAINING))
    score = DraftScore.by_model(tmp_path / "draft.json")
    logprob, tokens = rows.signals[3].tolist()
    signals = DraftSignals(mean_logprob=logprob, tokens=tokens)
    draft = Draft(text="B", mean_logprob=logprob, tokens=tokens, finish_reason="stop", signals=signals)
    found = {
        topic: score.fresh(asked(tags={"topic": topic} if topic else {}), draft, None)
        for topic in ("t0", "t1", "new", "")
    }
    same_drafts = [replace(named.part([3]), categorical={"tag.topic": (topic,)}) for topic in found]
    assert list(found.values()) == pytest.approx([scorer.score(each)[0] for each in same_drafts], abs=1e-6)
    assert found["t0"] != found["t1"]
    assert found["new"] == found[""]


def test_cascade_refuses_the_artefact_when_it_needs_a_column_that_no_gateway_measures(
    fitted: DraftScorer, tmp_path: Path
) -> None:
    artefact.write(tmp_path / "draft.json", fitted.artefact(TRAINING))
    with pytest.raises(PolicyConfigError, match="topic=t0"):
        DraftScore.by_model(tmp_path / "draft.json")


def asked(**changes: Any) -> RequestFeatures:
    return RequestFeatures(
        prompt_bytes=8, message_count=1, approx_prompt_tokens=2, requested_output_tokens=9, **changes
    )  # fmt: skip


def served(model: ScoreModel, rows: Outcomes, row: int) -> float:
    values: dict[str, float | None] = dict(zip(rows.signal_names, rows.signals[row].tolist(), strict=True))
    for name, words in rows.categorical.items():
        values |= {f"{name}={level}": float(words[row] == level) for level in set(words)}
    return model.probability(values, None if rows.text is None else rows.text[row])


def test_basis_pairs_the_signals_that_tell_most_when_there_are_many() -> None:
    generator = np.random.default_rng(0)
    values = generator.normal(size=(300, 12))
    target = (values[:, 10] + values[:, 11] > 0).astype(float)
    basis = Basis.of([f"s{i}" for i in range(12)], values, target)
    assert len(basis.paired) == MAX_PAIRED
    assert {10, 11} <= set(basis.paired)
    assert basis.matrix(values).shape == (300, basis.width)


def test_logistic_regression_agrees_with_scikit_learns_when_the_ridge_is_one() -> None:
    from sklearn.linear_model import LogisticRegression

    generator = np.random.default_rng(0)
    columns = generator.normal(size=(200, 4))
    target = (columns @ np.array([1.0, -2.0, 0.5, 0.0]) + generator.logistic(size=200) > 0).astype(float)
    weight = generator.integers(0, 3, 200).astype(float)
    ours = chance(columns, fit(columns, target, weight, np.ones(4)))
    theirs = LogisticRegression(C=1.0, tol=1e-8).fit(columns, target, sample_weight=weight).predict_proba(columns)
    assert ours == pytest.approx(theirs[:, 1], abs=1e-4)


def test_reference_looks_at_neither_text_nor_seed(rows: Outcomes) -> None:
    frozen: Learner = frozen_reference()
    one = fitted_score(frozen, rows, groups(rows), blind(rows), 0)
    other = fitted_score(frozen, replace(rows, text=None), groups(rows), blind(rows), 1)
    assert np.array_equal(one, other)


def test_reference_is_what_it_was_when_it_was_frozen() -> None:
    rows = outcomes(200)
    score = fitted_score(Reference(), rows, groups(rows), blind(rows), 0)
    assert score[:4].tolist() == pytest.approx(FROZEN, abs=1e-3)


FROZEN = [0.554208, 0.081598, 0.219408, 0.413691]
