"""What the student's machines cost, request by request: measured time at the machine's price.

A machine is paid for by the hour, busy or not. While it has requests, each of the n in flight is charged 1/n of the
time that passes; while it has none, the time is idle. So for every moment

    charged to requests + idle = uptime * price

The clock keeps the integral of dt/n, as fair queueing does: what a request is charged is the difference between its
end and its beginning, whatever the others did meanwhile.

Requests of other gateways are not seen: where several share a machine, each is given its share of the price.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, Protocol

from router.workers.shared_metrics import FOLDER_VARIABLE

SECONDS_PER_HOUR = 3600
PREFIX, SUFFIX = "machine_", ".clock"
_STATE, _SLOT = struct.Struct("<dddq"), struct.Struct("<qqd")
_SLOTS = range(_STATE.size, _STATE.size + 1024 * _SLOT.size, _SLOT.size)
"""Where the workers' own notes begin: four times as many as there can be, for old and new ones overlap in a restart."""
_SIZE = _SLOTS.stop

Clock = Callable[[], float]


class Reading(NamedTuple):
    """Where a machine's clock stands."""

    share_s: float
    """Integral of dt/n over the time with n > 0 requests."""
    idle_s: float
    """Idle time that was not taken yet (`MachineClock.take_idle_usd`)."""
    at_s: float
    """Up to when, on the monotonic clock, which all processes of a host share."""
    inflight: int

    def advanced(self, now_s: float) -> Reading:
        passed_s = now_s - self.at_s
        if self.inflight:
            return Reading(self.share_s + passed_s / self.inflight, self.idle_s, now_s, self.inflight)
        return Reading(self.share_s, self.idle_s + passed_s, now_s, 0)


class HasMachine(Protocol):
    machine: MachineClock | None


class Metered(Protocol):
    """An attempt at a backend."""

    @property
    def backend(self) -> HasMachine: ...


class Register(Protocol):
    """Holds the reading. `change` is atomic."""

    def change(self, now_s: Clock, *, entered: int = 0, entered_at: float = 0.0, take_idle: bool = False) -> Reading:
        """Advance to now, then let a request in (1) or out (-1).

        Args:
            entered_at: `share_s` at which the request that leaves had come.
            take_idle: begin a new count of idle time.
        Returns:
            The reading as it is now, with the idle time that was taken.
        """


class OwnRegister:
    """Of one process."""

    def __init__(self, now_s: float) -> None:
        self._reading = Reading(0, 0, now_s, 0)

    def change(self, now_s: Clock, *, entered: int = 0, entered_at: float = 0.0, take_idle: bool = False) -> Reading:
        reading = self._reading.advanced(now_s())
        idle_s = 0 if take_idle else reading.idle_s  # an int: the sums of a test are fractions
        self._reading = reading._replace(idle_s=idle_s, inflight=reading.inflight + entered)
        return reading


class SharedRegister:
    """Of several workers, in a file that all of them map. Each notes its own requests, so that they can be told apart
    when it is killed."""

    def __init__(self, path: Path, now_s: Clock) -> None:
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        with self._locked():
            if os.fstat(self._file).st_size < _SIZE:
                os.ftruncate(self._file, _SIZE)
                os.pwrite(self._file, _STATE.pack(0.0, 0.0, now_s(), 0), 0)
            self._map = mmap.mmap(self._file, _SIZE)
        self._slot: int | None = None

    def close(self) -> None:
        self._map.close()
        os.close(self._file)

    def change(self, now_s: Clock, *, entered: int = 0, entered_at: float = 0.0, take_idle: bool = False) -> Reading:
        with self._locked():
            reading = self._read().advanced(now_s())
            if entered:
                slot = self._own_slot() if self._slot is None else self._slot
                pid, count, sum_entered = _SLOT.unpack_from(self._map, slot)
                sum_entered += reading.share_s if entered > 0 else -entered_at
                _SLOT.pack_into(self._map, slot, pid, count + entered, sum_entered)
            self._write(
                reading._replace(idle_s=0.0 if take_idle else reading.idle_s, inflight=reading.inflight + entered)
            )
            return reading

    def bury(self, pid: int, now_s: Clock) -> None:
        """End the requests of a worker that has ended. What they were charged so far is nobody's: it counts as idle."""
        with self._locked():
            for slot in _SLOTS:
                owner, count, sum_entered = _SLOT.unpack_from(self._map, slot)
                if owner == pid:
                    reading = self._read().advanced(now_s())
                    lost_s = count * reading.share_s - sum_entered
                    self._write(reading._replace(idle_s=reading.idle_s + lost_s, inflight=reading.inflight - count))
                    _SLOT.pack_into(self._map, slot, 0, 0, 0.0)

    def _own_slot(self) -> int:
        """Raises: RuntimeError."""
        for slot in _SLOTS:
            if not _SLOT.unpack_from(self._map, slot)[0]:
                _SLOT.pack_into(self._map, slot, os.getpid(), 0, 0.0)
                self._slot = slot
                return slot
        raise RuntimeError("more workers than there is room for")

    def _read(self) -> Reading:
        return Reading(*_STATE.unpack_from(self._map))

    def _write(self, reading: Reading) -> None:
        _STATE.pack_into(self._map, 0, *reading)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        fcntl.flock(self._file, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.flock(self._file, fcntl.LOCK_UN)


class MachineClock:
    """One machine and its price."""

    def __init__(self, usd_per_hour: float, register: Register, now_s: Clock = time.monotonic) -> None:
        self._usd_per_s = usd_per_hour / SECONDS_PER_HOUR
        self._register = register
        self._now_s = now_s
        self.on_charge: Callable[[float], None] = lambda usd: None
        """Is told what each request was charged."""

    def enter(self) -> float:
        """A request begins. Returns what `leave` has to know."""
        return self._register.change(self._now_s, entered=1).share_s

    def leave(self, entered_at: float) -> float:
        """It has ended. Returns its share of the machine's time, in USD."""
        reading = self._register.change(self._now_s, entered=-1, entered_at=entered_at)
        usd = (reading.share_s - entered_at) * self._usd_per_s
        self.on_charge(usd)
        return usd

    def take_idle_usd(self) -> float:
        """What idle time has cost since the last call, in whichever process."""
        return self._register.change(self._now_s, take_idle=True).idle_s * self._usd_per_s


class MachineUse:
    """What one request takes of the student's machines: failed attempts and drafts that were thrown away included."""

    __slots__ = ("_open", "usd")

    def __init__(self) -> None:
        self.usd = 0.0
        """Of the attempts that have ended."""
        self._open: dict[object, tuple[MachineClock, float]] = {}

    def began(self, attempt: Metered) -> None:
        clock = attempt.backend.machine
        if clock is not None:
            self._open[attempt] = clock, clock.enter()

    def answered(self, attempt: Metered) -> None:
        """It goes on until its last token."""

    def ended(self, attempt: Metered, cause: str | None) -> None:
        self._end(attempt)

    def close(self) -> float:
        """End what is still open: the request's record is being written. Returns USD."""
        for attempt in list(self._open):
            self._end(attempt)
        return self.usd

    def _end(self, attempt: object) -> None:
        found = self._open.pop(attempt, None)
        if found is not None:
            clock, entered_at = found
            self.usd += clock.leave(entered_at)


def machine_of(name: str, usd_per_hour: float | None) -> MachineClock | None:
    """The clock of an endpoint's machine, which all workers share; None without a price.

    Args:
        name: of the endpoint: successive models that it serves share its machine.
    """
    if usd_per_hour is None:
        return None
    folder = os.environ.get(FOLDER_VARIABLE)
    if not folder:
        return MachineClock(usd_per_hour, OwnRegister(time.monotonic()))
    path = Path(folder) / f"{PREFIX}{name.encode().hex()}{SUFFIX}"
    return MachineClock(usd_per_hour, SharedRegister(path, time.monotonic))


def bury_requests(folder: Path, pid: int) -> None:
    """End the requests that a worker had in flight when it ended."""
    for path in folder.glob(f"{PREFIX}*{SUFFIX}"):
        register = SharedRegister(path, time.monotonic)
        register.bury(pid, time.monotonic)
        register.close()
