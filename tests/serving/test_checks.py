"""The check of a model's folder: every usual mistake is found before vLLM starts."""

from __future__ import annotations

import json
import socket
import struct
from pathlib import Path
from typing import Any

import pytest

from serving.checks import check_model, check_port, window_of
from serving.errors import LaunchError, ModelError
from serving.options import VllmOptions


def write_safetensors(path: Path, values: int = 64) -> None:
    header = json.dumps({"w": {"dtype": "F32", "shape": [values], "data_offsets": [0, 4 * values]}}).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header + bytes(4 * values))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    configure(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    write_safetensors(tmp_path / "model.safetensors")
    return tmp_path


def configure(folder: Path, **extra: Any) -> None:
    config = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "max_position_embeddings": 8192, **extra}
    (folder / "config.json").write_text(json.dumps(config))


def problems(folder: Path, **options: Any) -> str:
    with pytest.raises(ModelError) as caught:
        check_model(VllmOptions.model_validate({"model": str(folder), **options}))
    return str(caught.value)


def test_check_gives_the_facts_when_the_folder_is_whole(folder: Path) -> None:
    facts = check_model(VllmOptions(model=str(folder), context_window_tokens=8192))
    assert (facts.architecture, facts.window_tokens, facts.quantization) == ("LlamaForCausalLM", 8192, None)
    assert facts.weights_bytes == (folder / "model.safetensors").stat().st_size


def test_check_says_so_when_the_folder_does_not_exist(tmp_path: Path) -> None:
    assert "does not exist" in problems(tmp_path / "nowhere")


def test_check_says_so_when_the_model_is_a_gguf_file(tmp_path: Path) -> None:
    file = tmp_path / "model.gguf"
    file.touch()
    assert "is a file, not a folder" in problems(file)
    assert "GGUF files must be converted first" in problems(file)


def test_check_says_so_when_there_is_no_config(folder: Path) -> None:
    (folder / "config.json").unlink()
    assert "no config.json" in problems(folder)
    (folder / "adapter_config.json").write_text("{}")
    assert "LoRA adapter" in problems(folder)


@pytest.mark.parametrize("text", ["{", "[]", '{"hello": 1}'])
def test_check_says_so_when_config_is_not_a_models(folder: Path, text: str) -> None:
    (folder / "config.json").write_text(text)
    assert "config.json" in problems(folder)


def test_check_says_so_when_there_is_no_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()
    assert "has no tokenizer" in problems(folder)


def test_check_says_so_when_there_are_no_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    assert "no weights" in problems(folder)


@pytest.mark.parametrize("kept_bytes", [0, 5, 30, -1, -100])
def test_check_finds_truncated_weights(folder: Path, kept_bytes: int) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:kept_bytes])
    assert "truncated or damaged" in problems(folder)


def test_check_finds_bytes_too_many_and_lfs_pointers(folder: Path) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes() + b"x")
    assert "where its header asks for" in problems(folder)
    weights.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12\n")
    assert "Git LFS pointer?" in problems(folder)


def test_check_finds_the_missing_shard_that_the_index_lists(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    text = problems(folder)
    assert "model-00002-of-00002.safetensors is missing" in text
    assert "00001" not in text
    write_safetensors(folder / "model-00002-of-00002.safetensors")
    assert check_model(VllmOptions(model=str(folder))).weights_bytes > 0


@pytest.mark.parametrize(
    ("asked", "found", "fits"),
    [
        ("awq_marlin", "awq", True),
        ("gptq_marlin", "gptq", True),
        ("compressed-tensors", "compressed-tensors", True),
        ("fp8", None, True),
        ("fp8", "fp8", True),
        (None, "awq", True),
        ("awq", None, False),
        ("awq", "gptq", False),
        ("fp8", "compressed-tensors", False),
        ("compressed-tensors", None, False),
    ],
)
def test_check_compares_quantization_with_the_config(
    folder: Path, asked: str | None, found: str | None, fits: bool
) -> None:
    if found:
        configure(folder, quantization_config={"quant_method": found})
    options = VllmOptions.model_validate({"model": str(folder), "quantization": asked})
    if fits:
        assert check_model(options).quantization == found
    else:
        with pytest.raises(ModelError, match="quantization: "):
            check_model(options)


def test_check_reports_every_problem_at_once(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelError) as caught:
        check_model(VllmOptions(model=str(folder), quantization="awq", context_window_tokens=8193))
    assert len(caught.value.problems) == 4


@pytest.mark.parametrize(
    ("config", "window_tokens"),
    [
        ({"max_position_embeddings": 4096}, 4096),
        ({"n_positions": 1024}, 1024),
        ({}, None),
        ({"text_config": {"max_position_embeddings": 2048}}, 2048),
        ({"max_position_embeddings": 4096, "rope_scaling": {"type": "linear", "factor": 2.0}}, 8192),
        (
            {
                "max_position_embeddings": 32768,
                "rope_scaling": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768},
            },
            131072,
        ),
        ({"max_position_embeddings": 131072, "rope_scaling": {"rope_type": "llama3", "factor": 8.0}}, 131072),
        ({"max_position_embeddings": 8192, "rope_parameters": {"rope_type": "default", "rope_theta": 1e5}}, 8192),
    ],
)
def test_window_follows_the_config_and_its_rotary_scaling(config: dict[str, Any], window_tokens: int | None) -> None:
    assert window_of(config) == window_tokens


def test_port_check_says_so_when_something_listens_there() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        with pytest.raises(LaunchError, match=rf"127\.0\.0\.1:{port} cannot be used"):
            check_port("127.0.0.1", port)
    check_port("127.0.0.1", port)


def test_port_check_says_so_when_the_address_is_not_this_machines() -> None:
    with pytest.raises(LaunchError):
        check_port("192.0.2.1", 8101)
