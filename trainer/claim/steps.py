"""Steps that are done once: each leaves a JSON file, and a resumed run reads it instead of working again."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from policies.durable import write_atomically
from serving.demo.progress import Steps
from trainer.stage import Progress

Result = dict[str, Any]
PINNED = ".run.json"
MINUTES = ".minutes.json"


class OtherRun(ValueError):
    """The work folder belongs to a run with other settings or data."""


class Ledger:
    """What this run has finished, in `<work>/steps/`."""

    def __init__(self, folder: Path, steps: Steps, clock: Callable[[], float] = time.monotonic) -> None:
        self._folder = folder
        self._steps = steps
        self._clock = clock
        self._since = clock()
        self._lock = threading.Lock()
        folder.mkdir(parents=True, exist_ok=True)

    def found(self, name: str) -> Result | None:
        """The result of a finished step."""
        try:
            result: Result = json.loads((self._folder / f"{name}.json").read_bytes())
        except FileNotFoundError:
            return None
        self._steps.done(name, "done before")
        return result

    def keep(self, name: str, result: Result) -> Result:
        """Write a step's result; from now on the step is done."""
        with self._lock:  # the variants are trained by several threads
            write_atomically(self._folder / f"{name}.json", _encoded(result))
            now = self._clock()
            write_atomically(self._folder / MINUTES, _encoded({"minutes": self.minutes() + (now - self._since) / 60}))
            self._since = now
        self._steps.done(name, _short(result))
        return result

    def minutes(self) -> float:
        """What the finished steps took, over all starts of this run; what was cut off and done again counts once."""
        try:
            return float(json.loads((self._folder / MINUTES).read_bytes())["minutes"])
        except FileNotFoundError:
            return 0.0

    def pin(self, what: Result) -> None:
        """Write down what this run is a run of; one that goes on must be of the same.

        Raises:
            OtherRun: the folder holds the steps of another one.
        """
        path = self._folder / PINNED
        wanted = json.loads(json.dumps(what))
        if not path.exists():
            write_atomically(path, _encoded(wanted))
            return
        known = json.loads(path.read_bytes())
        if changed := sorted(name for name in {*known, *wanted} if known.get(name) != wanted.get(name)):
            raise OtherRun(
                f"{self._folder.parent} holds a run with another {', '.join(changed)}; its steps would be mixed with "
                "those of this one. Choose another folder by --work, or remove it"
            )

    def progress(self, name: str) -> Progress:
        """A step's progress with the time that is left at the present speed."""
        first: list[tuple[float, int]] = []

        def show(done: int, total: int | None, unit: str) -> None:
            if total is None or not total:
                self._steps.update(name, unit)
                return
            now = self._clock()
            if not first or done < first[0][1]:
                first[:] = [(now, done)]
            since, at = first[0]
            left = (now - since) / (done - at) * (total - done) if done > at else None
            eta = f", {left / 60:.1f} min left" if left is not None and left >= 5 else ""
            self._steps.update(name, f"{done:,} of {total:,} {unit}{eta}")

        return show

    @contextlib.contextmanager
    def timed(self, result: Result) -> Iterator[Result]:
        """Adds `seconds` to a result."""
        started = self._clock()
        yield result
        result["seconds"] = round(self._clock() - started, 1)


def _encoded(result: Result) -> bytes:
    return json.dumps(result, indent=1).encode()


def _short(result: Result) -> str:
    shown = {key: value for key, value in result.items() if isinstance(value, (int, float, str)) and value != ""}
    return ", ".join(f"{key} {value}" for key, value in list(shown.items())[:6])
