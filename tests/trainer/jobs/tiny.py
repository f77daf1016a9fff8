"""A Llama of a few thousand weights with a byte-level tokenizer, built in milliseconds, and token rows for it."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from trainer.jobs.spec import TrainSpec
from trainer.rows import example_schema, token_schema

TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SPECIAL = ["<|im_start|>", "<|im_end|>"]


def build_tokenizer(folder: Path, template: str | None = TEMPLATE) -> None:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: index for index, token in enumerate([*SPECIAL, *alphabet])}
    core = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    core.add_special_tokens(SPECIAL)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<|im_end|>", pad_token="<|im_end|>")
    if template is not None:
        tokenizer.chat_template = template
    tokenizer.save_pretrained(folder)


def build_model(folder: Path, *, layers: int = 4, seed: int = 0, dtype: torch.dtype = torch.float32) -> Path:
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=264, hidden_size=32, intermediate_size=64, num_hidden_layers=layers, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=256, tie_word_embeddings=True, eos_token_id=1, bos_token_id=0,
    )  # fmt: skip
    LlamaForCausalLM(config).to(dtype).save_pretrained(folder)
    build_tokenizer(folder)
    return folder


def write_rows(path: Path, count: int, *, k: int = 0, seed: int = 0, corrected: int = 0) -> Path:
    """Rows of random lengths; with k, random heads. The first `corrected` rows have none."""
    source = random.Random(seed)
    rows: list[dict[str, Any]] = []
    for number in range(count):
        prompt = [source.randrange(2, 258) for _ in range(source.randrange(3, 20))]
        completion = [*(source.randrange(2, 258) for _ in range(source.randrange(1, 6))), 1]
        without = k == 0 or number < corrected
        heads = [source.sample(range(258), k) for _ in completion] if not without else []
        logprobs = sorted((-source.random() * 5 - 1 for _ in range(k)), reverse=True)
        rows.append({
            "decision_id": f"row-{number}", "prompt_ids": prompt, "completion_ids": completion,
            "k": 0 if without else k, "head_ids": [each for head in heads for each in head],
            "head_logprobs": torch.tensor(logprobs * len(heads)).to(torch.float16).numpy(),
            "corrected": number < corrected,
        })  # fmt: skip
    pq.write_table(pa.Table.from_pylist(rows, schema=token_schema()), path)
    return path


def write_examples(path: Path, rows: list[dict[str, Any]]) -> Path:
    blank: dict[str, Any] = {name: None for name in example_schema().names}
    table = [{**blank, "decision_id": str(number), **row} for number, row in enumerate(rows)]
    pq.write_table(pa.Table.from_pylist(table, schema=example_schema()), path)
    return path


def spec_of(base: Path, rows: Path, out: Path, **changes: Any) -> TrainSpec:
    values: dict[str, Any] = {
        "base_model": str(base), "train": str(rows), "out": str(out), "epochs": 2.0, "learning_rate": 1e-2,
        "batch_size": 4, "precision": "float32", "threads": 1, "checkpoint_interval_s": 3600.0,
    }  # fmt: skip
    return msgspec.convert({**values, **changes}, TrainSpec)


def config_of(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "config.json").read_text())
    return found
