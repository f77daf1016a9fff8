"""Training runs on a tiny random model: real TRL, real PEFT, real checkpoints."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("trl")  # first: torch alone, which takes seconds, is elsewhere as well
torch = pytest.importorskip("torch")

import msgspec  # noqa: E402
import numpy as np  # noqa: E402
import pyarrow as pa  # noqa: E402
import pyarrow.parquet as pq  # noqa: E402

from tests.trainer.jobs import tiny  # noqa: E402
from trainer.jobs import models, train  # noqa: E402
from trainer.jobs.supervised import Objective, loss_sum, positions  # noqa: E402
from trainer.jobs.token_data import LengthBuckets, TokenRows, collate  # noqa: E402
from trainer.rows import token_schema  # noqa: E402
from trainer.stage import StageError  # noqa: E402

pytestmark = pytest.mark.train
ROOT = Path(__file__).parents[3]


def silent(done: int, total: int | None, unit: str) -> None:
    return None


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.build_model(tmp_path_factory.mktemp("base"))


def test_training_lowers_the_loss_and_leaves_a_loadable_model_when_it_ends(base: Path, tmp_path: Path) -> None:
    rows = tiny.write_rows(tmp_path / "rows.parquet", 16)
    spec = tiny.spec_of(base, rows, tmp_path / "out", epochs=30, validation=str(rows))
    report = train.run(spec, silent)
    assert report["losses"][-1] < 0.5 * report["losses"][0]
    assert report["steps"] == len(report["losses"]) == 120
    assert report["validation"]["cross_entropy"] < 0.5 * report["losses"][0]
    assert not (tmp_path / "out" / "checkpoints").exists()
    assert json.loads((tmp_path / "out" / "train.json").read_text()) == json.loads(json.dumps(report))
    model = tmp_path / "out" / "model"
    assert (model / "tokenizer.json").read_bytes() == (base / "tokenizer.json").read_bytes()
    assert (model / "chat_template.jinja").read_bytes() == (base / "chat_template.jinja").read_bytes()
    models.load_model(model, torch.float32)


def test_finished_run_is_returned_at_once_when_nothing_has_changed(base: Path, tmp_path: Path) -> None:
    rows = tiny.write_rows(tmp_path / "rows.parquet", 8)
    spec = tiny.spec_of(base, rows, tmp_path / "out", max_steps=2)
    first = train.run(spec, silent)
    stamp = (tmp_path / "out" / "model" / "model.safetensors").stat().st_mtime_ns
    assert train.run(spec, silent) == json.loads(json.dumps(first))
    assert (tmp_path / "out" / "model" / "model.safetensors").stat().st_mtime_ns == stamp
    changed = train.run(msgspec.structs.replace(spec, learning_rate=1e-3), silent)
    assert changed["losses"][1] != first["losses"][1]


def test_killed_run_goes_on_with_the_same_losses_bit_for_bit(base: Path, tmp_path: Path) -> None:
    rows = tiny.write_rows(tmp_path / "rows.parquet", 30, k=4, corrected=3)
    options = {"epochs": 6, "method": "topk", "micro_batch_size": 2, "precision": "bfloat16"}
    whole = train.run(tiny.spec_of(base, rows, tmp_path / "whole", **options), silent)
    spec = tiny.spec_of(base, rows, tmp_path / "killed", checkpoint_interval_s=0.2, **options)
    file = tmp_path / "spec.json"
    file.write_bytes(msgspec.json.encode(spec))
    with subprocess.Popen(
        [sys.executable, "-m", "trainer.jobs.train", str(file)], cwd=ROOT, stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        for line in process.stdout:
            if b'"progress"' in line and list((tmp_path / "killed" / "checkpoints").glob("checkpoint-*")):
                os.kill(process.pid, signal.SIGKILL)
                break
    assert not (tmp_path / "killed" / "model").exists()
    report = train.run(spec, silent)
    assert report["resumed"] is True
    assert report["losses"] == whole["losses"]
    assert report["model_sha256"] == whole["model_sha256"]


def test_checkpoint_of_other_data_is_not_taken(base: Path, tmp_path: Path) -> None:
    rows = tiny.write_rows(tmp_path / "rows.parquet", 12)
    spec = tiny.spec_of(base, rows, tmp_path / "out", max_steps=6, checkpoint_interval_s=0.0001)
    checkpoints = tmp_path / "out" / "checkpoints"
    (checkpoints / "checkpoint-4").mkdir(parents=True)
    (checkpoints / "run.json").write_text("{}")
    assert train.run(spec, silent)["resumed"] is False


def test_lora_is_merged_into_the_base_when_training_ends(base: Path, tmp_path: Path) -> None:
    rows = tiny.write_rows(tmp_path / "rows.parquet", 8)
    report = train.run(tiny.spec_of(base, rows, tmp_path / "out", adapter="lora", lora_rank=4, epochs=10), silent)
    assert report["losses"][-1] < report["losses"][0]
    merged = models.load_model(tmp_path / "out" / "model", torch.float32)
    assert not [name for name, _ in merged.named_parameters() if "lora" in name]
    start = models.load_model(base, torch.float32)
    before, after = dict(start.named_parameters()), dict(merged.named_parameters())
    changed = {name for name, value in after.items() if not torch.equal(value, before[name])}
    assert any("q_proj" in name for name in changed)
    assert not any("embed" in name or "norm" in name for name in changed)


def test_frozen_layers_and_embeddings_stay_as_they_were(base: Path, tmp_path: Path) -> None:
    rows = tiny.write_rows(tmp_path / "rows.parquet", 8)
    spec = tiny.spec_of(base, rows, tmp_path / "out", freeze_layers=2, freeze_embeddings=True, max_steps=3)
    train.run(spec, silent)
    before = dict(models.load_model(base, torch.float32).named_parameters())
    after = dict(models.load_model(tmp_path / "out" / "model", torch.float32).named_parameters())
    frozen = {name for name, value in after.items() if torch.equal(value, before[name])}
    assert frozen == {name for name in after if "embed" in name or ".layers.0." in name or ".layers.1." in name}


@pytest.mark.parametrize("method", ["sft", "topk"])
def test_step_does_not_depend_on_how_it_is_cut_into_micro_batches(base: Path, tmp_path: Path, method: str) -> None:
    """The denominator is the supervised tokens of the whole step, though micro batches hold different numbers of them."""
    rows = tiny.write_rows(tmp_path / "rows.parquet", 24, k=5, corrected=4)
    losses = []
    for micro in (8, 4, 1):
        spec = tiny.spec_of(
            base, rows, tmp_path / f"out-{micro}", method=method, batch_size=8, micro_batch_size=micro, max_steps=4
        )
        losses.append(train.run(spec, silent)["losses"])
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)
    assert losses[2] == pytest.approx(losses[0], rel=1e-4)


def test_loss_is_that_of_the_whole_logits_when_only_supervised_positions_are_computed(
    base: Path, tmp_path: Path
) -> None:
    """Against transformers' own loss: the same shift by one, the same mask, the stop token supervised."""
    rows = TokenRows(tiny.write_rows(tmp_path / "rows.parquet", 6), max_tokens=64, with_heads=False)
    model = models.load_model(base, torch.float32)
    batch = collate(rows, range(6), pad_id=1)
    expected = model(input_ids=batch.input_ids, attention_mask=batch.attention_mask, labels=batch.labels).loss
    found = positions(model, batch.input_ids, batch.attention_mask, batch.labels)
    assert len(found.targets) == int((batch.labels != -100).sum())
    assert int((found.targets == 1).sum()) == 6
    torch.testing.assert_close(loss_sum(model, found, Objective(None), None) / len(found.targets), expected)


def test_chunked_loss_has_the_same_value_and_gradient(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = TokenRows(tiny.write_rows(tmp_path / "rows.parquet", 9, k=3, corrected=2), max_tokens=64, with_heads=True)
    batch = collate(rows, range(9), pad_id=1)
    gradients = []
    for size in (1024, 4):
        monkeypatch.setattr("trainer.jobs.supervised.CHUNK_POSITIONS", size)
        model = models.load_model(base, torch.float32)
        found = positions(model, batch.input_ids, batch.attention_mask, batch.labels)
        teacher = (batch.head_ids, batch.head_logprobs, batch.corrected)
        total = loss_sum(model, found, Objective("decoupled", 2.0, 0.3), teacher)
        total.backward()
        gradients.append((total.detach(), model.get_input_embeddings().weight.grad))
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-4, atol=1e-5)


def test_padding_changes_no_loss(base: Path, tmp_path: Path) -> None:
    rows = TokenRows(tiny.write_rows(tmp_path / "rows.parquet", 5), max_tokens=64, with_heads=False)
    model = models.load_model(base, torch.float32)

    def total(indices: list[int]) -> float:
        batch = collate(rows, indices, pad_id=7)
        found = positions(model, batch.input_ids, batch.attention_mask, batch.labels)
        return float(loss_sum(model, found, Objective(None), None).detach())

    assert total([0, 1, 2, 3, 4]) == pytest.approx(sum(total([index]) for index in range(5)), rel=1e-5)


def test_order_covers_every_example_once_and_depends_on_the_epoch() -> None:
    lengths = np.random.default_rng(0).integers(5, 200, 1003)
    sampler = LengthBuckets(lengths, 16, seed=3)
    first = list(sampler)
    assert sorted(first) == list(range(1003)) and first == list(sampler)
    sampler.set_epoch(1)
    assert sorted(sampler) == list(range(1003)) and list(sampler) != first
    padded = sum(max(lengths[first[i : i + 16]]) * len(first[i : i + 16]) for i in range(0, 1003, 16))
    assert padded < 1.1 * lengths.sum()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_size": 4, "micro_batch_size": 3}, "micro_batch_size: 3 does not divide"),
        ({"freeze_layers": 4}, "leaves nothing to train"),
        ({"layers": (0, 9)}, "ascending numbers below 4"),
        ({"max_tokens": 3}, "no example is left"),
        ({"method": "topk"}, "use method = 'sft'"),
        ({"learning_rate": 1e30}, "not a number"),
    ],
)
def test_training_refuses_with_the_field_and_the_fix(base: Path, tmp_path: Path, changes, message: str) -> None:
    rows = tiny.write_rows(tmp_path / "rows.parquet", 8)
    with pytest.raises(StageError, match=message):
        train.run(tiny.spec_of(base, rows, tmp_path / "out", max_steps=40, **changes), silent)
    assert not (tmp_path / "out" / "model").exists()


def test_row_with_a_token_without_a_distribution_is_named(tmp_path: Path) -> None:
    path = tiny.write_rows(tmp_path / "rows.parquet", 4, k=2)
    rows = pq.read_table(path).to_pylist()
    rows[1]["head_logprobs"][-2:] = [float("-inf")] * 2
    for row in rows:
        row["head_logprobs"] = np.asarray(row["head_logprobs"], np.float16)
    pq.write_table(pa.Table.from_pylist(rows, schema=token_schema()), path)
    with pytest.raises(StageError, match="row 1 has a token without a distribution"):
        TokenRows(path, max_tokens=64, with_heads=True)
    assert len(TokenRows(path, max_tokens=64, with_heads=False)) == 4  # `sft` reads no distributions


def test_truncated_model_file_is_named(tmp_path: Path) -> None:
    broken = tiny.build_model(tmp_path / "broken")
    weights = broken / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    rows = tiny.write_rows(tmp_path / "rows.parquet", 8)
    with pytest.raises(StageError, match="broken: the model cannot be read"):
        train.run(tiny.spec_of(broken, rows, tmp_path / "out"), silent)
    weights.unlink()
    with pytest.raises(StageError, match="broken: the model cannot be read"):
        train.run(tiny.spec_of(broken, rows, tmp_path / "out"), silent)
    with pytest.raises(StageError, match=r"not a model folder.*config\.json"):
        train.run(tiny.spec_of(tmp_path, rows, tmp_path / "out"), silent)


def test_second_run_in_the_same_folder_is_refused(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train, "LOCK_WAIT_S", 0.0)
    rows = tiny.write_rows(tmp_path / "rows.parquet", 8)
    out = tmp_path / "out"
    out.mkdir()
    with train._only_one(out), pytest.raises(StageError, match="another training run"):
        train.run(tiny.spec_of(base, rows, out), silent)
