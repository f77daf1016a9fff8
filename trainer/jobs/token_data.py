"""Encoded examples in memory, and their batches: tensors of one training step."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor
from torch.utils.data import Sampler

from trainer.rows import SENTINEL, token_schema
from trainer.stage import StageError

IGNORED = -100
"""Label of a position that is not supervised."""
BUCKET_BATCHES = 50
"""Batches among which examples are sorted by length: little padding, still a random order."""


@dataclass(frozen=True)
class Batch:
    """What `collate` makes; N = supervised positions of all rows, in row-major order."""

    input_ids: Tensor
    """[B, S] int64, padded on the right."""
    attention_mask: Tensor
    """[B, S] int64, 1 = a token."""
    labels: Tensor
    """[B, S] int64, the token itself where it is supervised, else IGNORED."""
    head_ids: Tensor | None = None
    """[N, K] int64."""
    head_logprobs: Tensor | None = None
    """[N, K] float32."""
    corrected: Tensor | None = None
    """[N] bool: no teacher distribution, cross entropy only."""


class TokenRows:
    """The columns of a token file as arrays; a row is a slice, nothing is copied.

    Args:
        max_tokens: longer rows are dropped and counted in `dropped`; cutting would lose the stop token.
        k: rows of `topk` must have a head of at least this width; 0 reads no distributions.
    """

    def __init__(self, path: Path, *, max_tokens: int, with_heads: bool) -> None:
        table = _read(path)
        self.path = path
        self._prompt = _Lists(table, "prompt_ids", np.int64)
        self._completion = _Lists(table, "completion_ids", np.int64)
        lengths = self._prompt.lengths + self._completion.lengths
        usable = (lengths <= max_tokens) & (self._prompt.lengths > 0) & (self._completion.lengths > 0)
        self.rows = np.flatnonzero(usable)
        self.dropped = int(len(usable) - len(self.rows))
        self.lengths = lengths[self.rows]
        self.corrected = table["corrected"].to_numpy()
        self.k = 0
        if with_heads:
            self._read_heads(table)
        if not len(self.rows):
            raise StageError(f"{path}: no example is left of {len(usable)} ({self.dropped} longer than max_tokens)")

    def __len__(self) -> int:
        return len(self.rows)

    def _read_heads(self, table: pa.Table) -> None:
        widths = table["k"].to_numpy()
        taught = self.rows[~self.corrected[self.rows]]
        self.k = int(widths[taught].min()) if len(taught) else 1
        if self.k < 1:
            raise StageError(f"{self.path}: rows without logprobs cannot be used for topk; use method = 'sft'")
        self._widths = widths
        self._head_ids = _Lists(table, "head_ids", np.int64)
        self._head_logprobs = _Lists(table, "head_logprobs", np.float32)
        for row in taught:
            if self._head_ids.lengths[row] != self._completion.lengths[row] * widths[row]:
                raise StageError(f"{self.path}: row {row} has a head for another number of tokens than it has")
            likeliest = self._head_logprobs[row][:: widths[row]]
            if not (likeliest > SENTINEL).all():
                raise StageError(
                    f"{self.path}: row {row} has a token without a distribution; run again with --from logprobs"
                )

    def example(self, index: int) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
        """Prompt and completion ids of the index-th usable row."""
        row = int(self.rows[index])
        return self._prompt[row], self._completion[row]

    def head(self, index: int) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any], bool]:
        """Head ids and logprobs [T, k] and whether the row is corrected (then they are empty of meaning)."""
        row = int(self.rows[index])
        tokens = int(self._completion.lengths[row])
        if self.corrected[row]:
            return np.zeros((tokens, self.k), np.int64), np.full((tokens, self.k), -np.inf, np.float32), True
        width = int(self._widths[row])
        ids = self._head_ids[row].reshape(tokens, width)[:, : self.k]
        return ids, self._head_logprobs[row].reshape(tokens, width)[:, : self.k], False


class _Lists:
    """A list column as one array and offsets."""

    def __init__(self, table: pa.Table, name: str, dtype: type[np.generic]) -> None:
        column = table[name].combine_chunks()
        if isinstance(column, pa.ChunkedArray):
            column = column.chunk(0) if column.num_chunks else pa.array([], column.type)
        self._offsets = column.offsets.to_numpy()
        self._values = column.values.to_numpy(zero_copy_only=False)
        self._dtype = dtype
        self.lengths = np.diff(self._offsets).astype(np.int64)

    def all_values(self) -> np.ndarray[Any, Any]:
        return self._values[self._offsets[0] : self._offsets[-1]]

    def __getitem__(self, row: int) -> np.ndarray[Any, Any]:
        return self._values[self._offsets[row] : self._offsets[row + 1]].astype(self._dtype)


def digest_rows(path: Path) -> str:
    """SHA-256 of what is learnt from, whatever wrote the file: ids, distributions and corrections, in order."""
    table = _read(path)
    combined = hashlib.sha256()
    for name, dtype in (
        ("prompt_ids", "<i4"), ("completion_ids", "<i4"), ("head_ids", "<u4"), ("head_logprobs", "<f2")
    ):  # fmt: skip
        lists = _Lists(table, name, np.int64)
        combined.update(lists.lengths.astype("<i8").tobytes())
        combined.update(lists.all_values().astype(dtype).tobytes())
    combined.update(table["corrected"].to_numpy().astype("u1").tobytes())
    return combined.hexdigest()


def _read(path: Path) -> pa.Table:
    try:
        return pq.read_table(path, schema=token_schema())
    except (OSError, pa.ArrowException) as exc:
        raise StageError(f"{path}: cannot be read ({exc}); run the stage logprobs again") from exc


def collate(rows: TokenRows, indices: Sequence[int], pad_id: int) -> Batch:
    """Rows side by side, padded on the right to the longest."""
    examples = [rows.example(index) for index in indices]
    width = max(len(prompt) + len(completion) for prompt, completion in examples)
    input_ids = torch.full((len(examples), width), pad_id, dtype=torch.int64)
    attention_mask = torch.zeros((len(examples), width), dtype=torch.int64)
    labels = torch.full((len(examples), width), IGNORED, dtype=torch.int64)
    for place, (prompt, completion) in enumerate(examples):
        start, end = len(prompt), len(prompt) + len(completion)
        input_ids[place, :start] = torch.from_numpy(prompt)
        input_ids[place, start:end] = torch.from_numpy(completion)
        labels[place, start:end] = torch.from_numpy(completion)
        attention_mask[place, :end] = 1
    if not rows.k:
        return Batch(input_ids, attention_mask, labels)
    heads = [rows.head(index) for index in indices]
    return Batch(
        input_ids,
        attention_mask,
        labels,
        head_ids=torch.from_numpy(np.concatenate([ids for ids, _, _ in heads])),
        head_logprobs=torch.from_numpy(np.concatenate([logprobs for _, logprobs, _ in heads])),
        corrected=torch.cat([torch.full((len(ids),), corrected) for ids, _, corrected in heads]),
    )


class LengthBuckets(Sampler[int]):
    """The order of an epoch: random, with neighbours of similar length. A function of seed and epoch alone."""

    def __init__(self, lengths: np.ndarray[Any, Any], batch_size: int, seed: int) -> None:
        self._lengths = lengths
        self._batch_size = batch_size
        self._seed = seed
        self._epoch = 0

    def set_epoch(self, epoch: int) -> None:
        self._epoch = epoch

    def __len__(self) -> int:
        return len(self._lengths)

    def __iter__(self) -> Iterator[int]:
        random = np.random.default_rng([self._seed, self._epoch])
        order = random.permutation(len(self._lengths))
        batches: list[np.ndarray[Any, Any]] = []
        for start in range(0, len(order), self._batch_size * BUCKET_BATCHES):
            bucket = order[start : start + self._batch_size * BUCKET_BATCHES]
            bucket = bucket[np.argsort(-self._lengths[bucket], kind="stable")]
            batches += np.array_split(bucket, range(self._batch_size, len(bucket), self._batch_size))
        whole = [batch for batch in batches if len(batch) == self._batch_size]
        rest = [batch for batch in batches if len(batch) < self._batch_size]
        for position in [*random.permutation(len(whole))]:
            yield from (int(each) for each in whole[position])
        for batch in rest:
            yield from (int(each) for each in batch)


def steps_of(examples: int, batch_size: int, epochs: float, max_steps: int | None) -> int:
    """Optimizer steps of a run."""
    steps = max(1, math.ceil(epochs * math.ceil(examples / batch_size)))
    return min(steps, max_steps) if max_steps is not None else steps
