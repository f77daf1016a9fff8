"""How a trained model does on held-out rows: loss, and against the teacher's distributions KL and agreement."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch

from trainer import loss
from trainer.jobs.models import load_model
from trainer.jobs.spec import TrainSpec
from trainer.jobs.supervised import autocast, chunks, positions
from trainer.jobs.token_data import TokenRows, collate
from trainer.stage import Progress

if TYPE_CHECKING:
    from transformers import PreTrainedModel

BATCH = 32


def validate(model_folder: Path, spec: TrainSpec, progress: Progress) -> dict[str, float | int]:
    """Measure the model as it was saved, in its own type.

    Returns:
        tokens; cross_entropy (nats per token) and perplexity's logarithm alike; with distributions also kl (nats per
        token, the K + 1 buckets at T = 1) and agreement (share of tokens where the most likely token is the same).
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = load_model(model_folder, torch.float32).to(device).eval()
    path = Path(spec.validation or "")
    rows = TokenRows(path, max_tokens=spec.max_tokens, with_heads=spec.method == "topk")
    return measure(model, rows, progress, bfloat16=spec.precision == "bfloat16")


@torch.no_grad()
def measure(model: PreTrainedModel, rows: TokenRows, progress: Progress, *, bfloat16: bool) -> dict[str, float | int]:
    device = next(model.parameters()).device
    context = autocast(device, bfloat16)
    head = model.get_output_embeddings()
    tokens = taught = agreed = correct = 0
    cross_entropy = divergence = 0.0
    order = sorted(range(len(rows)), key=lambda index: -int(rows.lengths[index]))
    for start in range(0, len(order), BATCH):
        batch = collate(rows, order[start : start + BATCH], pad_id=0)
        with context():
            found = positions(
                model, batch.input_ids.to(device), batch.attention_mask.to(device), batch.labels.to(device)
            )
            columns = [found.hidden, found.targets]
            if batch.head_ids is not None and batch.head_logprobs is not None and batch.corrected is not None:
                columns += [batch.head_ids.to(device), batch.head_logprobs.to(device), ~batch.corrected.to(device)]
            for hidden, targets, *known in chunks(tuple(columns)):
                logits = head(hidden).float()
                cross_entropy += float(loss.cross_entropy(logits, targets).sum())
                best = logits.argmax(dim=1)
                correct += int((best == targets).sum())
                if known:
                    ids, logprobs, usable = known
                    divergence += float((loss.decoupled(logits, ids, logprobs, 1.0) * usable).sum())
                    agreed += int(((best == ids[:, 0]) & usable).sum())
                    taught += int(usable.sum())
        tokens += len(found.targets)
        progress(min(start + BATCH, len(order)), len(order), "validation examples")
    result: dict[str, float | int] = {
        "tokens": tokens,
        "cross_entropy": cross_entropy / tokens,
        "token_accuracy": correct / tokens,
    }
    if taught:
        result |= {"kl": divergence / taught, "agreement": agreed / taught}
    return result
