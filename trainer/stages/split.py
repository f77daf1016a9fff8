"""Split: which sessions are trained on and which only measure. Whole sessions, the newest ones for validation.

A session on both sides would let the student recite instead of generalise, and a random split would test it on the
past. Where the client names no session, requests that begin with the same turns are one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec

from trainer.recipe import Recipe
from trainer.similarity.texts import NotText, digest, normalise, turns_of
from trainer.stage import Json, StageContext, StageError, Summary
from trainer.tables import EXAMPLES, Example, ExampleWriter, count_rows, read_examples

TRAIN = "train.parquet"
VALIDATION = "validation.parquet"


@dataclass
class Session:
    rows: int = 0
    last_s: float = float("-inf")
    """Time of its newest row."""


class Split:
    name = "split"
    needs = ("decontaminate",)
    version = 1

    def key(self, recipe: Recipe) -> Json:
        return recipe.split.model_dump(mode="json")

    def run(self, context: StageContext) -> Summary:
        options = context.recipe.split
        source = context.inputs["decontaminate"] / EXAMPLES
        sessions = _sessions(source)
        held_out = newest(sessions, options.validation_share, options.seed)
        total = count_rows(source)
        if options.validation_share > 0 and not held_out:
            raise StageError(
                f"all {total} rows are of one session: there is nothing to hold out. Set split.validation_share = 0 or "
                "bring more sessions"
            )
        border_s = min((sessions[key].last_s for key in held_out), default=None)
        train, validation = ExampleWriter(context.folder / TRAIN), ExampleWriter(context.folder / VALIDATION)
        with train, validation:
            for done, example in enumerate(read_examples(source)):
                (validation if session_of(example) in held_out else train).keep(example)
                if done % 1000 == 0:
                    context.progress(done, total, "rows")
        return {
            "rows_in": total, "rows_out": total, "dropped": {}, "train_rows": train.count,
            "validation_rows": validation.count, "train_sessions": len(sessions) - len(held_out),
            "validation_sessions": len(held_out), "validation_from_s": border_s,
        }  # fmt: skip


def session_of(example: Example) -> bytes:
    """What keeps the requests of one conversation together."""
    if example.session is not None:
        return digest("session", example.tenant, example.session)
    try:
        turns = turns_of(msgspec.json.decode(example.messages))
    except NotText:
        return digest("row", example.decision_id)
    first = next((index for index, turn in enumerate(turns) if turn.role == "user"), len(turns) - 1)
    return digest("opening", example.tenant, *(normalise(turn.text) for turn in turns[: first + 1]))


def newest(sessions: Mapping[bytes, Session], share: float, seed: int) -> set[bytes]:
    """The newest sessions with about `share` of all rows, at least one, never all; one that is most of the data stays.

    Sessions of the same age are ordered by a hash with the seed.
    """
    if share <= 0 or len(sessions) < 2:
        return set()
    total = sum(session.rows for session in sessions.values())
    order = sorted(sessions, key=lambda each: (-sessions[each].last_s, _mixed(each, seed)))
    chosen: set[bytes] = set()
    rows = 0
    for session in order:
        size = sessions[session].rows
        if 2 * size > total:
            continue  # most of the data cannot be held out
        if chosen and (rows + size / 2 > share * total or len(chosen) == len(sessions) - 1):
            break
        chosen.add(session)
        rows += size
    return chosen


def _mixed(session: bytes, seed: int) -> bytes:
    return hashlib.blake2b(session, key=str(seed).encode()[:64], digest_size=16).digest()


def _sessions(source: Path) -> dict[bytes, Session]:
    found: dict[bytes, Session] = {}
    for example in read_examples(source):
        session = found.setdefault(session_of(example), Session())
        session.rows += 1
        session.last_s = max(session.last_s, example.created_s)
    return found


STAGE = Split()
