"""`Distiller`: TRL's SFTTrainer with the loss over stored distributions, and checkpoints that survive kill -9."""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import datasets
import torch
from torch import Tensor
from torch.utils.data import Sampler
from transformers import PreTrainedModel, PrinterCallback, TrainerCallback, TrainerControl, TrainerState
from transformers.trainer_utils import get_last_checkpoint
from trl import SFTConfig, SFTTrainer

from trainer.jobs.models import sync_folder, sync_path
from trainer.jobs.spec import TrainSpec
from trainer.jobs.supervised import Objective, autocast, loss_sum, positions
from trainer.jobs.token_data import LengthBuckets, TokenRows, collate, steps_of
from trainer.stage import Progress, StageError

CHECKPOINTS = "checkpoints"
FUSED_OPTIMIZER = "adamw_torch_fused"


class Distiller(SFTTrainer):
    """Trains on token rows. What a step costs and returns is independent of how it is cut into micro batches."""

    def __init__(
        self, model: PreTrainedModel, spec: TrainSpec, rows: TokenRows, objective: Objective, tokenizer: Any, peft: Any
    ) -> None:
        self._rows = rows
        self._objective = objective
        self._spec = spec
        self._pad_id = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
        self.tokens_seen = 0
        """Tokens of this process's batches, without padding."""
        super().__init__(
            model=model,
            args=_arguments(spec, len(rows)),
            data_collator=self._collate,
            train_dataset=datasets.Dataset.from_dict({"row": list(range(len(rows)))}),
            processing_class=tokenizer,
            peft_config=peft,
        )
        # compute_loss divides by the supervised tokens of the whole step, which the base class then counts.
        self.model_accepts_loss_kwargs = True
        self.loss_is_scaled_for_ga = True
        self.remove_callback(PrinterCallback)
        self._autocast = autocast(self.args.device, spec.precision == "bfloat16")

    def compute_loss(
        self, model: Any, inputs: dict[str, Tensor], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Tensor:
        plain = self.accelerator.unwrap_model(model)
        plain = plain.get_base_model() if hasattr(plain, "get_base_model") else plain
        teacher = (inputs["head_ids"], inputs["head_logprobs"], inputs["corrected"]) if "head_ids" in inputs else None
        with self._autocast():
            found = positions(plain, inputs["input_ids"], inputs["attention_mask"], inputs["labels"])
            total = loss_sum(plain, found, self._objective, teacher)
        self.tokens_seen += int(inputs["attention_mask"].sum())
        count = num_items_in_batch if num_items_in_batch is not None else len(found.targets)
        scale = self.accelerator.num_processes if self.args.average_tokens_across_devices else 1
        return total * scale / count

    def _collate(self, examples: Sequence[dict[str, int]]) -> dict[str, Tensor]:
        batch = collate(self._rows, [each["row"] for each in examples], self._pad_id)
        return {name: value for name, value in vars(batch).items() if value is not None}

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler[int]:
        return LengthBuckets(self._rows.lengths, self._spec.batch_size, self._spec.seed)

    def _get_output_dir(self, trial: Any) -> str:
        return str(Path(self.args.output_dir) / ".partial")

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """Write to one side, sync, rename; only then forget the checkpoint before."""
        folder = Path(self.args.output_dir)
        shutil.rmtree(folder / ".partial", ignore_errors=True)
        super()._save_checkpoint(model, trial)
        name = f"checkpoint-{self.state.global_step}"
        sync_folder(folder / ".partial")
        shutil.rmtree(folder / name, ignore_errors=True)
        (folder / ".partial" / name).rename(folder / name)
        sync_path(folder)
        for old in folder.glob("checkpoint-*"):
            if old.name != name:
                shutil.rmtree(old)


class Reporter(TrainerCallback):
    """Progress with the loss, a checkpoint every so often, and an end when the loss is not a number any more."""

    def __init__(self, spec: TrainSpec, progress: Progress) -> None:
        self._interval_s = spec.checkpoint_interval_s
        self._progress = progress
        self._saved_s = time.monotonic()

    def on_step_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> TrainerControl:
        if time.monotonic() - self._saved_s >= self._interval_s and state.global_step < state.max_steps:
            control.should_save = True
        return control

    def on_save(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self._saved_s = time.monotonic()

    def on_log(self, args: Any, state: TrainerState, control: TrainerControl, logs: Any = None, **kwargs: Any) -> None:
        if logs and "loss" in logs:
            if logs["loss"] != logs["loss"]:
                raise StageError("the loss is not a number any more; lower train.learning_rate and run again")
            self._progress(state.global_step, state.max_steps, f"steps, loss {logs['loss']:.4f}")


def last_checkpoint(out: Path) -> str | None:
    """The checkpoint that a killed run has left, if any."""
    folder = out / CHECKPOINTS
    return get_last_checkpoint(str(folder)) if folder.is_dir() else None


def _arguments(spec: TrainSpec, examples: int) -> SFTConfig:
    micro = spec.micro_batch_size or spec.batch_size
    if spec.batch_size % micro:
        raise StageError(f"train.micro_batch_size: {micro} does not divide batch_size {spec.batch_size}")
    steps = steps_of(examples, spec.batch_size, spec.epochs, spec.max_steps)
    return SFTConfig(
        output_dir=str(Path(spec.out) / CHECKPOINTS),
        max_steps=steps,
        per_device_train_batch_size=micro,
        gradient_accumulation_steps=spec.batch_size // micro,
        learning_rate=spec.learning_rate,
        lr_scheduler_type="linear",
        warmup_steps=round(spec.warmup_share * steps),
        optim=FUSED_OPTIMIZER,
        seed=spec.seed,
        use_cpu=not torch.cuda.is_available(),
        # Autocast is entered in compute_loss, on CPU and GPU alike.
        bf16=False,
        gradient_checkpointing=False,
        logging_steps=1,
        logging_nan_inf_filter=False,
        save_strategy="no",
        eval_strategy="no",
        report_to="none",
        disable_tqdm=True,
        remove_unused_columns=False,
        dataset_kwargs={"skip_prepare_dataset": True},
        max_length=None,
        dataloader_num_workers=0,
        dataloader_pin_memory=torch.cuda.is_available(),
    )
