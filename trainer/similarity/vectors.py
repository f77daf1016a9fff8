"""Embeddings of many texts on disk, each text embedded once, whoever asks for it.

The encoder reads 256 word pieces and ignores the rest. Longer texts are therefore cut into windows at word borders, so
that two long requests with the same beginning do not look like the same request.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from trainer.environments import run_job
from trainer.evaluation.served import model_sha256
from trainer.jobs.embed import PINNED_PACKAGE
from trainer.recipe import Recipe
from trainer.similarity.texts import digest
from trainer.stage import Progress, StageError
from trainer.tables import TableWriter

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Matrix = NDArray[np.float32]

TEXTS = "texts.parquet"
VECTORS = "vectors.f32"
WINDOW_CHARS = 800
"""About 200 word pieces of English."""

Embed = Callable[[Path, Path, Progress], int]
"""(texts.parquet, file of vectors to write, progress) -> dimensions."""


def windows(text: str) -> list[str]:
    """Pieces of at most WINDOW_CHARS characters, cut at blanks where there are any; one for a short text."""
    pieces, rest = [], text.strip()
    while len(rest) > WINDOW_CHARS:
        cut = rest.rfind(" ", WINDOW_CHARS // 2, WINDOW_CHARS)
        cut = WINDOW_CHARS if cut < 0 else cut
        pieces.append(rest[:cut])
        rest = rest[cut:].lstrip()
    return [*pieces, rest]


def embedder(recipe: Recipe) -> Embed:
    """Embeds in the training environment. Raises (when called): StageError."""

    def embed(texts: Path, out: Path, progress: Progress) -> int:
        spec = {"texts": str(texts.absolute()), "out": str(out.absolute()), "encoder": recipe.dedupe.encoder}
        python = recipe.environments.train_python
        result = run_job("train", "trainer.jobs.embed", spec, python=python, progress=progress)
        return int(result["dim"])

    return embed


def encoder_digest(encoder: str | None) -> str:
    """What decides the vectors: the content of the encoder's folder, wherever it lies; the pinned one by its name."""
    return PINNED_PACKAGE if encoder is None else model_sha256(Path(encoder))


class Vectors:
    """Unit vectors of texts, in files of one folder."""

    def __init__(self, folder: Path, *, known: Vectors | None = None) -> None:
        """`known`: vectors of an earlier stage, looked up first."""
        self._folder = folder
        self._known = known
        self._rows: dict[bytes, int] = {}
        self._matrix: Matrix | None = None

    def add(self, texts: Iterable[str], embed: Embed, progress: Progress) -> None:
        """Embed the texts that are not there yet. An interrupted call goes on where it stopped, for the same texts."""
        import pyarrow as pa  # noqa: PLC0415 - heavy

        listed = self._folder / TEXTS
        with TableWriter(listed, pa.schema([("text", pa.string())])) as table:
            for text in texts:
                key = digest(text)
                if key not in self._rows and (self._known is None or key not in self._known):
                    self._rows[key] = table.count
                    table.add({"text": text}, len(text))
        if self._rows:
            self._open(embed(listed, self._folder / VECTORS, progress))

    @classmethod
    def read(cls, folder: Path, dim: int) -> Vectors:
        """What an earlier stage has embedded; nothing when it embedded nothing."""
        import pyarrow.parquet as pq  # noqa: PLC0415 - heavy

        vectors = cls(folder)
        if not dim or not (folder / VECTORS).is_file():
            return vectors
        with pq.ParquetFile(folder / TEXTS) as file:
            for batch in file.iter_batches(columns=["text"]):
                for text in batch.column(0).to_pylist():
                    vectors._rows[digest(text)] = len(vectors._rows)
        vectors._open(dim)
        return vectors

    @property
    def dim(self) -> int:
        if self._matrix is not None:
            return int(self._matrix.shape[1])
        return 0 if self._known is None else self._known.dim

    def __contains__(self, key: bytes) -> bool:
        return key in self._rows

    def of(self, key: bytes) -> Matrix:
        """[dim], unit length; `key` is the digest of a text that was added. Raises: KeyError."""
        if key in self._rows and self._matrix is not None:
            row: Matrix = self._matrix[self._rows[key]]
            return row
        if self._known is None:
            raise KeyError(key.hex())
        return self._known.of(key)

    def stack(self, keys: Sequence[bytes]) -> Matrix:
        """[len(keys), dim]."""
        import numpy as np  # noqa: PLC0415 - heavy

        return np.stack([self.of(key) for key in keys])

    def mean(self, keys: Sequence[bytes]) -> Matrix:
        """[dim], unit length: of a text in several windows."""
        import numpy as np  # noqa: PLC0415 - heavy

        total: Matrix = self.stack(keys).sum(axis=0, dtype=np.float32)
        unit: Matrix = total / np.float32(max(float(np.linalg.norm(total)), 1e-12))
        return unit

    def _open(self, dim: int) -> None:
        import numpy as np  # noqa: PLC0415 - heavy

        path = self._folder / VECTORS
        expected = len(self._rows) * dim * 4
        if (size := path.stat().st_size) != expected:
            raise StageError(f"{path} has {size} bytes instead of {expected}; remove it and run again")
        self._matrix = np.memmap(path, dtype=np.float32, mode="r", shape=(len(self._rows), dim))
