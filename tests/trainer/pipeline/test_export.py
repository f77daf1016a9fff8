"""What leaves the log, and what a running gateway cannot change any more."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from policies.durable import sha256_of
from policies.record import DecisionRecord, FeedbackRecord, TokenIds
from policies.traffic.segments import SUFFIX, frame
from tests.traffic_records import shadow
from trainer.pipeline import Pipeline, StageFailed
from trainer.recipe import Recipe
from trainer.reporting import PlainReporter
from trainer.stage import StageError
from trainer.stages.export import STAGE
from trainer.tables import Example, read_examples

Make = Callable[..., DecisionRecord]


def export(recipe: Recipe, start: str | None = None) -> tuple[dict[str, Any], list[Example]]:
    pipeline = Pipeline(recipe, [STAGE])
    record = pipeline.run(PlainReporter(lambda line: None), start=start)["export"]
    folder = pipeline.folder / "export" / record.address[:12]
    return record.summary, list(read_examples(folder / "examples.parquet"))


def test_export_keeps_only_real_answered_traffic(
    recipe: Callable[..., Recipe], record: Make, write_log: Callable[..., Path]
) -> None:
    write_log(
        [
            record(0),
            record(1, stream=True),
            record(2, purpose="eval"),
            record(3, purpose="shadow"),
            record(4, purpose="judge"),
            record(5, outcome="backend_error"),
            record(6, capture="metadata", request=None, completion=None),
            record(7, completion=None),
            record(8, route="student"),
            record(9, endpoint="/v1/completions"),
            record(10, body={"tools": [{"type": "function"}]}),
            record(11, body={"n": 2}),
            record(12, messages=[{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]),
            record(13, messages=[{"role": "user", "content": [{"type": "text", "text": "in parts"}]}]),
            record(14, endpoint="/v1/messages"),
            record(15, endpoint="/v1/responses"),
            record(16, purpose="embedding"),
        ]
    )
    summary, examples = export(recipe())
    assert [each.decision_id for each in examples] == ["d000000", "d000001", "d000013", "d000014", "d000015"]
    assert summary["dropped"] == {
        "purpose": 4, "outcome": 1, "capture": 1, "no_completion": 1, "route": 1, "endpoint": 1, "tools": 1,
        "several_choices": 1, "not_text": 1,
    }  # fmt: skip
    assert summary["rows_in"] == 17


def test_export_learns_nothing_from_shadow_answers(
    recipe: Callable[..., Recipe], record: Make, write_log: Callable[..., Path]
) -> None:
    """The teacher's answer beside a student's is a better text, and still was never meant for training."""
    answers = [shadow(number, decision_id=f"d{number:06}", completion="From the shadow.") for number in range(3)]
    write_log([record(0), *answers, record(1, route="student")])
    summary, examples = export(recipe(export={"routes": ["teacher", "student"]}))
    assert [(each.decision_id, each.completion, each.correction) for each in examples] == [
        ("d000000", "An answer.", None)
    ]
    assert summary["rows_in"] == 2
    assert summary["judged"] == 0


def test_export_drops_poisoned_rows_and_goes_on(
    recipe: Callable[..., Recipe], record: Make, write_log: Callable[..., Path]
) -> None:
    folder = write_log(
        [
            record(0, "x" * 5_000_000),
            record(1, answer="\x00\x01\x02" * 50),
            record(2, request='{"messages": [{"role": "user", "content": "\\ud800 half"}]}'),
            record(3, request="{not json"),
            record(4, request='{"messages": "no list"}'),
            record(5, request='{"messages": [{"role": "user", "content": 7}]}'),
            record(6, request="[" * 100_000),
            record(7, messages=[{"role": "user", "content": "\x01\x02\x03\x04 binary"}]),
            record(8, "good"),
        ]
    )
    segment = folder / f"a{SUFFIX}"
    lines = segment.read_bytes().splitlines(keepends=True)
    segment.write_bytes(b"".join(lines[:8]) + b"garbage\xff\xfe\n" + frame(b"{}") + lines[8])
    summary, examples = export(recipe())
    assert [each.decision_id for each in examples] == ["d000008"]
    assert summary["dropped"]["huge"] == 1
    assert summary["dropped"]["binary"] >= 2
    assert sum(summary["dropped"].values()) == 8
    assert summary["damaged_lines"] == 2
    assert "2 lines of the log are damaged" in summary["alarms"][0]


def test_export_joins_feedback_and_takes_students_answers_only_corrected(
    recipe: Callable[..., Recipe], record: Make, feedback: Callable[..., FeedbackRecord], write_log: Callable[..., Path]
) -> None:
    ids = TokenIds(prompt=(1, 2), completion=(3, 4))
    log = [record(0, token_ids=ids), record(1, route="student"), record(2, route="student"), record(3)]
    log += [feedback(2, correction="Better."), feedback(3, label="refund"), feedback(3, score=0.5)]
    write_log(log)
    summary, examples = export(recipe(export={"routes": ["teacher", "student"]}))
    assert [(e.decision_id, e.correction, e.label) for e in examples] == [
        ("d000000", None, None),
        ("d000002", "Better.", None),
        ("d000003", None, "refund"),
    ]
    assert (examples[0].prompt_ids, examples[0].completion_ids) == ([1, 2], [3, 4])
    assert summary["dropped"] == {"student_uncorrected": 1}


@pytest.mark.parametrize("source", ["judge", "grader", "another-model"])
def test_export_takes_no_correction_that_a_model_wrote(
    recipe: Callable[..., Recipe],
    record: Make,
    feedback: Callable[..., Any],
    write_log: Callable[..., Path],
    source: str,
) -> None:
    log: list[Any] = [record(0), record(1, route="student", distillation="denied"), record(2)]
    log += [feedback(2, correction="By a person.", source="human")]
    log += [feedback(n, correction="By a model.", source=source) for n in (0, 1, 2)]
    write_log(log)
    summary, examples = export(recipe(export={"routes": ["teacher", "student"]}))
    assert [(each.decision_id, each.correction) for each in examples] == [
        ("d000000", None),
        ("d000002", "By a person."),
    ]
    assert summary["dropped"] == {"student_uncorrected": 1}
    assert "3 corrections are not a person's own" in summary["alarms"][0]


def test_export_takes_the_newest_and_what_sql_selects(
    recipe: Callable[..., Recipe], record: Make, write_log: Callable[..., Path]
) -> None:
    write_log([record(i, created_s=100.0 - i, tenant="a" if i % 2 else "b") for i in range(6)])
    assert [e.decision_id for e in export(recipe(export={"max_records": 2}))[1]] == ["d000000", "d000001"]
    found = export(recipe(export={"where": "tenant = 'a'"}))[1]
    assert sorted(e.decision_id for e in found) == ["d000001", "d000003", "d000005"]
    with pytest.raises(StageFailed, match=r"no record of .* fits"):
        export(recipe(export={"where": "tenant = 'nobody'"}))
    with pytest.raises(StageFailed, match=r"export\.where"):
        export(recipe(export={"where": "no_such_column = 1"}))


def test_resumed_run_reads_the_log_as_it_was_until_export_is_run_again(
    recipe: Callable[..., Recipe], record: Make, write_log: Callable[..., Path]
) -> None:
    folder = write_log([record(0), record(1)])
    first = export(recipe())
    write_log([record(2)], "b")
    with (folder / f"a{SUFFIX}").open("ab") as file:
        file.write(frame(b'{"torn'))
    assert export(recipe()) == first
    (folder / f"a{SUFFIX}").unlink()  # compaction takes segments away
    assert [e.decision_id for e in export(recipe(export={"max_records": 1}))[1]] == ["d000001"]
    assert [e.decision_id for e in export(recipe(), start="export")[1]] == ["d000002"]


def test_evaluation_set_is_checked_before_anything_is_exported(
    recipe: Callable[..., Recipe], record: Make, write_log: Callable[..., Path], tmp_path: Path
) -> None:
    write_log([record(0)])
    with pytest.raises(StageError, match=r"evaluate\.sha256: .* has the hash"):
        export(recipe(evaluate={"sha256": "0" * 64}))
    assert not (tmp_path / "runs" / "test" / "export").exists()
    export(recipe())
    dataset = tmp_path / "evaluation.jsonl"
    dataset.write_text(dataset.read_text() + "\n")
    with pytest.raises(StageError, match=r"evaluate\.sha256: .* has the hash"):
        export(recipe(evaluate={"sha256": "0" * 64}))
    changed = recipe(evaluate={"sha256": sha256_of(dataset)})
    with pytest.raises(StageError, match="pinned before anything is exported"):
        export(changed)
    export(changed, start="export")


def test_missing_and_empty_logs_are_named(
    recipe: Callable[..., Recipe], write_log: Callable[..., Path], tmp_path: Path
) -> None:
    with pytest.raises(StageError, match=r"export\.log_dir: .*traffic does not exist"):
        export(recipe())
    (tmp_path / "traffic").mkdir()
    with pytest.raises(StageError, match=r"export\.log_dir: .* has no records"):
        export(recipe())


def test_export_that_drops_everything_says_why(
    recipe: Callable[..., Recipe], record: Make, write_log: Callable[..., Path]
) -> None:
    write_log(
        [record(i, capture="metadata", request=None, completion=None) for i in range(3)] + [record(9, purpose="eval")]
    )
    with pytest.raises(StageFailed) as caught:
        export(recipe())
    assert "3 dropped as capture (log.capture" in str(caught.value)
    assert "1 dropped as purpose" in str(caught.value)


def test_messages_keep_the_fields_of_the_client(
    recipe: Callable[..., Recipe], record: Make, write_log: Callable[..., Path]
) -> None:
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "name": "ann", "content": "Hé?"}]
    write_log([record(0, messages=messages)])
    assert json.loads(export(recipe())[1][0].messages) == messages
