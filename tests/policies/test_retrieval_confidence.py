"""Where a confidence comes from, and that an unknown one is never guessed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from policies import artefact
from policies.base import Abstain, Chunk, RequestFeatures, RouteDecision, Signal, Signals
from policies.calibration import CalibratorArtefact, Clipped, ReliabilityBin
from policies.registry import PolicyConfigError, build
from policies.retrieval_confidence import REASONS, RetrievalConfidence


def features(*scores: float | None, **changes: Any) -> RequestFeatures:
    values: dict[str, Any] = {
        "prompt_bytes": 100, "message_count": 1, "approx_prompt_tokens": 25, "requested_output_tokens": 100,
        "chunks": tuple(Chunk(text=f"chunk {index}", score=score) for index, score in enumerate(scores)),
        "retrieval_attempted": bool(scores),
    }  # fmt: skip
    return RequestFeatures(**{**values, **changes})


def vote(policy: RetrievalConfidence, seen: RequestFeatures) -> tuple[str | None, str, float | None]:
    answer = policy.decide(seen)
    assert isinstance(answer, RouteDecision | Abstain)
    assert answer.reason in REASONS
    route = answer.route if isinstance(answer, RouteDecision) else None
    return route, answer.reason, None if answer.score is None else round(answer.score, 6)


def fitted(path: Path, **changes: Any) -> str:
    values: dict[str, Any] = {
        "calibrator": Clipped(low=0.0, high=20.0), "raw": "bm25", "aggregate": "top1", "k": 3, "source": "test",
        "n": 10, "n_sufficient": 5, "ece": 0.0, "reliability": (ReliabilityBin(10, 0.5, 0.5),),
    }  # fmt: skip
    artefact.write(path, CalibratorArtefact(**{**values, **changes}))
    return str(path)


DEFAULT = RetrievalConfidence()


@pytest.mark.parametrize(
    ("confidence", "expected"),
    [
        (0.54, ("teacher", "low_confidence", 0.46)),
        (0.55, (None, "confident", 0.45)),
        (0.0, ("teacher", "low_confidence", 1.0)),
        (1.0, (None, "confident", 0.0)),
    ],
)
def test_stated_confidence_decides_and_beats_the_scores(confidence: float, expected: Any) -> None:
    assert vote(DEFAULT, features(0.99, 0.01, retrieval_confidence=confidence)) == expected


@pytest.mark.parametrize(
    ("options", "scores", "expected"),
    [
        ({}, (0.2, 0.9, 0.4), (None, "confident", 0.1)),
        ({}, (0.2, 0.5, 0.4), ("teacher", "low_confidence", 0.5)),
        ({"aggregate": "mean_k", "k": 2}, (0.2, 0.9, 0.5), (None, "confident", 0.3)),
        ({"aggregate": "mean_k", "k": 3}, (0.2, 0.9, 0.4), ("teacher", "low_confidence", 0.5)),
        ({"aggregate": "margin", "escalate_below": 0.3}, (0.2, 0.9, 0.8), ("teacher", "low_confidence", 0.9)),
        ({"aggregate": "margin"}, (0.9,), (None, "too_few_chunks", None)),
        ({"min_chunks": 3}, (0.1, 0.2), (None, "too_few_chunks", None)),
        ({}, (None, 0.7, None), (None, "confident", 0.3)),
        ({}, (None, None), (None, "scores_missing", None)),
    ],
)
def test_chunk_scores_are_aggregated_as_configured(options: Any, scores: Any, expected: Any) -> None:
    assert vote(RetrievalConfidence(**options), features(*scores)) == expected


@pytest.mark.parametrize("scores", [(12.7, 3.1), (0.9, -0.2), (float("nan"),), (float("inf"), 0.5)])
def test_scores_on_another_scale_are_no_confidence(scores: tuple[float, ...]) -> None:
    assert vote(DEFAULT, features(*scores)) == (None, "scores_uncalibrated", None)


def test_calibrator_maps_scores_of_any_scale(tmp_path: Path) -> None:
    policy = RetrievalConfidence(calibrator=fitted(tmp_path / "bm25.json"))
    assert vote(policy, features(12.0, 3.0)) == (None, "confident", 0.4)
    assert vote(policy, features(4.0, -3.0)) == ("teacher", "low_confidence", 0.8)
    assert vote(policy, features(float("nan"))) == (None, "scores_uncalibrated", None)


def test_request_without_retrieval_is_not_a_low_confidence_one() -> None:
    assert vote(DEFAULT, features()) == (None, "no_retrieval", None)


def test_search_that_found_nothing_escalates_unless_told_otherwise() -> None:
    empty = features(retrieval_attempted=True)
    assert vote(DEFAULT, empty) == ("teacher", "nothing_retrieved", 1.0)
    assert vote(RetrievalConfidence(escalate_when_empty=False), empty) == (None, "nothing_retrieved", None)


class TestComputedSimilarities:
    POLICY = RetrievalConfidence(compute=True)

    @pytest.mark.parametrize("scores", [(None, None), (12.0, 7.0)])
    def test_similarities_are_asked_for_when_scores_are_unusable(self, scores: tuple[float | None, ...]) -> None:
        assert self.POLICY.needs(features(*scores)) is Signal.CHUNK_SIMILARITIES
        assert DEFAULT.needs(features(*scores)) is None

    @pytest.mark.parametrize(
        "seen",
        [
            features(0.4, 0.5),
            features(None, retrieval_confidence=0.5),
            features(),
            features(None, signals=Signals(chunk_similarities=(0.5,))),
            features(None, signals=Signals(unavailable=(Signal.CHUNK_SIMILARITIES,))),
        ],
    )
    def test_similarities_are_not_asked_for_when_they_are_not_needed(self, seen: RequestFeatures) -> None:
        assert self.POLICY.needs(seen) is None

    def test_policy_declares_the_signal_only_when_it_computes(self) -> None:
        assert self.POLICY.optional_signals() == {Signal.CHUNK_SIMILARITIES}
        assert DEFAULT.optional_signals() == frozenset()

    def test_cosines_are_calibrated_and_not_taken_for_confidences(self) -> None:
        seen = features(None, signals=Signals(chunk_similarities=(0.6,)))
        route, reason, score = vote(self.POLICY, seen)
        assert (route, reason) == ("teacher", "low_confidence")
        assert score is not None
        assert score > 0.5  # 1 - cosine would be 0.4 and no escalation
        assert vote(self.POLICY, features(None, signals=Signals(chunk_similarities=(0.9,))))[0] is None

    def test_policy_abstains_when_the_similarities_did_not_come(self) -> None:
        seen = features(None, signals=Signals(unavailable=(Signal.CHUNK_SIMILARITIES,)))
        assert vote(self.POLICY, seen) == (None, "similarity_unavailable", None)

    @pytest.mark.parametrize("aggregate", ["top1", "mean_k", "margin"])
    def test_a_calibrator_comes_with_the_package_for_every_aggregate(self, aggregate: str) -> None:
        policy = build("retrieval_confidence", {"compute": True, "aggregate": aggregate})
        seen = features(None, None, signals=Signals(chunk_similarities=(0.9, 0.3)))
        assert policy.decide(seen) is not None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"calibrator": "no/such.json"}, "calibrator: no/such.json: cannot be read"),
        ({"aggregate": "mean_k", "k": 7, "compute": True}, "similarity_calibrator: .* was fitted on .* k = 3"),
        ({"escalate_below": 1.5}, "escalate_below: "),
        ({"aggregate": "median"}, "aggregate: "),
        ({"escalate_bellow": 0.5}, "escalate_bellow: unknown option"),
    ],
)
def test_bad_options_are_refused_by_name(options: dict[str, Any], message: str) -> None:
    with pytest.raises(PolicyConfigError, match=f"^{message}"):
        build("retrieval_confidence", options)


def test_calibrator_of_another_aggregate_or_schema_is_refused(tmp_path: Path) -> None:
    other = fitted(tmp_path / "margin.json", aggregate="margin")
    with pytest.raises(PolicyConfigError, match=r"^calibrator: margin.json was fitted on aggregate 'margin'"):
        build("retrieval_confidence", {"calibrator": other})
    old = fitted(tmp_path / "old.json", schema=0)
    with pytest.raises(PolicyConfigError, match=r"^calibrator: .*schema 0, this version reads 1"):
        build("retrieval_confidence", {"calibrator": old})
