"""Loading and saving models in Hugging Face layout, with errors that name the file."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from trainer.stage import StageError

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

CARRIED_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "tokenizer.model",
    "chat_template.jinja",
    "chat_template.json",
    "generation_config.json",
)
"""Copied byte for byte from base to student: a tokenizer that was saved anew would have another hash."""


def load_model(folder: Path, dtype: torch.dtype) -> PreTrainedModel:
    """The weights as they are, in this type. Raises: StageError for a folder that is missing, truncated or corrupt."""
    check_folder(folder)
    try:
        model, report = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, output_loading_info=True)
    except (SafetensorError, OSError, ValueError, KeyError, RuntimeError) as exc:
        first = str(exc).strip().splitlines()[0] if str(exc).strip() else type(exc).__name__
        raise StageError(f"{folder}: the model cannot be read ({first}); copy the folder again") from exc
    wrong = sorted(report["missing_keys"]) or sorted(str(each) for each in report["mismatched_keys"])
    if wrong:
        raise StageError(f"{folder}: the weights do not fit config.json ({len(wrong)} tensors, as {wrong[0]})")
    return model


def random_model(folder: Path, dtype: torch.dtype, seed: int) -> PreTrainedModel:
    """The architecture of this folder with random weights: what a baseline without pretraining starts from."""
    check_folder(folder)
    torch.manual_seed(seed)
    return AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder), dtype=dtype)


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """Raises: StageError."""
    try:
        return AutoTokenizer.from_pretrained(folder)
    except (OSError, ValueError, KeyError) as exc:
        raise StageError(f"{folder}: the tokenizer cannot be read ({exc}); the folder needs tokenizer.json") from exc


def check_folder(folder: Path) -> None:
    """Raises: StageError when there is no readable config.json."""
    try:
        json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as exc:
        raise StageError(f"{folder}: not a model folder in Hugging Face layout: config.json: {exc}") from exc


def stored_dtype(folder: Path) -> torch.dtype:
    """The type that config.json states, in which a trained model is written again."""
    config: dict[str, Any] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    name = config.get("dtype") or config.get("torch_dtype") or "bfloat16"
    found = getattr(torch, str(name), None)
    return found if isinstance(found, torch.dtype) else torch.bfloat16


def save_model(model: PreTrainedModel, base: Path, folder: Path) -> None:
    """Write model and tokenizer to `folder`, which appears whole or not at all."""
    publish(folder, base, model.to(stored_dtype(base)).save_pretrained)


def publish(folder: Path, base: Path, save: Callable[[Path], object]) -> None:
    """Let `save` write a model beside `folder`, add the tokenizer of `base`, and put it in place, whole."""
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    save(partial)
    for name in CARRIED_FILES:
        if (base / name).is_file():
            shutil.copyfile(base / name, partial / name)
    sync_folder(partial)
    shutil.rmtree(folder, ignore_errors=True)
    partial.rename(folder)
    sync_path(folder.parent)


def sync_folder(folder: Path) -> None:
    """Files, then folders, to disk."""
    for path in sorted(folder.rglob("*"), reverse=True):
        sync_path(path)
    sync_path(folder)


def sync_path(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
