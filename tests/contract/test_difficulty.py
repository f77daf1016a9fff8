"""`difficulty` on a real gateway: prompts that its artefact scores high go to the teacher, and records say why."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from policies import artefact
from router.replay.session import Question, Session
from tests.contract.conftest import StartGateway
from tests.policies.scoring.building import TRAINING, word_score


def ask(text: str) -> dict[str, object]:
    return {"model": "auto", "messages": [{"role": "user", "content": text}], "router": {"explain": True}}


def rest(model: Path) -> str:
    return f'[[routing.policies]]\ntype = "difficulty"\nmodel = "{model}"\n'


@pytest.mark.parametrize(("text", "route"), [("Prove it.", "teacher"), ("Name it.", "student")])
def test_prompt_is_sent_where_its_score_says(
    text: str, route: str, start_gateway: StartGateway, tmp_path: Path
) -> None:
    made = word_score("prove", default_threshold=0.5)
    artefact.write(tmp_path / "score.json", made)
    gateway = start_gateway(rest=rest(tmp_path / "score.json"))
    answer = gateway.post(ask(text))
    assert answer.headers["x-router-route"] == route
    (record,) = gateway.records()
    (vote,) = record.votes
    assert (vote.policy, vote.reason) == ("difficulty", "teacher_better" if route == "teacher" else "student_enough")
    assert vote.threshold == 0.5
    assert vote.score is not None and (vote.score > 0.5) == (route == "teacher")


def test_score_of_another_student_is_not_used(start_gateway: StartGateway, tmp_path: Path) -> None:
    training = msgspec.structs.replace(TRAINING, student="another-one")
    artefact.write(tmp_path / "score.json", word_score("prove", default_threshold=0.5, training=training))
    gateway = start_gateway(rest=rest(tmp_path / "score.json"))
    assert gateway.post(ask("Prove it.")).headers["x-router-route"] == "student"
    (record,) = gateway.records()
    assert record.votes[0].reason == "other_student"


@pytest.mark.parametrize("mode", ["decide", "shadow"])
def test_replay_decides_the_same_when_no_text_was_kept(mode: str, start_gateway: StartGateway, tmp_path: Path) -> None:
    sha256 = artefact.write(tmp_path / "score.json", word_score("prove", default_threshold=0.5))
    gateway = start_gateway(rest=rest(tmp_path / "score.json") + f'mode = "{mode}"\n')
    for text in ("Prove it.", "Name it.", "Name her.", "Prove that."):
        gateway.post({**ask(text), "store": False})
    records = gateway.records()
    for record in records:
        assert record.features is not None
        assert (record.capture, record.features.last_user_turn) == ("metadata", "")
        assert [vote.scored_by for vote in record.votes] == [sha256]
    policy = {"type": "difficulty", "model": str(tmp_path / "score.json")}
    asked = Question(
        folder=str(gateway.config.log.dir),
        active={"policies": [{**policy, "mode": mode}]},
        candidate={"policies": [policy]},
    )
    found = Session().answer(asked)
    assert found["baseline"]["by_reason"] == (
        {"default": 4} if mode == "shadow" else {"difficulty.teacher_better": 2, "default": 2}
    )
    assert found["candidate"]["by_reason"] == {"difficulty.teacher_better": 2, "default": 2}
    assert found["candidate"]["student_share"]["value"] == 0.5
    assert not any("not captured in full" in each for each in found["warnings"])
    artefact.write(tmp_path / "score.json", word_score("prove", default_threshold=0.4))
    other = Session().answer(asked)
    assert other["candidate"]["by_reason"] == {"default": 4}
    assert any("4 requests were not captured in full" in each for each in other["warnings"])
