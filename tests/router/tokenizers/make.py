"""Makes the small tokenizers of this folder and the counts that Hugging Face's library gives for the sample texts.

    pip install tokenizers && python tests/router/tokenizers/make.py

Each has the pre-tokenizers of a real family, trained on Python's own documentation (PSF-2.0).
"""

from __future__ import annotations

import json
from pathlib import Path
from pydoc_data.topics import topics

from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers

FOLDER = Path(__file__).parent
QWEN2 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
LLAMA3 = QWEN2.replace(r"|\p{N}|", r"|\p{N}{1,3}|")
BYTES = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
FAMILIES = {
    "gpt2": (None, pre_tokenizers.ByteLevel(add_prefix_space=False)),
    "smollm2": (
        None,
        pre_tokenizers.Sequence(
            [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
        ),
    ),
    "qwen2": (
        normalizers.NFC(),
        pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(QWEN2), "isolated"), BYTES]),
    ),
    "llama3": (None, pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(LLAMA3), "isolated"), BYTES])),
}


def main() -> None:
    corpus = [topics[name] for name in sorted(topics)] + ["0 1 2 3 12 123 1999 2024 3.14 1,000"] * 200
    texts = json.loads((FOLDER / "texts.json").read_text())
    counts: dict[str, dict[str, int]] = {}
    for family, (normalizer, pre_tokenizer) in FAMILIES.items():
        tokenizer = Tokenizer(models.BPE())
        if normalizer is not None:
            tokenizer.normalizer = normalizer
        tokenizer.pre_tokenizer = pre_tokenizer
        trainer = trainers.BpeTrainer(
            vocab_size=700, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
        )
        tokenizer.train_from_iterator(corpus, trainer)
        (FOLDER / f"{family}.json").write_text(tokenizer.to_str(pretty=False))
        counts[family] = {name: len(tokenizer.encode(text).ids) for name, text in texts.items()}
    (FOLDER / "counts.json").write_text(json.dumps(counts, indent=1) + "\n")


if __name__ == "__main__":
    main()
