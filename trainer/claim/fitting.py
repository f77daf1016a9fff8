"""Models that are trained beside the main run, through the trainer's own jobs: the teacher, the baselines."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import msgspec

from trainer.claim.data import Case
from trainer.claim.settings import Settings
from trainer.environments import run_job
from trainer.jobs.spec import EncodeSpec, TrainSpec
from trainer.rows import example_schema
from trainer.stage import Progress

NOT_WEIGHTS = ("threads", "out", "train", "checkpoint_interval_s")
"""Members of a spec that say where and how fast, not what comes out."""


def teacher_spec(settings: Settings, base: Path, tokens: Path, out: Path) -> TrainSpec:
    """The teacher: full fine-tuning on labels; the lowest layers and the embeddings stay (quicker)."""
    size = settings.size
    return TrainSpec(
        base_model=str(base),
        train=str(tokens),
        out=str(out),
        method="sft",
        epochs=size.teacher_epochs,
        learning_rate=size.teacher_learning_rate,
        freeze_layers=6,
        freeze_embeddings=True,
        threads=len(settings.cores),
    )


def fitted_teacher(settings: Settings, base: Path, cases: Sequence[Case], progress: Progress) -> Path:
    """The teacher's folder, from the cache or trained now; interrupted, it goes on where it was.

    The cache's key is what decides the weights: the base model, the labels and the hyperparameters, not the threads.
    """
    spec = teacher_spec(settings, base, Path("tokens"), Path("out"))
    settled = {key: value for key, value in msgspec.to_builtins(spec).items() if key not in NOT_WEIGHTS}
    settled["base_model"] = base.name
    labels = [[case.text, case.label] for case in cases]
    key = hashlib.sha256(json.dumps([settled, labels], sort_keys=True).encode()).hexdigest()[:12]
    folder = settings.cache / "claim" / f"teacher-{key}"
    model = folder / "model"
    if not (folder / "train.json").exists():
        tokens = encoded(cases, base, folder, progress)
        run_job("train", "trainer.jobs.train", teacher_spec(settings, base, tokens, folder), progress=progress)
    return model


def encoded(cases: Sequence[Case], base: Path, folder: Path, progress: Progress) -> Path:
    """Labelled cases as token ids: the label is the answer."""
    import pyarrow as pa  # noqa: PLC0415 - heavy
    import pyarrow.parquet as pq  # noqa: PLC0415

    folder.mkdir(parents=True, exist_ok=True)
    tokens = folder / "tokens.parquet"
    if tokens.exists():
        return tokens
    examples = folder / "examples.parquet"
    empty = dict.fromkeys(example_schema().names)
    rows = [
        empty
        | {"decision_id": case.id, "messages": json.dumps(case.messages), "completion": case.label, "label": case.label}
        for case in cases
    ]
    pq.write_table(pa.Table.from_pylist(rows, schema=example_schema()), examples)
    partial = tokens.with_suffix(".partial")
    run_job(
        "train",
        "trainer.jobs.encode",
        EncodeSpec(model=str(base), examples=str(examples), out=str(partial)),
        progress=progress,
    )
    partial.replace(tokens)
    return tokens
