"""Job: what a model would have said at every token of given answers, to compare a quantized model with its twin."""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from trainer.jobs import protocol
from trainer.jobs.models import load_model
from trainer.jobs.spec import PredictSpec
from trainer.jobs.supervised import positions
from trainer.jobs.token_data import TokenRows, collate
from trainer.stage import Progress


@torch.no_grad()
def run(spec: PredictSpec, progress: Progress) -> protocol.Result:
    """Returns examples: a list of {prompt_ids, completion_ids, best}, `best` as long as completion_ids."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    rows = TokenRows(Path(spec.rows), max_tokens=spec.max_tokens, with_heads=False)
    model = load_model(Path(spec.model), torch.bfloat16).to(device).eval()
    head = model.get_output_embeddings()
    step = max(1, len(rows) // spec.max_examples)
    chosen = list(range(0, len(rows), step))[: spec.max_examples]
    examples = []
    for done, index in enumerate(chosen, 1):
        batch = collate(rows, [index], pad_id=0)
        found = positions(model, batch.input_ids.to(device), batch.attention_mask.to(device), batch.labels.to(device))
        prompt, completion = rows.example(index)
        examples.append(
            {"prompt_ids": prompt.tolist(), "completion_ids": completion.tolist(),
             "best": head(found.hidden).argmax(dim=1).tolist()}
        )  # fmt: skip
        progress(done, len(chosen), "answers read")
    return {"examples": examples}


if __name__ == "__main__":
    sys.exit(protocol.main(PredictSpec, run))
