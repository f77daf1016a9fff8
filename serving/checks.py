"""Checks a model's folder before vLLM starts: milliseconds and one clear line, not a minute and a stack trace."""

from __future__ import annotations

import json
import socket
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from serving.errors import LaunchError, ModelError
from serving.options import VllmOptions

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer.model",
    "tekken.json",
    "vocab.json",
    "tiktoken.model",
    "spiece.model",
    "tokenization.py",
)
MAX_SAFETENSORS_HEADER_BYTES = 100 * 2**20
"""The limit of the safetensors library itself."""

QUANTIZATION_METHODS: Mapping[str, frozenset[str]] = {
    "awq": frozenset({"awq"}),
    "awq_marlin": frozenset({"awq"}),
    "gptq": frozenset({"gptq"}),
    "gptq_marlin": frozenset({"gptq"}),
    "fp8": frozenset({"fp8"}),
    "compressed-tensors": frozenset({"compressed-tensors"}),
}
"""Option -> `quant_method` values of config.json that it can load."""

QUANTIZES_AT_START = frozenset({"fp8"})
"""Options that also take unquantized weights."""

LENGTH_KEYS = (
    "max_position_embeddings",
    "n_positions",
    "max_seq_len",
    "seq_length",
    "max_sequence_length",
    "model_max_length",
)
UNSCALED_ROPE_TYPES = frozenset({"default", "llama3", "longrope", "su", "mrope"})
"""Rotary embeddings whose stated length already contains the scaling (as vLLM counts it)."""


@dataclass(frozen=True)
class ModelFacts:
    """What config.json says; None where it says nothing."""

    path: Path
    architecture: str | None
    quantization: str | None
    window_tokens: int | None
    weights_bytes: int


def check_model(options: VllmOptions) -> ModelFacts:
    """Look at the folder as vLLM will, reading headers only.

    Raises:
        ModelError: every problem found, each with its fix.
    """
    folder = Path(options.model).expanduser()
    config = _read_config(folder)
    problems: list[str] = []
    if not any((folder / name).is_file() for name in TOKENIZER_FILES):
        problems.append(f"model: {folder} has no tokenizer ({TOKENIZER_FILES[0]}); copy it from the base model")
    weights_bytes, weight_problems = _check_weights(folder)
    problems += weight_problems
    quantization = _quantization_of(config)
    problems += _check_quantization(options, quantization)
    window_tokens = window_of(config)
    asked = options.context_window_tokens
    if asked is not None and window_tokens is not None and asked > window_tokens:
        problems.append(
            f"context_window_tokens: {asked} is more than the {window_tokens} positions that the model was trained "
            f"for; use {window_tokens} or less"
        )
    if problems:
        raise ModelError(problems)
    architectures = config.get("architectures")
    return ModelFacts(
        path=folder,
        architecture=str(architectures[0]) if isinstance(architectures, list) and architectures else None,
        quantization=quantization,
        window_tokens=window_tokens,
        weights_bytes=weights_bytes,
    )


def check_port(host: str, port: int) -> None:
    """Raises: LaunchError: something listens there already, or the address is not this machine's."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except OSError as exc:
        raise LaunchError(f"host: {host!r} is not an address of this machine ({exc})") from exc
    with socket.socket(family, kind, protocol) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(address)
        except OSError as exc:
            raise LaunchError(
                f"port: {host}:{port} cannot be used ({exc.strerror or exc}); stop what listens there or choose another"
            ) from exc


def window_of(config: Mapping[str, Any]) -> int | None:
    """Longest sequence in tokens, rotary scaling included, as vLLM derives it; None when config.json says nothing."""
    text = config.get("text_config")
    if isinstance(text, dict):
        config = {**config, **text}
    lengths = [value for key in LENGTH_KEYS if isinstance(value := config.get(key), int) and value > 0]
    if not lengths:
        return None
    window = min(lengths)
    rope = config.get("rope_parameters") or config.get("rope_scaling")
    if isinstance(rope, dict):
        kind = rope.get("rope_type", rope.get("type", "default"))
        factor = rope.get("factor")
        if kind not in UNSCALED_ROPE_TYPES and isinstance(factor, int | float) and factor > 0:
            original = rope.get("original_max_position_embeddings")
            return int((original if kind == "yarn" and isinstance(original, int) else window) * factor)
    return window


def _read_config(folder: Path) -> dict[str, Any]:
    if not folder.is_dir():
        what = "is a file, not a folder" if folder.exists() else "does not exist"
        hint = "; GGUF files must be converted first" if folder.suffix == ".gguf" else ""
        raise ModelError([f"model: {folder} {what}; give the folder of a model in Hugging Face layout{hint}"])
    path = folder / "config.json"
    try:
        config = json.loads(path.read_bytes())
    except FileNotFoundError as exc:
        adapter = (folder / "adapter_config.json").exists()
        hint = "this is a LoRA adapter: merge it into its base first" if adapter else "is this the right folder?"
        raise ModelError([f"model: {folder} has no config.json; {hint}"]) from exc
    except (OSError, ValueError) as exc:
        raise ModelError([f"model: {path} cannot be read: {exc}"]) from exc
    if not isinstance(config, dict) or not (config.get("model_type") or config.get("architectures")):
        raise ModelError([f"model: {path} names no model_type and no architectures; it is not a model's config.json"])
    return config


def _quantization_of(config: Mapping[str, Any]) -> str | None:
    table = config.get("quantization_config") or config.get("compression_config")
    if not isinstance(table, dict):
        return None
    method = table.get("quant_method")
    return method if isinstance(method, str) else "unknown"


def _check_quantization(options: VllmOptions, found: str | None) -> list[str]:
    asked = options.quantization
    if asked is None:
        return []
    if found is None:
        if asked in QUANTIZES_AT_START:
            return []
        return [
            f"quantization: {asked!r} was asked for, but the model's config.json has no quantization_config; leave "
            "the option out, or quantize the model first"
        ]
    if found not in QUANTIZATION_METHODS[asked]:
        return [
            f"quantization: {asked!r} contradicts the model's config.json, which says {found!r}; leave the option out"
        ]
    return []


def _check_weights(folder: Path) -> tuple[int, list[str]]:
    """(total size in bytes, problems) of the weights: the shards that an index lists, or every weights file."""
    index = folder / "model.safetensors.index.json"
    if index.exists():
        try:
            names = sorted(set(json.loads(index.read_bytes())["weight_map"].values()))
        except (OSError, ValueError, KeyError, AttributeError, TypeError) as exc:
            return 0, [f"model: {index} cannot be read ({exc}); download the model again"]
        files = [folder / name for name in names]
    else:
        files = sorted(folder.glob("*.safetensors"))
    if not files:
        return _check_bin_weights(folder)
    problems = [problem for file in files if (problem := safetensors_problem(file)) is not None]
    return sum(file.stat().st_size for file in files if file.exists()), problems


def _check_bin_weights(folder: Path) -> tuple[int, list[str]]:
    files = sorted(folder.glob("*.bin")) + sorted(folder.glob("*.pt"))
    sizes = [file.stat().st_size for file in files]
    if not files or sum(sizes) == 0:
        return 0, [f"model: {folder} has no weights (*.safetensors); is the download complete?"]
    return sum(sizes), []


def safetensors_problem(path: Path) -> str | None:
    """Why this file cannot be a whole safetensors file, or None. Reads the header only.

    Source: the format's specification: u64 little-endian header length, JSON header, then the data; `data_offsets`
    are relative to the end of the header and the data fill the file exactly.
    """
    again = "it is truncated or damaged; copy or download it again"
    try:
        size_bytes = path.stat().st_size
        with path.open("rb") as file:
            prefix = file.read(8)
            if len(prefix) < 8:
                return f"model: {path} is {size_bytes} bytes long; {again}"
            (header_bytes,) = struct.unpack("<Q", prefix)
            if header_bytes > min(MAX_SAFETENSORS_HEADER_BYTES, size_bytes - 8):
                what = " (a Git LFS pointer?)" if prefix.startswith(b"version ") else ""
                return f"model: {path} has no valid safetensors header{what}; {again}"
            header = json.loads(file.read(header_bytes))
        data_bytes = max(
            (entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"), default=0
        )
    except FileNotFoundError:
        return f"model: {path} is missing, but the index lists it; copy or download it"
    except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError) as exc:
        return f"model: {path} cannot be read ({exc}); {again}"
    expected_bytes = 8 + header_bytes + data_bytes
    if size_bytes != expected_bytes:
        return f"model: {path} has {size_bytes} bytes where its header asks for {expected_bytes}; {again}"
    return None
