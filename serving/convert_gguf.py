"""Turns a GGUF file into a Hugging Face folder (bf16 safetensors). Executed by the interpreter that has torch.

    python convert_gguf.py MODEL.gguf FOLDER

Prints one line of JSON. Not imported by the project: it needs torch, transformers, accelerate and gguf.
"""

# mypy: ignore-errors
# Its imports live in the serving environment, where mypy does not run.

import json
import sys
from pathlib import Path

import torch
from gguf import GGUFReader
from tokenizers import pre_tokenizers
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

DIGIT_SPLITTING_PRE_TOKENIZERS = frozenset({"smollm"})
"""`tokenizer.ggml.pre` of models trained with each digit a token of its own. transformers' GGUF reader knows only
the plain byte-level split; without this, a digit would be merged with the space before it in another way."""


def main(source: Path, target: Path) -> None:
    header = GGUFReader(source).fields
    model = AutoModelForCausalLM.from_pretrained(
        str(source.parent),
        gguf_file=source.name,
        quantization_config=GgufConfig(dequantize=True),
        dtype=torch.bfloat16,
    )
    model.config.name_or_path = ""
    model.save_pretrained(target)

    tokenizer = AutoTokenizer.from_pretrained(str(source.parent), gguf_file=source.name)
    if header["tokenizer.ggml.pre"].contents() in DIGIT_SPLITTING_PRE_TOKENIZERS:
        tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Digits(individual_digits=True),
                pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=True, use_regex=True),
            ]
        )
    tokenizer.model_max_length = model.config.max_position_embeddings
    if tokenizer.chat_template != header["tokenizer.chat_template"].contents():
        sys.exit("the chat template did not survive the conversion")
    tokenizer.save_pretrained(target)
    print(json.dumps({"parameters": model.num_parameters(), "template": tokenizer.chat_template}))  # noqa: T201


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
