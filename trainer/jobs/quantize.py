"""Job: llm-compressor on a merged, unquantized model. Runs in the environment `quantize`.

W8A8 (int8 weights, activations quantized as they come) and FP8 need no data; W4A16 (GPTQ) and AWQ are calibrated on
examples of the training set.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import torch

from trainer.jobs import protocol
from trainer.jobs.models import (
    check_folder,
    load_model,
    load_tokenizer,
    publish,
    stored_dtype,
)
from trainer.jobs.spec import QuantizeSpec
from trainer.jobs.versions import versions
from trainer.stage import Progress, StageError

IGNORED_LAYERS = ["lm_head"]
"""Its error goes straight into the logits, and it is often tied to the embeddings."""
GROUP_SIZES = (128, 64, 32)


def run(spec: QuantizeSpec, progress: Progress) -> protocol.Result:
    """Quantize and save. Raises: StageError."""
    if spec.threads is not None:
        torch.set_num_threads(spec.threads)
    if spec.scheme == "AWQ" and not torch.cuda.is_available():
        raise StageError("quantize.scheme: AWQ needs a GPU to search its scales; use W4A16 or W8A8 here")
    source, out = Path(spec.model), Path(spec.out)
    check_folder(source)
    model = load_model(source, stored_dtype(source))
    started_s = time.monotonic()
    progress(0, 2, f"quantizing to {spec.scheme}")
    _compress(model, spec)
    progress(1, 2, "saving")
    publish(out, source, lambda folder: model.save_pretrained(folder, save_compressed=True))
    progress(2, 2, "saved")
    return {
        "seconds": round(time.monotonic() - started_s, 1),
        "versions": versions(),
        "group_size": _group_size(model, spec),
    }


def _compress(model: Any, spec: QuantizeSpec) -> None:
    from llmcompressor import oneshot  # noqa: PLC0415 - seconds

    options: dict[str, Any] = {"model": model, "recipe": _recipe(model, spec)}
    if spec.scheme in ("W4A16", "AWQ"):
        options |= {
            "dataset": _calibration(spec),
            "num_calibration_samples": spec.calibration_samples,
            "processor": load_tokenizer(Path(spec.model)),
        }
    try:
        oneshot(**options)
    except (ValueError, NotImplementedError) as exc:
        raise StageError(f"quantize.scheme: llm-compressor refuses {spec.scheme} for this model: {exc}") from exc


def _recipe(model: Any, spec: QuantizeSpec) -> Any:
    from llmcompressor.modifiers.quantization import GPTQModifier, QuantizationModifier  # noqa: PLC0415 - seconds

    if spec.scheme == "W8A8":
        return QuantizationModifier(targets="Linear", scheme="W8A8", ignore=IGNORED_LAYERS)
    if spec.scheme == "FP8":
        return QuantizationModifier(targets="Linear", scheme="FP8_DYNAMIC", ignore=IGNORED_LAYERS)
    groups = {"group_0": _weight_only(_group_size(model, spec), symmetric=spec.scheme == "W4A16")}
    if spec.scheme == "W4A16":
        return GPTQModifier(config_groups=groups, ignore=IGNORED_LAYERS)
    from llmcompressor.modifiers.awq import AWQModifier  # noqa: PLC0415 - seconds

    return AWQModifier(config_groups=groups, ignore=IGNORED_LAYERS)


def _weight_only(group_size: int | None, *, symmetric: bool) -> Any:
    from compressed_tensors.quantization import (  # noqa: PLC0415 - seconds
        QuantizationArgs,
        QuantizationScheme,
    )

    weights = QuantizationArgs(
        num_bits=4, type="int", symmetric=symmetric, strategy="group", group_size=group_size, dynamic=False
    )
    return QuantizationScheme(targets=["Linear"], weights=weights)


def _group_size(model: Any, spec: QuantizeSpec) -> int | None:
    """The largest usual one that divides the input width of every layer. Raises: StageError."""
    if spec.scheme not in ("W4A16", "AWQ"):
        return None
    widths = {
        module.in_features
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and not name.endswith(tuple(IGNORED_LAYERS))
    }
    for size in (spec.group_size,) if spec.group_size is not None else GROUP_SIZES:
        if all(width % size == 0 for width in widths):
            return size
    asked = spec.group_size if spec.group_size is not None else f"{GROUP_SIZES}"
    raise StageError(f"quantize.group_size: {asked} does not divide the layers' widths {sorted(widths)}; use W8A8")


def _calibration(spec: QuantizeSpec) -> Any:
    from datasets import Dataset  # noqa: PLC0415 - seconds

    from trainer.jobs.token_data import TokenRows  # noqa: PLC0415 - needs pyarrow, which the other schemes do not

    if spec.calibration is None:
        raise StageError(f"quantize.scheme: {spec.scheme} needs training rows to calibrate on")
    rows = TokenRows(Path(spec.calibration), max_tokens=2048, with_heads=False)
    step = max(1, len(rows) // spec.calibration_samples)
    examples = [rows.example(index) for index in range(0, len(rows), step)][: spec.calibration_samples]
    ids = [[*prompt.tolist(), *completion.tolist()] for prompt, completion in examples]
    return Dataset.from_dict({"input_ids": ids, "attention_mask": [[1] * len(each) for each in ids]})


if __name__ == "__main__":
    sys.exit(protocol.main(QuantizeSpec, run))
