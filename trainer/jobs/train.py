"""Job: one training run, from a base model and token rows to a model folder and train.json.

A run that was killed goes on from its last checkpoint and ends with the same losses, bit for bit on the same machine:
the order of the examples is a function of seed and epoch, and optimizer, schedule and random state are restored.
"""

from __future__ import annotations

import fcntl
import json
import math
import os
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import torch
from peft import LoraConfig, PeftModel

from trainer.jobs import protocol
from trainer.jobs.digests import digest_model
from trainer.jobs.distiller import CHECKPOINTS, Distiller, Reporter, last_checkpoint
from trainer.jobs.models import load_model, load_tokenizer, random_model, save_model, sync_path
from trainer.jobs.spec import TrainSpec
from trainer.jobs.supervised import Objective
from trainer.jobs.token_data import TokenRows, digest_rows
from trainer.jobs.validation import validate
from trainer.jobs.versions import versions
from trainer.prune import decoder_of, freeze, keep_layers
from trainer.stage import Progress, StageError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

LOCK_ATTEMPTS = 20
LOCK_WAIT_S = 0.5
SHORT_TOKENS = 256
"""Up to this length plain attention beats torch's fused one on a CPU: a fifth off a whole step at 40 tokens."""


def run(spec: TrainSpec, progress: Progress) -> protocol.Result:
    """Train (or go on), write `out/model` and `out/train.json`. Raises: StageError."""
    out = Path(spec.out)
    out.mkdir(parents=True, exist_ok=True)
    with _only_one(out):
        if (report := _finished(out, spec)) is not None:
            return report
        return _train(spec, out, progress)


def _train(spec: TrainSpec, out: Path, progress: Progress) -> dict[str, Any]:
    if spec.threads is not None:
        torch.set_num_threads(spec.threads)
    inputs = _input_digests(spec)
    resume = _resume_from(out, spec, inputs)
    topk = spec.method == "topk"
    rows = TokenRows(Path(spec.train), max_tokens=spec.max_tokens, with_heads=topk)
    base = Path(spec.base_model)
    model = build_model(spec)
    usual_attention = model.config._attn_implementation
    if not torch.cuda.is_available() and int(rows.lengths.max()) <= SHORT_TOKENS:
        model.set_attn_implementation("eager")
    parameters = sum(each.numel() for each in model.parameters())
    objective = Objective(spec.loss, spec.temperature, spec.hard_loss_weight) if topk else Objective(None)
    trainer = Distiller(model, spec, rows, objective, load_tokenizer(base), _lora(spec))
    trainer.add_callback(Reporter(spec, progress))
    started_s = time.monotonic()
    trainer.train(resume_from_checkpoint=resume)
    seconds = time.monotonic() - started_s
    losses = [each["loss"] for each in trainer.state.log_history if "loss" in each]
    if not losses or not math.isfinite(losses[-1]):
        raise StageError("the loss is not a number at the end; lower train.learning_rate and run again")
    trained = trainer.model.merge_and_unload() if isinstance(trainer.model, PeftModel) else trainer.model
    report = {
        "spec": msgspec.to_builtins(spec), "inputs": inputs, "versions": versions(), "parameters": parameters,
        "examples": len(rows), "dropped_too_long": rows.dropped, "top_k": rows.k, "steps": trainer.state.global_step,
        "losses": losses, "resumed": resume is not None, "seconds": round(seconds, 1),
        "tokens_per_second": round(trainer.tokens_seen / max(seconds, 1e-9), 1), "threads": torch.get_num_threads(),
    }  # fmt: skip
    trained.set_attn_implementation(usual_attention)
    save_model(trained, base, out / "model")
    if spec.validation is not None:
        report["validation"] = validate(out / "model", spec, progress)
    report["model_sha256"] = digest_model(out / "model")
    _write_json(out / "train.json", report)
    shutil.rmtree(out / CHECKPOINTS, ignore_errors=True)
    return report


def build_model(spec: TrainSpec) -> PreTrainedModel:
    """The student before training, in float32. Raises: StageError."""
    base = Path(spec.base_model)
    random = spec.init == "random"
    model = random_model(base, torch.float32, spec.seed) if random else load_model(base, torch.float32)
    if spec.layers is not None:
        keep_layers(model, spec.layers)
    decoder_of(model)
    freeze(model, spec.freeze_layers, spec.freeze_embeddings)
    return model


def _lora(spec: TrainSpec) -> LoraConfig | None:
    if spec.adapter == "full":
        return None
    return LoraConfig(
        r=spec.lora_rank, lora_alpha=spec.lora_scale, lora_dropout=0.0, bias="none", task_type="CAUSAL_LM",
        target_modules="all-linear",
    )  # fmt: skip


def _input_digests(spec: TrainSpec) -> dict[str, str]:
    files = {"train": spec.train, "validation": spec.validation}
    found = {name: digest_rows(Path(path)) for name, path in files.items() if path is not None}
    return {"base_model": digest_model(Path(spec.base_model)), **found}


def _resume_from(out: Path, spec: TrainSpec, inputs: dict[str, str]) -> str | None:
    """The checkpoint to go on from; an older run with another spec or other data is cleared away."""
    identity = {"spec": msgspec.to_builtins(_without_paths(spec)), "inputs": inputs}
    marker = out / CHECKPOINTS / "run.json"
    if marker.is_file() and json.loads(marker.read_text(encoding="utf-8")) == identity:
        return last_checkpoint(out)
    shutil.rmtree(out / CHECKPOINTS, ignore_errors=True)
    marker.parent.mkdir()
    _write_json(marker, identity)
    return None


def _without_paths(spec: TrainSpec) -> TrainSpec:
    """Without what a moved folder or a busier machine changes; the data itself is known by its hashes."""
    return msgspec.structs.replace(
        spec, base_model="", train="", out="", validation=None, threads=None, checkpoint_interval_s=0.0
    )


def _finished(out: Path, spec: TrainSpec) -> dict[str, Any] | None:
    path = out / "train.json"
    if not path.is_file() or not (out / "model" / "config.json").is_file():
        return None
    report: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    same = _without_paths(msgspec.convert(report["spec"], TrainSpec)) == _without_paths(spec)
    return report if same and report["inputs"] == _input_digests(spec) else None


@contextmanager
def _only_one(out: Path) -> Iterator[None]:
    """Two runs in one folder would mix their checkpoints; a job whose parent died needs a moment to end."""
    with (out / ".lock").open("w", encoding="ascii") as file:
        for attempt in range(LOCK_ATTEMPTS):
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as exc:
                if attempt == LOCK_ATTEMPTS - 1:
                    raise StageError(f"{out}: another training run is writing here; wait for it or stop it") from exc
                time.sleep(LOCK_WAIT_S)
        yield


def _write_json(path: Path, value: Any) -> None:
    partial = path.with_name(f".{path.name}.partial")
    with partial.open("w", encoding="utf-8") as file:
        json.dump(value, file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
    sync_path(path.parent)


if __name__ == "__main__":
    sys.exit(protocol.main(TrainSpec, run))
