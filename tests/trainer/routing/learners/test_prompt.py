"""The learner of routing before generation, and its artefact in the policy that serves it."""

from __future__ import annotations

import pickle
from pathlib import Path

import msgspec
import numpy as np
import pytest

from policies import artefact
from policies.base import Abstain, RequestFeatures, RouteDecision
from policies.difficulty import Difficulty
from policies.scoring.model import TrainingData, load
from tests.trainer.routing.data import outcomes
from trainer.routing.crossfit import blind, fitted_score
from trainer.routing.learner import Exportable, Learner
from trainer.routing.learners import prompt_learners
from trainer.routing.learners.prompt import PromptLearner, PromptScorer, inner_folds
from trainer.routing.learners.prompt_features import Columns, Prompts
from trainer.routing.measures import auroc, ranking
from trainer.routing.outcomes import Floats, Ints, Outcomes

TRAINING = TrainingData(sha256="0" * 64, n=400, columns=("prompt", "weak", "strong"), date="2026-01-01")


def groups(rows: Outcomes) -> Ints:
    return np.arange(len(rows), dtype=np.int64)


@pytest.fixture(scope="module")
def rows() -> Outcomes:
    return outcomes(600)


@pytest.fixture(scope="module")
def fitted(rows: Outcomes) -> PromptScorer:
    return PromptLearner().fit(rows, groups=groups(rows), seed=0)


def better_auroc(score: Floats, rows: Outcomes) -> float:
    return float(auroc(ranking(score), np.ones((1, len(rows))), rows.advantage > 0)[0])


def test_learner_finds_what_makes_prompts_hard_on_rows_it_never_saw(rows: Outcomes, fitted: PromptScorer) -> None:
    other = outcomes(600, seed=1)
    assert better_auroc(fitted.score(blind(other)), other) > 0.7


def test_score_is_calibrated_on_rows_it_never_saw(fitted: PromptScorer) -> None:
    other = outcomes(1_000, seed=2)
    score = fitted.score(blind(other))
    assert score.mean() == pytest.approx(float((other.advantage > 0).mean()), abs=0.06)
    high = score > np.quantile(score, 0.7)
    assert score[high].mean() == pytest.approx(float((other.advantage > 0)[high].mean()), abs=0.12)


def test_artefact_gives_the_scores_of_the_learner(tmp_path: Path, rows: Outcomes, fitted: PromptScorer) -> None:
    """No skew: what is served is what was measured."""
    assert isinstance(fitted, Exportable)
    artefact.write(tmp_path / "score.json", fitted.artefact(TRAINING))
    model = load(tmp_path / "score.json", use="prompt")
    texts = [*(rows.text or ())[:100], "", "Prove: 3.5 ** 2 = 12.25?\nA. True\nB. False", "Größe 図書館 " * 300]
    same = Outcomes(
        ids=tuple(map(str, range(len(texts)))),
        text=tuple(texts),
        weak=np.zeros(len(texts)),
        strong=np.zeros(len(texts)),
        signals=np.empty((len(texts), 0)),
        signal_names=(),
    )
    served = [model.probability({}, text) for text in texts]
    assert served == pytest.approx(fitted.score(same).tolist(), abs=2e-6)


def test_policy_decides_by_the_artefact(tmp_path: Path, rows: Outcomes, fitted: PromptScorer) -> None:
    score = fitted.score(rows)
    threshold = float(np.quantile(score, 0.8))
    made = msgspec.structs.replace(fitted.artefact(TRAINING), default_threshold=threshold)
    artefact.write(tmp_path / "score.json", made)
    policy = Difficulty(model=str(tmp_path / "score.json"))
    for row in range(40):
        answer = policy.decide(
            RequestFeatures(
                prompt_bytes=10,
                message_count=1,
                approx_prompt_tokens=5,
                requested_output_tokens=10,
                last_user_turn=(rows.text or ())[row],
            )
        )
        assert isinstance(answer, RouteDecision | Abstain)
        if abs(score[row] - threshold) > 1e-5:
            assert isinstance(answer, RouteDecision) == bool(score[row] > threshold)


@pytest.mark.usefixtures("few_trees")
@pytest.mark.parametrize("learner", prompt_learners(), ids=lambda each: each.name)
def test_learners_pickle_and_repeat_themselves(learner: Learner, rows: Outcomes) -> None:
    part = rows.part(np.arange(200))
    copied = pickle.loads(pickle.dumps(learner))  # noqa: S301 - our own
    once, again = (fitted_score(each, part, groups(part), blind(rows), 3) for each in (learner, copied))
    assert (once == again).all()
    assert len(np.unique(once.round(6))) > 50  # fine enough to choose any share


@pytest.mark.usefixtures("few_trees")
@pytest.mark.parametrize("learner", prompt_learners(), ids=lambda each: each.name)
def test_strong_model_that_is_never_better_leaves_nothing_to_rank(learner: Learner, rows: Outcomes) -> None:
    part = rows.part(rows.advantage <= 0)
    score = fitted_score(learner, part, groups(part), blind(rows), 0)
    assert score.max() < 0.05


def test_outcomes_between_wrong_and_right_count_by_their_part(rows: Outcomes) -> None:
    part = rows.part(np.arange(300))
    softened = Outcomes(
        part.ids, part.text, 0.25 + part.weak / 2, 0.25 + part.strong / 2, part.signals, part.signal_names
    )
    score = PromptLearner().fit(softened, groups=groups(part), seed=0).score(blind(rows))
    assert better_auroc(score, rows) > 0.7


def test_near_duplicates_stay_together_in_inner_folds() -> None:
    of_groups = np.repeat(np.arange(50), 3)
    masks = inner_folds(of_groups, seed=0)
    assert (np.sum(masks, axis=0) == 1).all()
    for mask in masks:
        assert all(len({bool(each) for each in mask[of_groups == group]}) == 1 for group in range(50))


def test_rows_without_text_are_refused() -> None:
    part = outcomes(100, text=False)
    with pytest.raises(ValueError, match="--text"):
        PromptLearner().fit(part, groups=groups(part), seed=0)


def test_matrix_has_words_of_unit_length_and_no_column_that_never_differs() -> None:
    prompts = Prompts.of(["one two", "one one two", "three"])
    columns = Columns.of(prompts, 0.1)
    matrix = columns.matrix(prompts).toarray()
    words, structure = matrix[:, : prompts.words.shape[1]], matrix[:, prompts.words.shape[1] :]
    assert np.linalg.norm(words, axis=1) == pytest.approx([1.0, 1.0, 1.0])
    assert np.isfinite(structure).all()
    assert (structure[:, columns.scale == 0] == 0).all() and (columns.scale == 0).any()
