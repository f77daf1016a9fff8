"""What the jobs are told: JSON objects, checked when a job starts. Paths are absolute."""

from __future__ import annotations

from typing import Literal

import msgspec


class EncodeSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Text to token ids with a model's own tokenizer and chat template."""

    model: str
    """Folder with the tokenizer."""
    examples: str
    """Parquet by `trainer.rows.example_schema`."""
    out: str
    """Parquet by `trainer.rows.token_schema`, without distributions."""
    teacher: str | None = None
    """Folder with the teacher's tokenizer, which must have the same vocabulary: then ids are taken as recorded where a
    row has them, and `out` has the column teacher_prompt_ids as well."""
    max_tokens: int | None = None
    """Longer examples are left out and counted."""


class TrainSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One training run: from a base model and encoded examples to a model folder."""

    base_model: str
    train: str
    """Parquet by `trainer.rows.token_schema`."""
    out: str
    """Folder: gets model/, train.json, and checkpoints/ while it runs."""
    validation: str | None = None
    layers: tuple[int, ...] | None = None
    init: Literal["pretrained", "random"] = "pretrained"
    method: Literal["sft", "topk"] = "sft"
    loss: Literal["decoupled", "renormalised"] = "decoupled"
    temperature: float = 2.0
    hard_loss_weight: float = 0.3
    adapter: Literal["full", "lora"] = "full"
    lora_rank: int = 16
    lora_scale: float = 32.0
    epochs: float = 3.0
    max_steps: int | None = None
    learning_rate: float = 5e-4
    warmup_share: float = 0.05
    batch_size: int = 16
    micro_batch_size: int | None = None
    freeze_layers: int = 0
    freeze_embeddings: bool = False
    max_tokens: int = 1024
    precision: Literal["float32", "bfloat16"] = "bfloat16"
    threads: int | None = None
    checkpoint_interval_s: float = 60.0
    seed: int = 0


class QuantizeSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One model folder to a quantized one."""

    model: str
    out: str
    """The new model folder; appears whole or not at all."""
    scheme: Literal["W8A8", "W4A16", "AWQ", "FP8"]
    group_size: int | None = None
    calibration: str | None = None
    """Token rows whose prompts and answers calibrate W4A16 and AWQ."""
    calibration_samples: int = 128
    threads: int | None = None


class PredictSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A model's own most likely token at every token of the answers of token rows."""

    model: str
    rows: str
    max_tokens: int
    max_examples: int
