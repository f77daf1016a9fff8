"""The evaluation set: human-labelled cases, pinned by their hash, never part of the training data."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import msgspec

from trainer.stage import StageError

MAX_NAMED = 5
"""Problems that an error message names before it only counts."""


class Message(msgspec.Struct, frozen=True):
    role: str
    content: str


class Case(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One line of the set."""

    id: str
    messages: tuple[Message, ...]
    label: str
    """The right answer, in the form that the recipe's grader compares."""
    category: str = "all"
    context: str | None = None
    """Text that belongs before the last user message, such as a retrieved passage."""

    def prompt(self) -> list[dict[str, str]]:
        """The messages of the request, the context included."""
        last = max((i for i, each in enumerate(self.messages) if each.role == "user"), default=len(self.messages) - 1)
        return [
            {
                "role": each.role,
                "content": f"{self.context}\n\n{each.content}" if self.context and i == last else each.content,
            }
            for i, each in enumerate(self.messages)
        ]


def load_cases(path: Path, what: str, *, sha256: str | None = None) -> list[Case]:
    """Read and check a set. `what` is the recipe's key, for messages.

    Raises:
        StageError: unreadable, another hash than pinned, a bad line, an id twice, no case.
    """
    try:
        data = path.read_bytes()
    except OSError as exc:
        raise StageError(f"{what}: {path} cannot be read: {exc.strerror}") from exc
    if sha256 is not None and (actual := hashlib.sha256(data).hexdigest()) != sha256:
        raise StageError(
            f"{what}: {path} has sha256 {actual}, the recipe pins {sha256}; the set was changed after it was pinned. "
            "Restore it; a new set needs a new recipe and a new run"
        )
    decoder = msgspec.json.Decoder(Case)
    cases: list[Case] = []
    for number, line in enumerate(data.splitlines(), 1):
        if not line.strip():
            continue
        try:
            case = decoder.decode(line)
        except msgspec.MsgspecError as exc:
            raise StageError(f"{what}: {path}, line {number}: {exc}") from exc
        if not case.messages:
            raise StageError(f"{what}: {path}, line {number}: messages is empty")
        if not case.label.strip():
            raise StageError(f"{what}: {path}, line {number}: label is empty, which an empty answer would match")
        cases.append(case)
    if not cases:
        raise StageError(f"{what}: {path} has no case")
    if doubled := _doubled(case.id for case in cases):
        raise StageError(f"{what}: {path}: the id {doubled[0]!r} occurs twice; ids must be unique")
    return cases


def _doubled(ids: Iterable[str]) -> list[str]:
    seen: set[str] = set()
    return [each for each in ids if each in seen or seen.add(each)]  # type: ignore[func-returns-value]


def prompt_hash(messages: Sequence[dict[str, Any]]) -> str:
    """Of what the user and the assistant said, without case and spacing; instructions of the system do not count."""
    lines = [
        f"{each.get('role', '')}: {_normal(_text(each.get('content')))}"
        for each in messages
        if each.get("role") not in ("system", "developer")
    ]
    return hashlib.sha256("\n".join(lines).encode("utf-8", "surrogatepass")).hexdigest()


def _text(content: object) -> str:
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        parts = (part.get("text") for part in content if isinstance(part, dict))
        return "".join(part for part in parts if isinstance(part, str))
    return ""


def _normal(text: str) -> str:
    return re.sub(r"\s+", " ", text).strip().casefold()


def trained_ids(cases: Sequence[Case], split: Path) -> set[str]:
    """Ids of the cases whose prompt the student was trained or validated on.

    Args:
        split: the finished folder of the stage split.
    """
    import pyarrow.parquet as pq  # noqa: PLC0415 - heavy

    hashes: dict[str, set[str]] = {}
    for case in cases:
        bare = [{"role": each.role, "content": each.content} for each in case.messages]
        for prompt in (case.prompt(), bare):
            hashes.setdefault(prompt_hash(prompt), set()).add(case.id)
    found: set[str] = set()
    for name in ("train.parquet", "validation.parquet"):
        with pq.ParquetFile(split / name) as file:
            for batch in file.iter_batches(columns=["messages"]):
                for value in batch.column(0).to_pylist():
                    found |= hashes.get(prompt_hash(msgspec.json.decode(value)), set())
    return found


def refuse_trained_cases(cases: Sequence[Case], split: Path, what: str) -> None:
    """Raises: StageError: a case's prompt is part of the training data; it names the first few."""
    if found := sorted(trained_ids(cases, split)):
        named = ", ".join(repr(each) for each in found[:MAX_NAMED])
        raise StageError(
            f"{what}: {len(found)} cases have a prompt that is also in the training data ({named}); an evaluation on "
            "training data proves nothing. Run again with --from decontaminate and this set"
        )


def refuse_overlap(labels: Sequence[Case], cases: Sequence[Case]) -> None:
    """Raises: StageError: a case that sets the threshold is also one that judges it."""
    judged = {prompt_hash(case.prompt()): case.id for case in cases}
    shared = [case.id for case in labels if prompt_hash(case.prompt()) in judged]
    if shared:
        named = ", ".join(repr(each) for each in shared[:MAX_NAMED])
        raise StageError(
            f"recalibrate.labels: {len(shared)} cases are also in evaluate.dataset ({named}); "
            "a threshold must not be set on the cases that judge it. Take them out"
        )


def shared_system_prompt(cases: Sequence[Case]) -> list[dict[str, str]]:
    """The system message that all cases begin with: how the model is deployed. Empty when they differ."""
    first = {case.messages[0] for case in cases}
    if len(first) != 1:
        return []
    message = next(iter(first))
    return [{"role": message.role, "content": message.content}] if message.role in ("system", "developer") else []
