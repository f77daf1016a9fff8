"""Job: examples of the pipeline to token ids, with the tokenizer and chat template of a model.

What the model is asked at serving time is exactly the template's rendering of the messages with the generation prompt;
so the prompt is tokenized by itself, and the answer by itself, closed by one stop token: the one that the teacher
emitted where the student stops at it too, else the student's own.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
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
TEACHER_PROMPT = "teacher_prompt_ids"
"""Extra column for re-scoring; the student's own prompt where both write it alike."""


class ChatEncoder:
    """Messages and answers to token ids. Raises: StageError when the tokenizer has no chat template or stop token."""

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        source: str,
        stop_ids: Sequence[int] = (),
        foreign_stop_ids: Sequence[int] = (),
    ) -> None:
        """
        Args:
            stop_ids: tokens at which this model stops, beside its eos_token.
            foreign_stop_ids: those at which the teacher does; in its answers they are an end, and no text.
        """
        if not tokenizer.chat_template:
            raise StageError(f"{source}: the tokenizer has no chat template; use an instruction-tuned base model")
        if tokenizer.eos_token_id is None:
            raise StageError(f"{source}: the tokenizer has no eos_token, so answers could not be ended; set it")
        self._tokenizer = tokenizer
        self._source = source
        self.stop_id = int(tokenizer.eos_token_id)
        self.stop_ids = frozenset({self.stop_id, *stop_ids})
        self._ends = self.stop_ids | frozenset(foreign_stop_ids)

    @property
    def template(self) -> str:
        return str(self._tokenizer.chat_template)

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
        return self.closed(self._tokenizer.encode(text, add_special_tokens=False))

    def spells(self, ids: Sequence[int], text: str) -> bool:
        """Whether the ids are this text in this vocabulary, white space at the edges and the stop token aside."""
        body = self._body(ids)
        if not all(0 <= each < len(self._tokenizer) and each not in self._ends for each in body):
            return False
        spelled = self._tokenizer.decode(body, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return str(spelled).strip() == text.strip()

    def closed(self, ids: Sequence[int]) -> list[int]:
        """With one stop token at the end: what does not learn to stop never stops, and nothing follows a stop."""
        body = self._body(ids)
        emitted = ids[len(body)] if len(body) < len(ids) else self.stop_id
        return [*body, emitted if emitted in self.stop_ids else self.stop_id]

    def _body(self, ids: Sequence[int]) -> list[int]:
        """Without the stop tokens at the end."""
        body = list(ids)
        while body and body[-1] in self._ends:
            body.pop()
        return body


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
    misspelled: int = 0
    """Rows whose recorded ids are not the recorded answer (another model's vocabulary, a part that was cut off by the
    endpoint): their ids were made from the text."""
    unreadable: int = 0
    """Rows whose messages are no list of messages."""
    prompt_tokens: int = 0
    completion_tokens: int = 0


@dataclass(frozen=True)
class Encoders:
    """The student's, and the teacher's where it writes prompts in another way."""

    student: ChatEncoder
    teacher: ChatEncoder | None
    """None: the same chat template, so the same prompt ids."""


def encode_rows(
    rows: Iterable[dict[str, Any]], encoders: Encoders, spec: EncodeSpec, counts: Counts
) -> Iterator[dict[str, Any]]:
    """One output row for each example that fits: the student's prompt, the answer, and the teacher's own prompt."""
    for row in rows:
        messages = _messages(row["messages"])
        if messages is None:
            counts.unreadable += 1
            continue
        recorded = spec.teacher is not None and row["prompt_ids"] and row["completion_ids"]
        if recorded and not encoders.student.spells(row["completion_ids"], row["completion"] or ""):
            recorded = False
            counts.misspelled += 1
        if encoders.teacher is None:
            prompt = list(row["prompt_ids"]) if recorded else encoders.student.prompt(messages)
            teacher_prompt = prompt
        else:
            prompt = encoders.student.prompt(messages)
            teacher_prompt = list(row["prompt_ids"]) if recorded else encoders.teacher.prompt(messages)
        corrected = row["correction"] is not None
        if recorded and not corrected:
            completion = encoders.student.closed(row["completion_ids"])
        else:
            completion = encoders.student.completion(row["correction"] if corrected else row["completion"] or "")
        if spec.max_tokens is not None and len(prompt) + len(completion) > spec.max_tokens:
            counts.too_long += 1
            continue
        counts.rows += 1
        counts.rendered += not recorded
        counts.corrected += corrected
        counts.prompt_tokens += len(prompt)
        counts.completion_tokens += len(completion)
        yield {
            "decision_id": row["decision_id"], "prompt_ids": prompt, "completion_ids": completion, "k": 0,
            "head_ids": [], "head_logprobs": [], "corrected": corrected, TEACHER_PROMPT: teacher_prompt,
        }  # fmt: skip


def _messages(text: str | None) -> list[dict[str, Any]] | None:
    try:
        return msgspec.json.decode(text or "", type=list[dict[str, Any]])
    except msgspec.DecodeError:
        return None


def load_encoder(folder: Path, foreign_stop_ids: Sequence[int] = ()) -> ChatEncoder:
    """Raises: StageError."""
    return ChatEncoder(load_tokenizer(folder), str(folder), _stop_ids(folder), foreign_stop_ids)


def _stop_ids(folder: Path) -> list[int]:
    """All tokens that end an answer, as generation_config.json lists them."""
    try:
        value = json.loads((folder / "generation_config.json").read_text(encoding="utf-8")).get("eos_token_id")
    except (OSError, ValueError):
        return []
    return [each for each in (value if isinstance(value, list) else [value]) if isinstance(each, int)]


def _encoders(spec: EncodeSpec) -> Encoders:
    if spec.teacher is None:
        return Encoders(load_encoder(Path(spec.model)), None)
    teacher = load_encoder(Path(spec.teacher))
    student = load_encoder(Path(spec.model), sorted(teacher.stop_ids))
    return Encoders(student, None if teacher.template == student.template else teacher)


def run(spec: EncodeSpec, progress: Progress) -> protocol.Result:
    encoders = _encoders(spec)
    counts = Counts()
    out = Path(spec.out)
    partial = out.with_name(f".{out.name}.partial")
    schema = token_schema()
    if spec.teacher is not None:
        schema = schema.append(pa.field(TEACHER_PROMPT, pa.list_(pa.int32())))
    with pq.ParquetFile(spec.examples) as source, pq.ParquetWriter(partial, schema, compression="zstd") as writer:
        total, done = source.metadata.num_rows, 0
        for batch in source.iter_batches(BATCH_ROWS, columns=list(COLUMNS)):
            rows = list(encode_rows(batch.to_pylist(), encoders, spec, counts))
            writer.write_table(pa.Table.from_pylist(rows, schema=schema))
            done += batch.num_rows
            progress(done, total, "examples encoded")
    with partial.open("rb") as file:
        os.fsync(file.fileno())
    partial.replace(out)
    result: dict[str, Any] = msgspec.to_builtins(counts)
    return {**result, "other_template": encoders.teacher is not None}


if __name__ == "__main__":
    sys.exit(protocol.main(EncodeSpec, run))
