"""No row is scored by a model that saw it, or anything like it."""

from __future__ import annotations

import numpy as np
import pytest

from tests.trainer.routing.data import ByConfidence, outcomes
from trainer.evaluation.statistics import auroc
from trainer.routing import folds
from trainer.routing.crossfit import BadScores, cross_fit
from trainer.routing.groups import near_duplicates
from trainer.routing.outcomes import Floats, Ints, Outcomes
from trainer.similarity.texts import shingles

COPIES = (str.upper, lambda text: f"  {text}\n", lambda text: text + " please", lambda text: text.replace("w", "v", 1))


class Memory:
    """Knows the outcome of each text that it saw, and of those that are like it; of the others nothing."""

    name = "memory"

    def fit(self, rows: Outcomes, *, groups: Ints, seed: int) -> Memory:
        assert rows.text is not None
        self.seen = [
            (shingles(text.casefold()), float(each > 0)) for text, each in zip(rows.text, rows.advantage, strict=True)
        ]
        return self

    def score(self, rows: Outcomes) -> Floats:
        assert rows.text is not None
        assert np.isnan(rows.weak).all() and np.isnan(rows.strong).all()
        return np.array([self._recall(shingles(text.casefold())) for text in rows.text])

    def _recall(self, pieces: set[str]) -> float:
        overlap, outcome = max((len(pieces & each) / len(pieces | each), outcome) for each, outcome in self.seen)
        return outcome if overlap > 0.6 else 0.5


def with_near_duplicates(n: int = 60) -> Outcomes:
    """Each question five times: as it is, and changed a little."""
    rows = outcomes(n, seed=5)
    assert rows.text is not None
    copies = rows.part(np.tile(np.arange(n), 1 + len(COPIES)))
    texts = [*rows.text, *(change(text) for change in COPIES for text in rows.text)]
    return Outcomes(**{**vars(copies), "text": tuple(texts), "ids": tuple(str(i) for i in range(len(texts)))})


def test_memory_is_worth_nothing_when_near_duplicates_stay_together() -> None:
    rows = with_near_duplicates()
    better = rows.advantage > 0
    groups = near_duplicates(rows)
    honest = cross_fit(rows, [Memory()], groups, folds.assign(rows, groups, 5, 0), seed=0)["memory"]
    assert auroc(honest, better) == pytest.approx(0.5)
    apart = np.arange(len(rows))
    leaking = cross_fit(rows, [Memory()], apart, folds.assign(rows, apart, 5, 0), seed=0)["memory"]
    assert auroc(leaking, better) > 0.9  # type: ignore[operator]


def test_groups_are_the_changed_copies_and_nothing_else() -> None:
    groups = near_duplicates(with_near_duplicates())
    assert len(set(groups.tolist())) == 60
    assert (groups == np.tile(groups[:60], 5)).all()


def test_groups_ignore_what_most_prompts_begin_with() -> None:
    rows = outcomes(80)
    assert rows.text is not None
    template = (
        "You are given a question. Think it over, then answer with one letter and nothing else, please. Question: "
    )
    told = Outcomes(**{**vars(rows), "text": tuple(template * 3 + text for text in rows.text)})
    assert len(set(near_duplicates(told).tolist())) == 80


def test_groups_without_texts_are_rows_with_equal_signals() -> None:
    rows = outcomes(50, text=False)
    twice = rows.part([*range(50), 0, 1])
    groups = near_duplicates(twice)
    assert groups[50] == groups[0] and groups[51] == groups[1] and len(set(groups.tolist())) == 50


def test_coarse_signals_do_not_make_rows_the_same() -> None:
    rows = outcomes(50, text=False)
    coarse = Outcomes(
        **{**vars(rows), "signals": np.round(rows.signals[:, :1]), "signal_names": ("a",), "categorical": {}}
    )
    assert len(set(near_duplicates(coarse).tolist())) == 50


def test_folds_keep_groups_whole_and_deal_outcomes_out_evenly() -> None:
    rows = outcomes(500)
    groups = np.arange(500) // 2
    fold_of = folds.assign(rows, groups, 5, seed=7)
    assert (fold_of[::2] == fold_of[1::2]).all()
    better = [float((rows.advantage[fold_of == fold] > 0).mean()) for fold in range(5)]
    assert max(better) - min(better) < 0.04
    assert (folds.assign(rows, groups, 5, seed=8) != fold_of).any()


def test_folds_are_refused_when_nearly_all_rows_are_alike() -> None:
    rows = outcomes(100)
    with pytest.raises(folds.TooFewGroups, match="3 different questions"):
        folds.assign(rows, np.arange(100) % 3, 5, 0)


def test_scores_do_not_depend_on_the_order_of_the_rows() -> None:
    rows = outcomes(120)
    order = np.random.default_rng(0).permutation(120)
    scores = []
    for each in (rows, rows.part(order)):
        groups = near_duplicates(each)
        scores.append(
            cross_fit(each, [ByConfidence(), Memory(), ByGroup()], groups, folds.assign(each, groups, 4, 1), seed=1)
        )
    for name, values in scores[0].items():
        assert (scores[1][name] == values[order]).all()


def test_scores_are_the_same_when_folds_are_fitted_in_other_processes() -> None:
    rows = outcomes(100)
    groups = near_duplicates(rows)
    fold_of = folds.assign(rows, groups, 3, 0)
    alone, side_by_side = (
        cross_fit(rows, [ByConfidence()], groups, fold_of, seed=0, processes=processes)["by_confidence"]
        for processes in (1, 2)
    )
    assert (alone == side_by_side).all()


class ByGroup(ByConfidence):
    """Leaves rows out by the numbers of their groups, as an inner split does."""

    name = "by_group"

    def fit(self, rows: Outcomes, *, groups: Ints, seed: int) -> ByGroup:
        drawn = np.random.default_rng(seed).permutation(int(groups.max()) + 1)[groups] % 3
        self.mean = float(rows.advantage[drawn == 0].mean())
        return self

    def score(self, rows: Outcomes) -> Floats:
        return np.full(len(rows), (self.mean + 1) / 2)


class Outside(ByConfidence):
    def score(self, rows: Outcomes) -> Floats:
        return super().score(rows) + 1


def test_scores_outside_of_0_and_1_are_refused() -> None:
    rows = outcomes(60)
    with pytest.raises(BadScores, match="by_confidence"):
        cross_fit(rows, [Outside()], np.arange(60), np.arange(60) % 3, seed=0)


def test_fold_without_anything_to_learn_gets_one_score() -> None:
    rows = outcomes(60)
    same = Outcomes(**{**vars(rows), "weak": np.ones(60), "strong": np.ones(60)})
    scores = cross_fit(same, [ByConfidence()], np.arange(60), np.arange(60) % 3, seed=0)["by_confidence"]
    assert set(scores.tolist()) == {0.0}
