"""Job: examples of the pipeline to token ids, with the tokenizer and chat template of a model.

What the model is asked at serving time is exactly the template's rendering of the messages with the generation prompt;
so the prompt is tokenized by itself, and the answer by itself, closed by the stop token.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from trainer.jobs import protocol
from trainer.jobs.models import load_tokenizer
from trainer.jobs.spec import EncodeSpec
from trainer.rows import token_schema
from trainer.stage import Progress, StageError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

COLUMNS = ("decision_id", "messages", "completion", "correction", "prompt_ids", "completion_ids")
BATCH_ROWS = 512


class ChatEncoder:
    """Messages and answers to token ids. Raises: StageError when the tokenizer has no chat template or stop token."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, source: str) -> None:
        if not tokenizer.chat_template:
            raise StageError(f"{source}: the tokenizer has no chat template; use an instruction-tuned base model")
        if tokenizer.eos_token_id is None:
            raise StageError(f"{source}: the tokenizer has no eos_token, so answers could not be ended; set it")
        self._tokenizer = tokenizer
        self._source = source
        self.stop_id = int(tokenizer.eos_token_id)

    def prompt(self, messages: list[dict[str, Any]]) -> list[int]:
        """Ids of the rendered messages with the generation prompt. Raises: StageError."""
        try:
            ids = self._tokenizer.apply_chat_template(
                messages, add_generation_prompt=True, tokenize=True, return_dict=False
            )
        except Exception as exc:  # a template is a program: it may raise what it likes
            raise StageError(f"{self._source}: the chat template refuses the messages: {exc}") from exc
        return check_bos([int(each) for each in ids], self._tokenizer.bos_token_id, self._source)

    def completion(self, text: str) -> list[int]:
        """Ids of an answer, closed by the stop token."""
        return [*self._tokenizer.encode(text, add_special_tokens=False), self.stop_id]


def check_bos(ids: list[int], bos_id: Any, source: str) -> list[int]:
    """Raises: StageError when the prompt starts with two: the model has never seen that, and answers worse."""
    if bos_id is not None and ids[:2] == [bos_id, bos_id]:
        raise StageError(
            f"{source}: the prompt starts with two beginning-of-sequence tokens; the chat template writes one and the "
            "tokenizer adds another: set add_bos_token to false in tokenizer_config.json"
        )
    return ids


class Counts(msgspec.Struct):
    rows: int = 0
    corrected: int = 0
    rendered: int = 0
    """Rows whose ids were made here; the others have theirs from the record."""
    too_long: int = 0
    unreadable: int = 0
    """Rows whose messages are no list of messages."""
    prompt_tokens: int = 0
    completion_tokens: int = 0


def encode_rows(
    rows: Iterator[dict[str, Any]], encoder: ChatEncoder, spec: EncodeSpec, counts: Counts
) -> Iterator[dict[str, Any]]:
    """One output row for each example that fits."""
    for row in rows:
        correction = row["correction"]
        recorded = spec.ids_from_records and row["prompt_ids"] and row["completion_ids"]
        if recorded:
            prompt = list(row["prompt_ids"])
        else:
            messages = _messages(row["messages"])
            if messages is None:
                counts.unreadable += 1
                continue
            prompt = encoder.prompt(messages)
            counts.rendered += 1
        if correction is not None:
            completion = encoder.completion(correction)
        elif recorded:
            completion = _closed(list(row["completion_ids"]), encoder.stop_id)
        else:
            completion = encoder.completion(row["completion"] or "")
        if spec.max_tokens is not None and len(prompt) + len(completion) > spec.max_tokens:
            counts.too_long += 1
            continue
        counts.rows += 1
        counts.corrected += correction is not None
        counts.prompt_tokens += len(prompt)
        counts.completion_tokens += len(completion)
        yield {
            "decision_id": row["decision_id"], "prompt_ids": prompt, "completion_ids": completion, "k": 0,
            "head_ids": [], "head_logprobs": [], "corrected": correction is not None,
        }  # fmt: skip


def _messages(text: str | None) -> list[dict[str, Any]] | None:
    try:
        return msgspec.json.decode(text or "", type=list[dict[str, Any]])
    except msgspec.DecodeError:
        return None


def _closed(ids: list[int], stop_id: int) -> list[int]:
    return ids if ids[-1] == stop_id else [*ids, stop_id]


def run(spec: EncodeSpec, progress: Progress) -> protocol.Result:
    encoder = ChatEncoder(load_tokenizer(Path(spec.model)), spec.model)
    counts = Counts()
    out = Path(spec.out)
    partial = out.with_name(f".{out.name}.partial")
    schema = token_schema()
    with pq.ParquetFile(spec.examples) as source, pq.ParquetWriter(partial, schema, compression="zstd") as writer:
        total, done = source.metadata.num_rows, 0
        for batch in source.iter_batches(BATCH_ROWS, columns=list(COLUMNS)):
            rows = list(encode_rows(iter(batch.to_pylist()), encoder, spec, counts))
            writer.write_table(pa.Table.from_pylist(rows, schema=schema))
            done += batch.num_rows
            progress(done, total, "examples encoded")
    with partial.open("rb") as file:
        os.fsync(file.fileno())
    partial.replace(out)
    return msgspec.to_builtins(counts)


if __name__ == "__main__":
    sys.exit(protocol.main(EncodeSpec, run))
