"""The process behind `/admin/replay`: one question a line on stdin, one answer a line on stdout.

A process of its own: reading a log and estimating on it would hold the gateway's event loop up, and its memory goes
when it ends. It yields to the gateway (`nice`).
"""

from __future__ import annotations

import contextlib
import os
import sys

import msgspec

NICENESS = 10


class Answer(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What comes back: a result or what is wrong."""

    result: msgspec.Raw | None = None
    problem: str | None = None
    kind: str = ""
    """`wrong`: the question; `log`: the log; `missing`: a package."""


def main() -> None:
    """Answer until stdin ends."""
    with contextlib.suppress(OSError):
        os.nice(NICENESS)
    try:
        from router.replay import answering  # noqa: PLC0415 - numpy
    except ImportError as exc:
        _write(Answer(kind="missing", problem=f"replay needs {exc.name}: pip install 'locum[loop]'"))
        return
    respond = answering.responder()
    for line in sys.stdin.buffer:
        _write(respond(line))


def _write(answer: Answer) -> None:
    sys.stdout.buffer.write(msgspec.json.encode(answer) + b"\n")
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
