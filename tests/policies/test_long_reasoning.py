"""Effort first, then a linear score, then, if wanted, the embedding's head."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

from policies import artefact, reasoning
from policies.base import Abstain, RequestFeatures, RouteDecision, Signal, Signals
from policies.long_reasoning import REASONS, SHIPPED_EMBEDDING_WEIGHTS, SHIPPED_WEIGHTS, LongReasoning
from policies.reasoning import EmbeddingWeights, LinearScorer, LinearWeights, extract
from policies.registry import PolicyConfigError, build

HARD = (
    "A farmer has 120 sheep. He sells a third of them, buys twice as many as he has left, and then loses 10% of the "
    "total. How many sheep remain, and how much does he earn if each is sold at $15? Explain step by step."
)
EASY = "What does os.path.join do?"


def features(text: str = HARD, **changes: Any) -> RequestFeatures:
    values: dict[str, Any] = {
        "prompt_bytes": 100, "message_count": 1, "approx_prompt_tokens": 25, "requested_output_tokens": 100,
        "last_user_turn": text,
    }  # fmt: skip
    return RequestFeatures(**{**values, **changes})


def vote(policy: LongReasoning, seen: RequestFeatures) -> tuple[str | None, str]:
    answer = policy.decide(seen)
    assert isinstance(answer, RouteDecision | Abstain)
    assert answer.reason in REASONS
    return answer.route if isinstance(answer, RouteDecision) else None, answer.reason


DEFAULT = LongReasoning()


@pytest.mark.parametrize("effort", ["high", "xhigh", "HIGH", " high "])
def test_high_effort_escalates_whatever_the_text(effort: str) -> None:
    assert vote(DEFAULT, features(EASY, reasoning_effort=effort)) == ("teacher", "effort_high")


@pytest.mark.parametrize("effort", ["none", "minimal", "low"])
def test_low_effort_abstains_without_a_score_whatever_the_text(effort: str) -> None:
    assert DEFAULT.decide(features(HARD, reasoning_effort=effort)) == Abstain(reason="effort_low")


@pytest.mark.parametrize("effort", [None, "", "medium", "something-new"])
def test_score_decides_when_the_effort_does_not(effort: str | None) -> None:
    assert vote(DEFAULT, features(HARD, reasoning_effort=effort)) == ("teacher", "multi_step")
    assert vote(DEFAULT, features(EASY, reasoning_effort=effort)) == (None, "single_step")


@pytest.mark.parametrize("text", ["", "  \n\t"])
def test_policy_abstains_when_there_is_no_text(text: str) -> None:
    assert vote(DEFAULT, features(text)) == (None, "no_text")


def test_threshold_option_moves_the_decision() -> None:
    answer = DEFAULT.decide(features())
    assert isinstance(answer, RouteDecision)
    assert answer.score is not None
    at_score = LongReasoning(escalate_above=answer.score)
    assert vote(at_score, features()) == (None, "single_step")  # above, not at
    below = LongReasoning(escalate_above=answer.score - 1e-9)
    assert vote(below, features()) == ("teacher", "multi_step")


@pytest.mark.parametrize(
    "text",
    [
        "If 3 machines make 3 parts in 3 minutes, how long do 100 machines need for 100 parts? Explain.",
        "Prove that the product of two odd numbers is odd, and derive the same for three of them.",
        "Tom has twice as many marbles as Ann. Together they have 36. How many marbles must Tom give to Ann so that "
        "both have the same number?",
    ],
)
def test_shipped_weights_escalate_reasoning(text: str) -> None:
    assert vote(DEFAULT, features(text))[0] == "teacher"


@pytest.mark.parametrize(
    "text",
    [
        "hi", "Thanks!", "What is the capital of France?", "I lost my card, how do I get a new one?",
        "Translate to German: the invoice of 12 May 2023 over $1,250 is 30 days late.",
        "Which module parses command line options?", "Write a haiku about autumn.",
        "What is my account balance as of 31/12/2024?",
    ],
)  # fmt: skip
def test_shipped_weights_leave_everyday_requests_to_the_student(text: str) -> None:
    assert vote(DEFAULT, features(text))[0] is None


class TestEmbeddings:
    HEAD = msgspec.json.decode(SHIPPED_EMBEDDING_WEIGHTS.read_bytes())["weights"]
    UNSURE = LongReasoning(embeddings=True, unsure_below=1.0, unsure_above=1.0)

    def embedding(self, sign: float) -> tuple[float, ...]:
        """The unit vector that the head scores highest (or lowest)."""
        length = sum(weight * weight for weight in self.HEAD) ** 0.5
        return tuple(sign * weight / length for weight in self.HEAD)

    def test_embedding_is_asked_for_only_in_the_unsure_band(self) -> None:
        policy = LongReasoning(embeddings=True)
        assert policy.needs(features(HARD)) is None
        assert policy.needs(features(EASY)) is None
        assert self.UNSURE.needs(features(EASY)) is Signal.PROMPT_EMBEDDING

    def test_embedding_is_never_asked_for_when_it_is_off_or_the_effort_decides(self) -> None:
        assert DEFAULT.needs(features()) is None
        assert self.UNSURE.needs(features(reasoning_effort="high")) is None
        assert self.UNSURE.needs(features(reasoning_effort="low")) is None
        assert self.UNSURE.needs(features("")) is None
        unavailable = Signals(unavailable=(Signal.PROMPT_EMBEDDING,))
        assert self.UNSURE.needs(features(signals=unavailable)) is None

    def test_signal_is_declared_when_it_is_on(self) -> None:
        assert self.UNSURE.optional_signals() == {Signal.PROMPT_EMBEDDING}
        assert DEFAULT.optional_signals() == frozenset()

    def test_head_decides_in_the_band(self) -> None:
        high = Signals(prompt_embedding=self.embedding(+1))
        low = Signals(prompt_embedding=self.embedding(-1))
        assert vote(self.UNSURE, features(EASY, signals=high)) == ("teacher", "multi_step_embedding")
        assert vote(self.UNSURE, features(HARD, signals=low)) == (None, "single_step_embedding")

    def test_embedding_outside_the_band_changes_nothing(self) -> None:
        low = Signals(prompt_embedding=self.embedding(-1))
        policy = LongReasoning(embeddings=True)
        assert policy.decide(features(HARD, signals=low)) == DEFAULT.decide(features(HARD))

    def test_policy_abstains_when_the_embedding_did_not_come_in_time(self) -> None:
        late = features(HARD, signals=Signals(unavailable=(Signal.PROMPT_EMBEDDING,)))
        assert vote(self.UNSURE, late) == (None, "embedding_unavailable")

    def test_embedding_of_another_encoder_is_not_used(self) -> None:
        other = features(HARD, signals=Signals(prompt_embedding=(1.0, 0.0)))
        assert vote(self.UNSURE, other) == (None, "embedding_unavailable")


class TestWeights:
    def write(self, path: Path, **changes: Any) -> str:
        weights = artefact.read(SHIPPED_WEIGHTS, LinearWeights)
        artefact.write(path, msgspec.structs.replace(weights, **changes))
        return str(path)

    def test_shipped_weights_say_what_they_were_trained_on(self) -> None:
        weights = artefact.read(SHIPPED_WEIGHTS, LinearWeights)
        assert weights.n > 3_000
        assert weights.sources
        assert len(weights.training_data_sha256) == 64
        assert weights.auroc_held_out > 0.8

    def test_both_shipped_artefacts_come_from_the_same_data(self) -> None:
        head = artefact.read(SHIPPED_EMBEDDING_WEIGHTS, EmbeddingWeights)
        assert head.training_data_sha256 == artefact.read(SHIPPED_WEIGHTS, LinearWeights).training_data_sha256

    def test_weights_of_another_schema_are_refused(self, tmp_path: Path) -> None:
        path = self.write(tmp_path / "old.json", schema=reasoning.FEATURE_SCHEMA + 1)
        with pytest.raises(PolicyConfigError, match=r"^weights: .*old\.json has feature schema 2, this version"):
            build("long_reasoning", {"weights": path})

    def test_weights_of_other_features_are_refused(self, tmp_path: Path) -> None:
        path = self.write(tmp_path / "other.json", structure={"something": 1.0})
        with pytest.raises(PolicyConfigError, match=r"^weights: the weights are for other features"):
            build("long_reasoning", {"weights": path})

    def test_weights_that_are_another_artefact_are_refused(self) -> None:
        with pytest.raises(PolicyConfigError, match=r"^weights: .*not an artefact of the kind LinearWeights"):
            build("long_reasoning", {"weights": str(SHIPPED_EMBEDDING_WEIGHTS)})

    def test_own_weights_are_used(self, tmp_path: Path) -> None:
        policy = build("long_reasoning", {"weights": self.write(tmp_path / "w.json", default_threshold=0.999999)})
        assert isinstance(policy.decide(features(HARD)), Abstain)


class TestBoundedWork:
    def test_words_in_the_middle_of_a_long_text_are_not_looked_at(self) -> None:
        head, tail = "a" * reasoning.HEAD_CHARS, "b" * reasoning.TAIL_CHARS
        first, second = extract(head + " prove 123 " + tail), extract(head + " hello xyz " + tail)
        assert first.structure == second.structure
        assert first.words == second.words

    @pytest.mark.parametrize("text", ["word " * 10**6, "x" * 10**6, "9" * 10**6, "\n1. a" * 10**5, "é" * 10**6])
    def test_features_of_a_huge_text_are_those_of_its_ends(self, text: str) -> None:
        looked_at = reasoning.HEAD_CHARS + reasoning.TAIL_CHARS + 1
        assert sum(map(len, extract(text).words)) <= looked_at

    def test_remembered_words_are_bounded(self) -> None:
        scorer = LinearScorer(artefact.read(SHIPPED_WEIGHTS, LinearWeights))
        rng = random.Random(0)
        for _ in range(400):
            scorer.score(" ".join("".join(rng.choices("abcdefghijklmnop", k=7)) for _ in range(120)))
        assert len(scorer._words) <= reasoning.MAX_REMEMBERED_WORDS

    def test_remembered_words_do_not_change_the_score(self) -> None:
        weights = artefact.read(SHIPPED_WEIGHTS, LinearWeights)
        warm, cold = LinearScorer(weights), LinearScorer(weights)
        warm.score(HARD + " " + EASY)
        assert warm.score(HARD) == cold.score(HARD)


@pytest.mark.system
def test_score_is_the_same_in_another_process_with_another_hash_seed() -> None:
    code = (
        "from policies.long_reasoning import LongReasoning, SHIPPED_WEIGHTS\n"
        "from policies.reasoning import LinearScorer, LinearWeights\n"
        "from policies import artefact\n"
        f"print(LinearScorer(artefact.read(SHIPPED_WEIGHTS, LinearWeights)).score({HARD!r}).hex())"
    )
    scores = {
        subprocess.run(
            [sys.executable, "-c", code], env={"PYTHONHASHSEED": seed}, capture_output=True, text=True, check=True
        ).stdout
        for seed in ("1", "2", "3")
    }
    assert len(scores) == 1
