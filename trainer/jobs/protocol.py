"""How a job talks to the process that started it: JSON lines on standard output, everything else on standard error."""

from __future__ import annotations

import errno
import os
import sys
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import msgspec

from trainer.stage import Progress, StageError

Spec = TypeVar("Spec")
Result = Mapping[str, Any]
"""A JSON object; large things go into files that it names."""


class ProgressLine(msgspec.Struct, frozen=True, tag="progress"):
    done: int
    total: int | None
    unit: str


class ResultLine(msgspec.Struct, frozen=True, tag="result"):
    value: dict[str, Any]


class ErrorLine(msgspec.Struct, frozen=True, tag="error"):
    """What went wrong, for a person: the field or file and the fix."""

    message: str


Line = ProgressLine | ResultLine | ErrorLine
encode = msgspec.json.Encoder().encode
decode_line = msgspec.json.Decoder(Line).decode


def main(spec_type: type[Spec], run: Callable[[Spec, Progress], Result]) -> int:
    """Read the spec that the command line names, run, report. Returns the exit code.

    Standard output is moved out of the way of libraries that print: what they write there goes to standard error.
    """
    with os.fdopen(os.dup(1), "wb", buffering=0) as out:
        os.dup2(2, 1)
        try:
            spec = msgspec.json.decode(Path(sys.argv[1]).read_bytes(), type=spec_type)
            result = run(spec, _reporter(out))
        except StageError as exc:
            out.write(encode(ErrorLine(str(exc))) + b"\n")
            return 1
        except (OSError, RuntimeError, MemoryError) as exc:
            traceback.print_exc()
            if (message := explain(exc)) is not None:
                out.write(encode(ErrorLine(message)) + b"\n")
            return 1
        out.write(encode(ResultLine(dict(result))) + b"\n")
    return 0


def explain(exc: OSError | RuntimeError | MemoryError) -> str | None:
    """The two shortages that an operator can mend, named; None for anything else, which the log explains."""
    text = str(exc)
    if (isinstance(exc, OSError) and exc.errno in (errno.ENOSPC, errno.EDQUOT)) or "No space left on device" in text:
        where = getattr(exc, "filename", None)
        return f"the disk is full{f' at {where}' if where else ''}: free space and run again, what is done is kept"
    if isinstance(exc, MemoryError) or "out of memory" in text.lower() or "can't allocate memory" in text:
        return f"out of memory ({text.splitlines()[0] if text else 'MemoryError'}): {MEMORY_FIX}"
    return None


MEMORY_FIX = "lower train.micro_batch_size or train.max_tokens, or free memory"


def _reporter(out: BinaryIO) -> Progress:
    def report(done: int, total: int | None, unit: str) -> None:
        out.write(encode(ProgressLine(done, total, unit)) + b"\n")

    return report
