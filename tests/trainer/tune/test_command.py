"""`locum tune` on traffic logs as the gateway writes them."""

from __future__ import annotations

import hashlib
import json
import random
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner, Result

from policies.base import RequestFeatures, RouteDecision, StudentDefaults
from policies.record import SCHEMA_VERSION, DecisionRecord, Draft, FeedbackRecord, encode
from policies.registry import build_all
from policies.segments import frame
from router.cli import main
from router.segments import Segment
from serving.bundles import read_manifest, write_bundle
from serving.registry import Registry
from tests.serving.bundles import build

DECISION = RouteDecision(route="student", reason="default", policy="default", version="v1")
FEATURES = RequestFeatures(prompt_bytes=1, message_count=1, approx_prompt_tokens=1, requested_output_tokens=1)
SYSTEM = "Name the intent."


class Log:
    """A traffic folder, filled through the gateway's own writer."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._segment = Segment(folder, 64 * 1024)
        self._segment.prepare()
        self._next = 0

    def answered(self, prompt: str, answer: str, *, route: str, label: str | None = None, **fields: Any) -> str:
        """One record, with feedback when it has a label; returns its id."""
        self._next += 1
        decision_id = f"r-{self._next:05d}"
        messages = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": prompt}]
        record = DecisionRecord(
            **{
                "schema": SCHEMA_VERSION, "decision_id": decision_id, "created_s": 1000.0 + self._next,
                "endpoint": "/v1/chat/completions", "stream": False, "requested_model": "auto", "decision": DECISION,
                "route": route, "reason": "default", "status": 200, "outcome": "ok", "finish_reason": "stop",
                "student": "s-0", "teacher": "t", "latency_s": 0.1, "overhead_s": 0.001, "capture": "full",
                "request": json.dumps({"model": "auto", "messages": messages}), "completion": answer, **fields,
            }
        )  # fmt: skip
        self._write(encode(record))
        if label is not None:
            self.feedback(decision_id, label=label)
        return decision_id

    def feedback(self, decision_id: str, **fields: Any) -> None:
        self._write(encode(FeedbackRecord(schema=1, decision_id=decision_id, created_s=9e3, source="human", **fields)))

    def _write(self, payload: bytes) -> None:
        self._segment.write(frame(payload))

    def close(self) -> None:
        self._segment.close()


@pytest.fixture
def log(tmp_path: Path) -> Iterator[Log]:
    log = Log(tmp_path / "traffic")
    yield log
    log.close()


def fill(log: Log, n: int = 200, *, student: str = "s-0", pairs: bool = True, start: int = 0, **fields: Any) -> None:
    """Labelled requests: the student errs on a fifth, with lower logprobs; the teacher on a few others."""
    generator = random.Random(n + start)
    for i in range(start, start + n):
        wrong = i % 5 == 0
        logprob = -generator.uniform(0.6, 3.0) if wrong else -generator.uniform(0.01, 1.0)
        prompt, label = f"question {i}", f"intent_{i % 7}"
        answer = "something else" if wrong else label
        log.answered(prompt, answer, route="student", label=label, mean_logprob=logprob, student=student, **fields)
        if pairs:
            log.answered(prompt, "no idea" if i % 20 == 3 else label, route="teacher", student=student, **fields)


def run(log: Log, *arguments: str) -> Result:
    return CliRunner().invoke(main, ["tune", str(log.folder), *arguments], catch_exceptions=False)


def run_json(log: Log, *arguments: str) -> dict[str, Any]:
    result = run(log, *arguments, "--json")
    assert result.exit_code == 0, result.output
    decoded: dict[str, Any] = json.loads(result.stdout)
    return decoded


def sealed_set(path: Path, prompts: list[str]) -> Path:
    lines = [
        {"id": str(i), "messages": [{"role": "user", "content": prompt}], "label": "x"}
        for i, prompt in enumerate(prompts)
    ]  # fmt: skip
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def registry_of(tmp_path: Path, **manifest: Any) -> tuple[Registry, str]:
    registry = Registry(tmp_path / "students")
    built = tmp_path / "built"
    bundle = build(built)
    write_bundle(built, bundle, msgspec.structs.replace(read_manifest(built), **manifest))
    bundle = registry.add(built)
    registry.promote(bundle.bundle_id)
    return registry, bundle.bundle_id


def test_files_are_written_that_the_policy_takes(log: Log, tmp_path: Path) -> None:
    fill(log)
    found = run_json(log, "--out", str(tmp_path / "tuned"), "--max-teacher-share", "0.25")
    assert (found["n"], found["n_paired"], found["student"]) == (200, 200, "s-0")
    assert not found["teacher_assumed_right"]
    assert found["student_accuracy"]["estimate"] == pytest.approx(0.8)
    assert found["teacher_accuracy"]["estimate"] == pytest.approx(0.95)
    assert 0.2 < found["share_on_rows"] <= 0.25
    assert found["auroc"] > 0.9
    assert found["predicted_accuracy"]["estimate"] > 0.9
    table = tomllib.loads((tmp_path / "tuned" / "cascade.toml").read_text())["routing"]["policies"][0]
    (reviewer,) = build_all([table], student=StudentDefaults(bundle_id="s-0")).reviewers
    escalates = reviewer.review(FEATURES, Draft(text="x", mean_logprob=-2.5))
    assert isinstance(escalates, RouteDecision)
    assert escalates.threshold == found["threshold"]
    assert not isinstance(reviewer.review(FEATURES, Draft(text="x", mean_logprob=-0.05)), RouteDecision)
    (other,) = build_all([table], student=StudentDefaults(bundle_id="s-1")).reviewers
    answer = other.review(FEATURES, Draft(text="x", mean_logprob=-2.5))
    assert answer is not None
    assert answer.reason == "other_student"


def test_report_says_what_was_measured_and_what_was_assumed(log: Log, tmp_path: Path) -> None:
    fill(log, pairs=False)
    log.answered("unlabelled", "x", route="student", mean_logprob=-0.2)
    log.answered("no logprob", "x", route="student", label="x")
    result = run(log, "--out", str(tmp_path / "tuned"))
    assert result.exit_code == 0
    for part in (
        "student s-0: 200 labelled answers", "left out: 1 answers of the student without a label", "left out: 1 answers labelled, but without a mean",
        "no sealed evaluation set was given", "taken to be 100 %", "student accuracy     80.0 %", "AUROC", "no guarantee",
        "[[routing.policies]]", 'type = "cascade"',
    ):  # fmt: skip
        assert part in result.output
    assert result.output.count("\n") < 45


def test_draft_that_a_cascade_threw_away_is_graded_beside_the_teachers_answer(log: Log, tmp_path: Path) -> None:
    for i in range(100):
        wrong = i % 4 == 0
        draft = Draft(
            text="wrong" if wrong else "yes", mean_logprob=-2.0 - i / 999 if wrong else -0.1 - i / 999, escalated=wrong
        )
        answer, route = ("yes", "teacher") if wrong else ("yes", "student")
        log.answered(f"q {i}", answer, route=route, label="yes", draft=draft)
    found = run_json(log, "--out", str(tmp_path / "tuned"), "--max-teacher-share", "0.3")
    assert (found["n"], found["n_paired"], found["student_accuracy"]["estimate"]) == (100, 25, 0.75)
    assert found["teacher_assumed_right"]  # 25 pairs are too few


def test_scores_label_where_no_label_is_and_a_later_judgement_counts(log: Log, tmp_path: Path) -> None:
    for i in range(80):
        bad = i % 4 == 0
        decision_id = log.answered(f"q {i}", "?", route="student", mean_logprob=-2.0 - i / 99 if bad else -0.3 - i / 99)
        log.feedback(decision_id, score=0.0 if i == 1 else 0.2 if bad else 0.9)
        if i == 1:
            log.feedback(decision_id, score=1.0)
    found = run_json(log, "--out", str(tmp_path / "tuned"))
    assert found["student_accuracy"]["estimate"] == 0.75


def test_empty_answer_counts_as_escalated_and_not_as_missing(log: Log, tmp_path: Path) -> None:
    fill(log)
    log.answered("nothing to say", "", route="student", label="x")
    log.answered("blanks", " ", route="student", label="x", mean_logprob=-0.2)
    found = run_json(log, "--out", str(tmp_path / "tuned"))
    assert (found["n"], found["n_empty"], found["left_out"]["without_logprob"]) == (202, 2, 0)
    assert found["share_on_rows"] <= 0.2


def test_derived_bundle_has_the_threshold_and_the_calibrator_of_its_student(log: Log, tmp_path: Path) -> None:
    registry, bundle_id = registry_of(tmp_path, evaluation_set_sha256="")
    fill(log, student=bundle_id)
    fill(log, 60, student="another-000000000000", start=1000)
    found = run_json(log, "--registry", str(registry.root))
    assert found["n"] == 200
    derived = registry.get(found["bundle_id"])
    assert derived.cascade_threshold == found["threshold"]
    assert registry.manifest(derived.bundle_id).derived_from == bundle_id
    assert registry.current() != derived
    assert derived.calibrator is not None
    student = StudentDefaults(
        bundle_id=derived.bundle_id,
        calibrator=registry.folder(derived.bundle_id) / derived.calibrator,
        cascade_threshold=derived.cascade_threshold,
    )
    (reviewer,) = build_all([{"type": "cascade"}], student=student).reviewers
    assert isinstance(reviewer.review(FEATURES, Draft(text="x", mean_logprob=-2.5)), RouteDecision)
    again = run_json(log, "--registry", str(registry.root), "--bundle", bundle_id)
    assert again["bundle_id"] == found["bundle_id"]
    twin = run_json(log, "--registry", str(registry.root), "--bundle", derived.bundle_id, "--max-teacher-share", "0.1")
    assert twin["n"] == 200  # records of a bundle with the same model count
    text = run(log, "--registry", str(registry.root)).output
    assert f"locum student promote {found['bundle_id']}" in text


def test_test_set_of_the_bundle_is_found_where_its_recipe_had_it(log: Log, tmp_path: Path) -> None:
    sealed = sealed_set(tmp_path / "test.jsonl", ["QUESTION  7", "unrelated"])
    sha256 = hashlib.sha256(sealed.read_bytes()).hexdigest()
    recipe = {"evaluate": {"dataset": str(sealed)}}
    registry, bundle_id = registry_of(tmp_path, evaluation_set_sha256=sha256, recipe=recipe)
    fill(log, student=bundle_id, tags={"set": "tune"})
    refused = run(log, "--registry", str(registry.root))
    assert refused.exit_code == 2
    assert "1 labelled records have messages of the sealed evaluation set" in refused.output
    assert len(registry.list()) == 1
    log.answered(
        "a tune question", "x", route="student", label="x", mean_logprob=-0.1, student=bundle_id, tags={"set": "more"}
    )
    assert run(log, "--registry", str(registry.root), "--tag", "set=more").exit_code == 1  # 1 label, but none is sealed


def test_bundle_whose_test_set_is_missing_is_not_tuned(log: Log, tmp_path: Path) -> None:
    sealed = sealed_set(tmp_path / "test.jsonl", ["unrelated"])
    sha256 = hashlib.sha256(sealed.read_bytes()).hexdigest()
    recipe = {"evaluate": {"dataset": str(tmp_path / "gone.jsonl")}}
    registry, bundle_id = registry_of(tmp_path, evaluation_set_sha256=sha256, recipe=recipe)
    fill(log, student=bundle_id)
    other = sealed_set(tmp_path / "other.jsonl", ["something"])
    for arguments in ([], ["--exclude", str(other)]):
        refused = run(log, "--registry", str(registry.root), *arguments)
        assert refused.exit_code == 2
        assert f"judged on an evaluation set with sha256 {sha256}" in refused.output
        assert "gone.jsonl is not there" in " ".join(refused.output.split())
    found = run_json(log, "--registry", str(registry.root), "--exclude", str(other), "--exclude", str(sealed))
    assert found["sealed_sets"] == 2


def test_excluded_prompts_are_refused_whatever_their_spelling_and_system_prompt(log: Log, tmp_path: Path) -> None:
    fill(log)
    sealed = sealed_set(tmp_path / "test.jsonl", [" Question   12"])
    refused = run(log, "--out", str(tmp_path / "tuned"), "--exclude", str(sealed))
    assert refused.exit_code == 2
    assert "r-000" in refused.output
    assert not (tmp_path / "tuned").exists()


def test_record_without_its_text_does_not_count_beside_a_sealed_set(log: Log, tmp_path: Path) -> None:
    fill(log)
    unseen = log.answered(
        "?", "?", route="student", mean_logprob=-0.4, request=None, completion=None, capture="metadata"
    )
    log.feedback(unseen, score=1.0)
    assert run_json(log, "--out", str(tmp_path / "tuned"))["n"] == 201
    sealed = sealed_set(tmp_path / "test.jsonl", ["unrelated"])
    found = run_json(log, "--out", str(tmp_path / "tuned"), "--exclude", str(sealed))
    assert (found["n"], found["left_out"]["not_comparable"]) == (200, 1)


def test_purposes_tags_and_sql_choose_the_records(log: Log, tmp_path: Path) -> None:
    fill(log, 100, purpose="eval", tags={"set": "tune"})
    fill(log, 60, start=500, tags={"set": "tune"})
    fill(log, 70, start=700)
    out = ["--out", str(tmp_path / "tuned")]
    assert run_json(log, *out)["n"] == 130
    assert run_json(log, *out, "--purpose", "eval")["n"] == 100
    assert run_json(log, *out, "--purpose", "eval,traffic", "--tag", "set=tune")["n"] == 160
    assert run_json(log, *out, "--purpose", "eval", "--where", "purpose = 'eval' and created_s < 1141")["n"] == 70


def test_too_few_labels_end_with_1_and_say_how_many_are_missing(log: Log, tmp_path: Path) -> None:
    fill(log, 30)
    result = run(log, "--out", str(tmp_path / "tuned"), "--json")
    assert result.exit_code == 1
    assert json.loads(result.stdout)["missing_labels"] == 20
    assert "Label at least 20 more" in result.stderr
    assert not (tmp_path / "tuned").exists()


def test_limits_that_contradict_each_other_end_with_1(log: Log, tmp_path: Path) -> None:
    fill(log)
    result = run(log, "--out", str(tmp_path / "t"), "--max-teacher-share", "0.02", "--max-quality-loss", "0.001")
    assert result.exit_code == 1
    assert "Allow more of one" in result.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give --registry"),
        (["--out", "a", "--registry", "."], "give --registry"),
        (["--out", "a", "--bundle", "b"], "--bundle: names a bundle of a registry"),
        (["--registry", ".", "--student", "b"], "--student: the bundle says"),
        (["--registry", "."], "has no current bundle"),
        (["--registry", ".", "--bundle", "x-000000000000"], "no bundle 'x-000000000000'"),
        (["--out", "a", "--purpose", "traffic,nonsense"], "--purpose: 'nonsense' is none of"),
        (["--out", "a", "--tag", "set"], "--tag: 'set' is not KEY=VALUE"),
        (["--out", "a", "--where", "nonsense = 1"], "nonsense"),
        (["--out", "a", "--exclude", "pyproject.toml"], "--exclude: pyproject.toml, line 1: "),
        (["--out", "a"], "--student: the labelled records are of several students.* s-0 (60), s-1 (60)"),
    ],
)
def test_wrong_input_ends_with_2_and_names_the_option(
    log: Log, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, arguments: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pyproject.toml").write_text("[project]\n")
    fill(log, 60)
    fill(log, 60, student="s-1", start=100)
    result = run(log, *arguments)
    assert result.exit_code == 2, result.output
    for part in message.split(".*"):
        assert part.strip() in " ".join(result.output.split())
    assert not (tmp_path / "a").exists()


def test_full_disk_is_an_error_that_names_the_file_and_leaves_nothing_half_written(log: Log, tmp_path: Path) -> None:
    fill(log)
    blocker = tmp_path / "file"
    blocker.write_text("")
    result = run(log, "--out", str(blocker / "tuned"))
    assert result.exit_code == 2
    assert "file" in result.output


def test_damaged_record_is_skipped_and_counted(log: Log, tmp_path: Path) -> None:
    fill(log, pairs=False)
    segment = next(log.folder.glob("*.seg"))
    first, *rest = segment.read_bytes().splitlines(keepends=True)
    segment.write_bytes(first.replace(b"question", b"qvestion") + b"".join(rest))
    for where in ([], ["--where", "true"]):
        found = run_json(log, "--out", str(tmp_path / "tuned"), *where)
        assert (found["n"], found["damaged"]) == (199, 1)
    assert "1 damaged places of the log" in run(log, "--out", str(tmp_path / "tuned")).output


def test_help_is_the_one_on_file_with_an_example_and_the_exit_codes() -> None:
    result = CliRunner(env={"COLUMNS": "80"}).invoke(main, ["tune", "--help"])
    assert result.exit_code == 0
    golden = Path(__file__).with_name("help.txt")
    assert result.output == golden.read_text(), "if that is meant, write it again"
    for part in (
        "locum tune traffic --registry students",
        "Exit codes: 0 done, 1 too few labels",
        "--max-quality-loss",
    ):
        assert part in result.output
