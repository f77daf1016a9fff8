"""Encoding with a real tokenizer and chat template, and depth pruning of a real (tiny) model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("trl")  # first: torch alone, which takes seconds, is elsewhere as well
torch = pytest.importorskip("torch")

import pyarrow.parquet as pq  # noqa: E402

from tests.trainer.jobs import tiny  # noqa: E402
from trainer import prune  # noqa: E402
from trainer.jobs import encode, models  # noqa: E402
from trainer.jobs.spec import EncodeSpec  # noqa: E402
from trainer.stage import StageError  # noqa: E402

pytestmark = pytest.mark.train
ASKED = json.dumps([{"role": "user", "content": "hi"}])


def silent(done: int, total: int | None, unit: str) -> None:
    return None


def run(
    model: Path, tmp_path: Path, rows: list[dict[str, Any]], **more: Any
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    examples = tiny.write_examples(tmp_path / "examples.parquet", rows)
    out = tmp_path / "out.parquet"
    result = encode.run(EncodeSpec(model=str(model), examples=str(examples), out=str(out), **more), silent)
    return dict(result), pq.read_table(out).to_pylist()


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.build_model(tmp_path_factory.mktemp("model"))


def text_of(model: Path, ids: list[int]) -> str:
    return str(models.load_tokenizer(model).decode(ids))


def test_prompt_is_the_template_and_the_answer_ends_with_the_stop_token(model: Path, tmp_path: Path) -> None:
    _, rows = run(model, tmp_path, [{"messages": ASKED, "completion": "héllo"}])
    assert text_of(model, rows[0]["prompt_ids"]) == "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
    assert text_of(model, rows[0]["completion_ids"]) == "héllo<|im_end|>"
    assert rows[0]["completion_ids"].count(1) == 1


def test_correction_replaces_the_answer_and_marks_the_row(model: Path, tmp_path: Path) -> None:
    result, rows = run(model, tmp_path, [{"messages": ASKED, "completion": "no", "correction": "yes"}])
    assert rows[0]["corrected"] and text_of(model, rows[0]["completion_ids"]) == "yes<|im_end|>"
    assert result["corrected"] == 1


def test_recorded_ids_are_taken_as_they_are_and_closed(model: Path, tmp_path: Path) -> None:
    given = [
        {
            "messages": ASKED,
            "completion": text_of(model, [20, 21]),
            "prompt_ids": [9, 9, 9],
            "completion_ids": [20, 21],
        },
        {"messages": ASKED, "completion": text_of(model, [20]), "prompt_ids": [9, 9], "completion_ids": [20, 1]},
        {"messages": ASKED, "completion": "x"},
    ]
    result, rows = run(model, tmp_path, given, teacher=str(model))
    assert [row["prompt_ids"] for row in rows[:2]] == [[9, 9, 9], [9, 9]]
    assert [row["completion_ids"] for row in rows[:2]] == [[20, 21, 1], [20, 1]]
    assert result["rendered"] == 1 and result["other_template"] is False
    assert rows[0]["teacher_prompt_ids"] == [9, 9, 9]


@pytest.mark.parametrize(
    ("recorded", "own", "closed"),
    [
        ([20, 1], [1], [20, 1]),  # the student's own
        ([20, 257], [1, 257], [20, 257]),  # another one at which the student stops as well: as the teacher emitted it
        ([20, 257], [1], [20, 1]),  # the teacher's alone: the student would never stop at it
        ([20, 257, 1], [1], [20, 1]),
        ([20, 1, 1], [1], [20, 1]),
        ([20], [1], [20, 1]),  # an endpoint that leaves it out
    ],
)
def test_answer_is_closed_by_one_stop_token_at_which_the_student_stops(
    tmp_path: Path, recorded: list[int], own: list[int], closed: list[int]
) -> None:
    for name, stops in (("student", own), ("teacher", [1, 257])):
        tiny.build_tokenizer(tmp_path / name)
        (tmp_path / name / "generation_config.json").write_text(json.dumps({"eos_token_id": stops}))
    text = text_of(tmp_path / "student", [20])
    given = [{"messages": ASKED, "completion": text, "prompt_ids": [9, 9], "completion_ids": recorded}]
    result, rows = run(tmp_path / "student", tmp_path, given, teacher=str(tmp_path / "teacher"))
    assert rows[0]["completion_ids"] == closed
    assert result["misspelled"] == result["rendered"] == 0


def test_stop_token_that_stands_in_the_text_is_not_doubled(model: Path, tmp_path: Path) -> None:
    _, rows = run(model, tmp_path, [{"messages": ASKED, "completion": "yes<|im_end|>"}])
    assert text_of(model, rows[0]["completion_ids"]) == "yes<|im_end|>"


def test_recorded_ids_with_a_stop_token_in_the_middle_give_way_to_the_text(model: Path, tmp_path: Path) -> None:
    text = text_of(model, [20, 21])
    given = [{"messages": ASKED, "completion": text, "prompt_ids": [9, 9], "completion_ids": [20, 1, 21, 1]}]
    result, rows = run(model, tmp_path, given, teacher=str(model))
    assert result["misspelled"] == 1
    assert rows[0]["completion_ids"] == [20, 21, 1]


@pytest.mark.parametrize("ids", [[20, 21, 1], [70_000, 1], [-1]])
def test_recorded_ids_of_another_vocabulary_give_way_to_the_text(model: Path, tmp_path: Path, ids: list[int]) -> None:
    given = [{"messages": ASKED, "completion": "hello", "prompt_ids": [9, 9], "completion_ids": ids}]
    result, rows = run(model, tmp_path, given, teacher=str(model))
    assert text_of(model, rows[0]["completion_ids"]) == "hello<|im_end|>"
    assert text_of(model, rows[0]["prompt_ids"]).startswith("<|im_start|>user\nhi")
    assert rows[0]["teacher_prompt_ids"] == rows[0]["prompt_ids"]
    assert result["misspelled"] == result["rendered"] == 1


def test_each_model_gets_its_own_prompt_when_the_templates_differ(model: Path, tmp_path: Path) -> None:
    teacher = tmp_path / "teacher"
    tiny.build_tokenizer(teacher, template="T: {{ messages[0]['content'] }} >")
    spelled = text_of(model, [20])
    given = [{"messages": ASKED, "completion": spelled, "prompt_ids": [9, 9], "completion_ids": [20, 1]}]
    result, rows = run(model, tmp_path, [*given, {"messages": ASKED, "completion": "x"}], teacher=str(teacher))
    assert result["other_template"] is True
    assert rows[0]["prompt_ids"] == rows[1]["prompt_ids"] and rows[0]["teacher_prompt_ids"] == [9, 9]
    assert text_of(model, rows[1]["teacher_prompt_ids"]) == "T: hi >"


def test_rows_that_are_too_long_or_no_chat_are_counted(model: Path, tmp_path: Path) -> None:
    given = [{"messages": "not json", "completion": "x"}, {"messages": ASKED, "completion": "x" * 500}]
    result, rows = run(model, tmp_path, [*given, {"messages": ASKED, "completion": "x"}], max_tokens=100)
    assert (result["rows"], result["too_long"], result["unreadable"]) == (1, 1, 1) and len(rows) == 1


def test_double_beginning_of_sequence_is_refused() -> None:
    assert encode.check_bos([5, 6], 5, "m") == [5, 6]
    with pytest.raises(StageError, match="add_bos_token"):
        encode.check_bos([5, 5, 6], 5, "m")


def test_tokenizer_without_a_template_is_refused(tmp_path: Path) -> None:
    tiny.build_tokenizer(tmp_path / "bare", template=None)
    with pytest.raises(StageError, match="no chat template"):
        run(tmp_path / "bare", tmp_path, [{"messages": ASKED, "completion": "x"}])


def test_kept_layers_compute_what_they_did_and_survive_saving(model: Path, tmp_path: Path) -> None:
    whole = models.load_model(model, torch.float32)
    names = [name for name, _ in whole.model.layers[2].named_parameters()]
    expected = {name: whole.model.layers[2].get_parameter(name).clone() for name in names}
    pruned = prune.keep_layers(whole, [0, 2])
    assert pruned.config.num_hidden_layers == 2
    assert [layer.self_attn.layer_idx for layer in pruned.model.layers] == [0, 1]
    for name, value in expected.items():
        assert torch.equal(pruned.model.layers[1].get_parameter(name), value)
    ids = torch.tensor([[3, 4, 5, 6]])
    logits = pruned(ids).logits
    cached = pruned(ids[:, :3], use_cache=True)
    step = pruned(ids[:, 3:], past_key_values=cached.past_key_values).logits
    torch.testing.assert_close(step[:, 0], logits[:, 3], atol=1e-5, rtol=1e-4)
    models.save_model(pruned, model, tmp_path / "pruned")
    again = models.load_model(tmp_path / "pruned", torch.float32)
    assert tiny.config_of(tmp_path / "pruned")["num_hidden_layers"] == 2
    torch.testing.assert_close(again(ids).logits, logits)


@pytest.mark.parametrize("layers", [[], [1, 0], [0, 0], [0, 4], [-1, 2]])
def test_layers_that_do_not_exist_or_ascend_are_refused(model: Path, layers: list[int]) -> None:
    with pytest.raises(StageError, match=r"student\.layers"):
        prune.keep_layers(models.load_model(model, torch.float32), layers)


def test_random_model_has_the_architecture_and_other_weights(model: Path) -> None:
    trained, random = models.load_model(model, torch.float32), models.random_model(model, torch.float32, seed=5)
    assert random.config.num_hidden_layers == trained.config.num_hidden_layers
    assert not torch.equal(random.get_input_embeddings().weight, trained.get_input_embeddings().weight)
    same = models.random_model(model, torch.float32, seed=5)
    assert torch.equal(random.get_input_embeddings().weight, same.get_input_embeddings().weight)
