"""The stage evaluate against scripted models on real sockets."""

from __future__ import annotations

from typing import Any

import pyarrow.parquet as pq
import pytest

from serving.registry import Registry
from tests.trainer.evaluation.conftest import LABELS, Run, question, replies, write_model, write_split
from tests.trainer.evaluation.fake_model import Script, serving
from tests.trainer.evaluation.stages import bundle_one, evaluate, never
from trainer.evaluation.runner import Outside
from trainer.stage import StageError
from trainer.stages.bundle import BundleStage
from trainer.stages.evaluate import EvaluateStage, teacher_alarms
from trainer.stages.recalibrate import RecalibrateStage


def test_evaluation_states_every_figure_when_student_and_teacher_answer(run: Run) -> None:
    run.options["teacher"]["tokenizer"] = str(run.root / "quantize" / "model")
    student, teacher = Script(replies(lambda i: i % 20 == 0), token_logprob=-0.3), Script(replies(never))
    found = evaluate(run, student, teacher)
    assert found["accuracy"]["student"]["right"] == 57
    assert found["accuracy"]["teacher"]["right"] == 60
    assert found["parity"]["teacher"]["lost"] == 3
    assert found["parity"]["teacher"]["estimate"] == pytest.approx(-0.05)
    assert found["agreement"] == pytest.approx(0.95)
    assert found["calibration"]["error_auroc"] == 1.0
    assert found["closeness"]["perplexity"] == pytest.approx(2.718281828**0.3, rel=1e-3)
    assert found["closeness"]["teacher_perplexity"] == pytest.approx(2.718281828**0.1, rel=1e-3)
    assert found["closeness"]["kl_nats_per_token"] > 0
    assert found["format"]["teacher"]["outside_labels_share"] == 0
    assert found["speed"]["student"]["requests"] == found["speed"]["teacher"]["requests"] == 8
    assert found["student"]["size_bytes"] > 0
    rows = pq.read_table(run.inputs["evaluate"] / "cases.parquet").to_pylist()
    assert len(rows) == 60
    assert rows[0]["student_right"] is False and rows[0]["teacher_text"] == LABELS[0]


def test_evaluation_requests_are_plain_and_marked_when_they_are_sent(run: Run) -> None:
    student, teacher = Script(replies(never)), Script(replies(never))
    evaluate(run, student, teacher)
    for script in (student, teacher):
        assert {each["x-router-purpose"] for each in script.headers} == {"eval"}
        asked = [each for each in script.chats if each["messages"][0]["content"].startswith("Customer")]
        assert {each["temperature"] for each in asked} == {0}
        assert all(each["logprobs"] for each in asked)


def test_evaluation_works_when_the_teacher_takes_only_plain_options(run: Run) -> None:
    run.options["teacher"]["tokenizer"] = str(run.root / "quantize" / "model")
    teacher = Script(replies(never), refuse_unknown=True)
    found = evaluate(run, Script(replies(never)), teacher)
    assert found["accuracy"]["teacher"]["right"] == 60
    assert found["closeness"]["perplexity"] is None
    assert "token ids" in found["closeness"]["skipped"]


def test_evaluation_leaves_kl_out_when_tokenizers_differ(run: Run) -> None:
    other = run.root / "other"
    other.mkdir()
    (other / "tokenizer.json").write_text('{"model": {"vocab": {"b": 0}}}')
    run.options["teacher"]["tokenizer"] = str(other)
    found = evaluate(run, Script(replies(never)), Script(replies(never)))
    assert found["closeness"]["skipped"] == "student and teacher have different tokenizers"


def test_evaluation_is_refused_when_the_set_was_changed_after_it_was_pinned(run: Run) -> None:
    path = run.root / "cases.jsonl"
    path.write_text(path.read_text().replace('"refund"', '"top up"', 1))
    with pytest.raises(StageError, match=r"evaluate\.dataset.*the recipe pins"):
        EvaluateStage(Outside(serving({}))).key(run.recipe())


@pytest.mark.parametrize(
    ("options", "same"),
    [({"port": 9000}, True), ({"dtype": "float16"}, False), ({"context_window_tokens": 64}, False)],
)
def test_answers_are_asked_for_again_when_the_candidate_is_served_in_another_way(
    run: Run, options: dict[str, Any], same: bool
) -> None:
    stages = (EvaluateStage(Outside(serving({}))), RecalibrateStage(Outside(serving({}))))
    before = [stage.key(run.recipe()) for stage in stages]
    run.options["evaluate"]["vllm"] = options
    assert [stage.key(run.recipe()) == key for stage, key in zip(stages, before, strict=True)] == [same, same]


@pytest.mark.parametrize(
    ("table", "changes", "same"),
    [
        ("teacher", {"base_url": "http://10.0.0.9:8000/v1"}, True),
        ("teacher", {"concurrency": 3}, True),
        ("teacher", {"version": "2"}, False),
        ("teacher", {"model": "other"}, False),
        ("student", {"base_model": "elsewhere"}, True),  # its content is in the address of the stage train
        ("evaluate", {"max_output_tokens": 9}, False),
    ],
)
def test_evaluation_is_keyed_by_who_is_compared_not_by_where_it_is_served(
    run: Run, table: str, changes: dict[str, Any], same: bool
) -> None:
    before = EvaluateStage().key(run.recipe())
    run.options[table].update(changes)
    assert (EvaluateStage().key(run.recipe()) == before) is same


def test_evaluation_is_keyed_by_the_content_of_the_tokenizer(run: Run) -> None:
    one, copy, other = (write_model(run.root / name, name) / "tokenizer.json" for name in ("one", "copy", "other"))
    other.write_text('{"model": {"vocab": {"b": 0}}}')
    keys = []
    for path in (one, copy, other):
        run.options["teacher"]["tokenizer"] = str(path.parent)
        keys.append((EvaluateStage().key(run.recipe()), BundleStage().key(run.recipe())))
    assert keys[0] == keys[1]
    assert keys[0][0] != keys[2][0] and keys[0][1] != keys[2][1]


@pytest.mark.parametrize(
    ("recorded", "alarm"),
    [
        ({"fake fp-1": 90}, False),
        ({"fake": 3, "other": 90}, False),  # a stream may leave out the version
        ({"": 90}, False),  # nothing was stated
        ({"fake fp-0": 90}, True),
        ({"fakes": 90}, True),
    ],
)
def test_evaluation_raises_an_alarm_when_the_teacher_is_not_the_one_of_the_traffic(
    recorded: dict[str, int], alarm: bool
) -> None:
    found = teacher_alarms("fake fp-1 0123456789ab", {"licences": {"fingerprints": {"teacher": dict(recorded)}}})
    assert [("fake fp-1" in each) for each in found] == [True] * alarm
    assert not teacher_alarms("0123456789ab", {"licences": {"fingerprints": {"teacher": dict(recorded)}}})
    assert not teacher_alarms("fake fp-1 0123456789ab", {})


def test_answers_of_another_teacher_are_not_mixed_when_an_evaluation_is_resumed(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trainer.calls.FIRST_BACKOFF_S", 0.001)
    with pytest.raises(StageError, match="does not answer"):
        evaluate(run, Script(replies(never)), Script(replies(never), fail_after=30))

    def other(text: str) -> tuple[str, float]:
        return ("refund", -0.1) if text.startswith("Customer") else ("Certainly!", -0.3)

    found = evaluate(run, Script(replies(never)), Script(other))
    assert found["accuracy"]["teacher"]["right"] == 15  # those whose label is refund


def test_evaluation_is_refused_when_a_case_is_in_the_training_data(run: Run) -> None:
    write_split(run.root / "leaky", ["Something else.", "  customer 7 ASKS about exchange   rate. "])
    run.inputs["split"] = run.root / "leaky"
    with pytest.raises(StageError, match=r"1 cases have a prompt.*'case-7'"):
        evaluate(run, Script(replies(never)), Script(replies(never)))


def test_provenance_must_be_human(run: Run) -> None:
    run.options["evaluate"]["provenance"] = "synthetic"
    with pytest.raises(ValueError, match="provenance"):
        run.recipe()


def test_evaluation_resumes_when_the_teacher_was_down_midway(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trainer.calls.FIRST_BACKOFF_S", 0.001)
    teacher = Script(replies(never), fail_after=30)
    with pytest.raises(StageError, match=r"teacher: .* does not answer .*HTTP 503"):
        evaluate(run, Script(replies(never)), teacher)
    kept = len((run.context("evaluate").folder / "answers" / "teacher-task.jsonl").read_bytes().splitlines()) - 1
    assert 20 <= kept <= 29  # some of the 30 were probes
    revived = Script(replies(never))
    found = evaluate(run, Script(replies(never)), revived)
    assert found["accuracy"]["teacher"]["right"] == 60
    asked = [each["messages"][0]["content"] for each in revived.chats]
    probe, speed = 1 + 4, 4 + 8
    assert len(asked) == probe + (60 - kept) + speed
    asked_again = set(asked)
    assert question(59) in asked_again


def test_previous_student_is_the_registrys_current_one_when_the_recipe_names_none(run: Run) -> None:
    first = bundle_one(run, Script(replies(lambda i: i % 20 == 0)))
    Registry(run.root / "students").promote(first, force=True, reason="test")
    name = run.root / "quantize" / "model" / "name.txt"
    name.unlink()  # the bundle has a hard link to it
    name.write_text("better")
    student, before = Script(replies(never)), Script(replies(lambda i: i % 20 == 0))
    found = evaluate(run, student, Script(replies(never)), others={"better": student, "student": before})
    assert found["previous"]["name"] == f"previous student {first}"
    assert found["parity"]["previous"]["won"] == 3


def test_evaluation_is_refused_when_the_teacher_says_nothing(run: Run) -> None:
    with pytest.raises(StageError, match="max_output_tokens"):
        evaluate(run, Script(replies(never)), Script(lambda text: ("", -0.1)))
