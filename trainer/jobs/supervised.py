"""From a model and a batch to the loss of the supervised positions, without logits anywhere else.

With a vocabulary of 49,000 the logits of a whole batch are the largest tensor of a step. Only positions with a label
need them: their hidden states are gathered before the output head, and long batches go through it in chunks that
are computed again in the backward pass.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from trainer import loss
from trainer.jobs.token_data import IGNORED

if TYPE_CHECKING:
    from transformers import PreTrainedModel

CHUNK_POSITIONS = 1024
"""Positions whose logits exist at once: 200 MB in float32 with 49,000 tokens."""


@dataclass(frozen=True)
class Positions:
    """The supervised positions of a batch, in row-major order."""

    hidden: Tensor
    """[N, H] states that predict the targets (those of the token before)."""
    targets: Tensor
    """[N] int64."""


@dataclass(frozen=True)
class Objective:
    """Which loss, with its options; `sft` when `soft` is None."""

    soft: loss.LossName | None
    temperature: float = 1.0
    hard_loss_weight: float = 1.0


def positions(model: PreTrainedModel, input_ids: Tensor, attention_mask: Tensor, labels: Tensor) -> Positions:
    """Run the decoder and gather what is supervised. Shapes: [B, S] each."""
    hidden = model.get_decoder()(input_ids=input_ids, attention_mask=attention_mask, use_cache=False)[0]
    wanted = labels[:, 1:] != IGNORED
    return Positions(hidden[:, :-1][wanted], labels[:, 1:][wanted])


def loss_sum(
    model: PreTrainedModel, found: Positions, objective: Objective, teacher: tuple[Tensor, Tensor, Tensor] | None
) -> Tensor:
    """The loss summed over all positions; divide by the supervised tokens of the optimizer step.

    Args:
        teacher: head ids [N, K], head logprobs [N, K], corrected [N]; None for `sft`.
    """
    head = model.get_output_embeddings()

    def of(hidden: Tensor, targets: Tensor, *known: Tensor) -> Tensor:
        logits = head(hidden)
        if objective.soft is None or not known:
            return loss.cross_entropy(logits, targets).sum()
        return loss.distillation(
            logits, targets, *known, name=objective.soft, temperature=objective.temperature,
            hard_loss_weight=objective.hard_loss_weight,
        ).sum()  # fmt: skip

    columns = (found.hidden, found.targets, *(teacher or ()))
    if len(found.targets) <= CHUNK_POSITIONS:
        return of(*columns)
    parts = [checkpoint(of, *chunk, use_reentrant=False) for chunk in chunks(columns)]
    return torch.stack(parts).sum()


def chunks(columns: tuple[Tensor, ...], size: int = CHUNK_POSITIONS) -> Iterator[tuple[Tensor, ...]]:
    for start in range(0, len(columns[0]), size):
        yield tuple(column[start : start + size] for column in columns)


def autocast(device: torch.device, enabled: bool) -> Callable[[], AbstractContextManager[object]]:
    """bfloat16 matrix products on float32 weights; a fresh context each time, as its cache of casts dies with it."""
    if not enabled:
        return nullcontext
    return lambda: torch.autocast(device.type, dtype=torch.bfloat16)
