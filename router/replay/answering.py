"""From a line to a line: what `worker.py` does with a question. Imports numpy."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from policies.replay.replay import NothingToReplay
from policies.traffic.reader import TrafficError
from router.replay.session import Question, Session, WrongQuestion
from router.replay.worker import Answer

MAX_RECORDS = 250_000
"""Of the newest. They take about 500 bytes each."""


def responder() -> Callable[[bytes], Answer]:
    """Answers lines one after the other, with the columns of the log kept between them."""
    session = Session(max_records=MAX_RECORDS)

    def respond(line: bytes) -> Answer:
        try:
            question = msgspec.json.decode(line, type=Question, dec_hook=_decoded)
            return Answer(result=msgspec.Raw(msgspec.json.encode(session.answer(question))))
        except (WrongQuestion, msgspec.ValidationError) as exc:
            return Answer(kind="wrong", problem=str(exc))
        except NothingToReplay as exc:
            return Answer(kind="empty", problem=str(exc))
        except (TrafficError, OSError) as exc:
            return Answer(kind="log", problem=str(exc))

    return respond


def _decoded(kind: type, value: object) -> object:
    return kind(value)
