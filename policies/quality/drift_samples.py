"""What drift detection keeps of one request, and how it is counted: no text, nothing that could be read back.

`sample_of` is cheap and cuts what it copies; `Digester` does the work, away from the event loop.
"""

from __future__ import annotations

import hashlib
import math
import random
import re
from collections.abc import Sequence
from operator import mul

import msgspec

from policies.drafts.validity import is_empty
from policies.grading import is_refusal
from policies.quality.drift_summaries import BINS, PROJECTION_BINS, Stream, Summary
from policies.record import DecisionRecord

TURN_CHARS = 600
OPENING_CHARS = 400
"""Of the answer; a refusal shows in its first words."""
JSON_CHARS = 16 * 1024
"""Longer answers are not checked."""
PIECES = 64
"""Of words, of the last user turn."""
WORD_DIRECTIONS = 16
EMBEDDING_DIRECTIONS = 8
SEED = 20_071
_PIECE = re.compile(r"\w{1,4}")
_KEPT_PIECES = 8192


class Sample(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """What is looked at."""

    created_s: float
    student: str
    route: str
    tag: str
    """Value of the tag by which requests are told apart; empty: there is none."""
    prompt_tokens: int | None
    completion_tokens: int | None
    finish_reason: str | None
    messages: int | None
    flags: tuple[tuple[str, bool], ...]
    turn: str
    """Beginning of the last user turn; empty where it was not captured."""
    answer: str | None
    """None where it was not captured: its beginning, or all of it where it should be JSON."""
    should_be_json: bool
    embedding: tuple[float, ...] | None
    fingerprint: str | None


def sample_of(
    record: DecisionRecord, tag: str | None = None, embedding: tuple[float, ...] | None = None
) -> Sample | None:
    """None: the record tells nothing about traffic.

    Args:
        tag: key of the tag whose values are told apart.
        embedding: of the last user turn, where the gateway has measured one; records do not keep it.
    """
    if record.purpose != "traffic" or record.route is None or record.outcome not in ("ok", "degraded"):
        return None
    features, answer = record.features, record.completion
    should_be_json = features is not None and features.has_response_format
    if answer is not None and not (should_be_json and len(answer) <= JSON_CHARS):
        should_be_json, answer = False, answer[:OPENING_CHARS]
    flags: tuple[tuple[str, bool], ...] = ()
    if features is not None:
        flags = (
            ("tools", features.has_tools),
            ("response_format", features.has_response_format),
            ("images", features.has_images),
            ("chunks", bool(features.chunks)),
        )
    return Sample(
        created_s=record.created_s,
        student=record.student,
        route=record.route,
        tag=record.tags.get(tag, "none") if tag is not None else "",
        prompt_tokens=features.approx_prompt_tokens if features is not None else None,
        completion_tokens=record.usage.completion_tokens if record.usage is not None else None,
        finish_reason=record.finish_reason,
        messages=features.message_count if features is not None else None,
        flags=flags,
        turn=features.last_user_turn[:TURN_CHARS] if features is not None else "",
        answer=answer,
        should_be_json=should_be_json,
        embedding=embedding,
        fingerprint=record.backend_fingerprint,
    )


class Digester:
    """Counts samples. One instance a thread."""

    def __init__(self) -> None:
        self._pieces: dict[str, tuple[int, ...]] = {}
        self._rows: dict[int, list[list[float]]] = {}

    def add(self, sample: Sample, summary: Summary) -> None:
        """Count one sample in the streams that it belongs to: of all traffic and of its route, each also by tag."""
        summary.note(sample.created_s)
        tag = summary.tag(sample.tag)
        projected = self._projected(sample)
        for name in {"", tag}:
            self._add_input(sample, projected, summary.stream("", name))
            self._add_answer(sample, summary.stream(sample.route, name))
        if sample.fingerprint is not None and sample.route == "teacher":
            summary.note_fingerprint(sample.fingerprint)

    def _add_input(self, sample: Sample, projected: dict[str, int], stream: Stream) -> None:
        if sample.prompt_tokens is not None:
            stream.bin("prompt_tokens", log_bin(sample.prompt_tokens), BINS)
        if sample.messages is not None:
            stream.bin("messages", min(sample.messages, BINS - 1), BINS)
        for name, flag in sample.flags:
            stream.hit(name, flag)
        for name, place in projected.items():
            stream.bin(name, place, PROJECTION_BINS)

    def _add_answer(self, sample: Sample, stream: Stream) -> None:
        if sample.completion_tokens is not None:
            stream.bin("length", log_bin(sample.completion_tokens), BINS)
        if sample.finish_reason is not None:
            stream.hit("truncated", sample.finish_reason == "length")
        answer = sample.answer
        if answer is None:
            return
        empty = is_empty(answer, sample.finish_reason)
        stream.hit("empty", empty)
        if not answer.strip():
            return  # a call, or nothing
        stream.hit("refusal", sample.finish_reason == "content_filter" or is_refusal(answer))
        if sample.should_be_json and sample.finish_reason != "length":
            stream.hit("broken_json", not is_json(answer))

    def _projected(self, sample: Sample) -> dict[str, int]:
        """Where the input lies on some fixed random directions."""
        places: dict[str, int] = {}
        if sample.embedding is not None:
            rows = self._directions(len(sample.embedding))
            for number, row in enumerate(rows):
                places[f"embedding{number}"] = projection_bin(sum(map(mul, row, sample.embedding)))
        elif sample.turn:
            for number, value in enumerate(self._of_words(sample.turn)):
                places[f"words{number}"] = projection_bin(value)
        return places

    def _directions(self, size: int) -> list[list[float]]:
        if size not in self._rows:
            chance = random.Random(SEED)  # noqa: S311 - the same directions everywhere and always, no secret
            self._rows[size] = [[chance.choice((-1.0, 1.0)) for _ in range(size)] for _ in range(EMBEDDING_DIRECTIONS)]
        return self._rows[size]

    def _of_words(self, turn: str) -> Sequence[float]:
        """The text as a bag of pieces of words, each a random vector of signs; scaled to variance 1."""
        pieces = _PIECE.findall(turn.casefold())[:PIECES]
        if not pieces:
            return ()
        scale = math.sqrt(len(pieces))
        return [sum(signs) / scale for signs in zip(*map(self._signs, pieces), strict=True)]

    def _signs(self, piece: str) -> tuple[int, ...]:
        found = self._pieces.get(piece)
        if found is None:
            if len(self._pieces) >= _KEPT_PIECES:
                self._pieces.clear()
            digest = hashlib.blake2b(piece.encode("utf-8", "replace"), digest_size=2).digest()
            bits = int.from_bytes(digest)
            found = self._pieces[piece] = tuple(2 * (bits >> j & 1) - 1 for j in range(WORD_DIRECTIONS))
        return found


def log_bin(tokens: int) -> int:
    """Three bins a doubling: 0, 1, 2, 3, ... about 26 % apart."""
    return min(BINS - 1, math.ceil(3 * math.log2(tokens)) + 1 if tokens > 0 else 0)


def projection_bin(value: float) -> int:
    """Bins of 0.2 between -3.2 and 3.2."""
    return max(0, min(PROJECTION_BINS - 1, int(value * 5) + PROJECTION_BINS // 2 - (value < 0)))


def is_json(text: str) -> bool:
    """Whether the whole text is one JSON value."""
    try:
        msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeEncodeError, RecursionError):
        return False
    return True
