"""The configuration file while the gateway runs: an edit of what the policy document holds becomes a version.

Reread on SIGHUP, and when the file has changed and then kept still for a moment (an editor writes more than once). What
else was edited waits for a restart, and is named.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from signal import SIGHUP
from threading import current_thread, main_thread
from typing import Literal

import msgspec
from pydantic import BaseModel

from router.config import Config, ConfigError
from router.config_file import parse
from router.documents.document import DocumentRejected, PolicyDocument, ServerBounds
from router.documents.live import LivePolicy
from router.errors import StateUnavailable, VersionConflict

logger = logging.getLogger(__name__)

POLL_INTERVAL_S = 0.25
MAX_FILE_BYTES = 4 * 2**20

Result = Literal["installed", "unchanged", "refused"]
"""`unchanged` also where another worker of this machine was faster."""


class Reload(msgspec.Struct, frozen=True, kw_only=True):
    """What came of reading the file once more."""

    time_s: float
    result: Result
    from_version: int
    version: int
    """In force before and afterwards."""
    problems: tuple[str, ...] = ()
    needs_restart: tuple[str, ...] = ()
    """Keys that differ from what this process started with and that it cannot change while it serves."""


Report = Callable[[Reload], Awaitable[None]]


class ConfigFile:
    """The file that one process was started with."""

    def __init__(
        self, path: Path, started_with: Config, live: LivePolicy, *, watch: bool, report: Report | None = None
    ) -> None:
        """
        Args:
            watch: whether an edit is noticed; SIGHUP always is.
            report: gets every reload that read a changed file, for the audit log.
        """
        self.last: Reload | None = None
        self._path = path
        self._started_with = started_with
        self._live = live
        self._watch = watch
        self._report = report
        self._seen = self._fingerprint()
        self._digest = self._digest_now()
        self._hangup = asyncio.Event()

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            edited = self._watch and await self._was_edited()
            if self._hangup.is_set():
                self._hangup.clear()
                await self.reload("SIGHUP")
            elif edited and self._digest_now() not in (None, self._digest):
                await self.reload("the file was edited")
            try:
                async with asyncio.timeout(POLL_INTERVAL_S):
                    await self._hangup.wait()
            except TimeoutError:
                continue

    @asynccontextmanager
    async def hangups(self) -> AsyncIterator[None]:
        """SIGHUP makes this process reread the file, for as long as the block runs. Only a main thread gets signals."""
        if current_thread() is not main_thread():
            yield
            return
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(SIGHUP, self._hangup.set)
        try:
            yield
        finally:
            loop.remove_signal_handler(SIGHUP)

    async def reload(self, why: str) -> Reload:
        """Read the file and install its policy document. Never raises for what the file says."""
        before, made = self._live.applied.version, None
        needs_restart: tuple[str, ...] = ()
        problems: tuple[str, ...] = ()
        self._digest = self._digest_now()
        try:
            config = await asyncio.to_thread(self._read)
            needs_restart = tuple(restart_keys(self._started_with, config))
            made = await self._live.take_file(PolicyDocument.of_config(config), comment=why)
        except (ConfigError, DocumentRejected) as exc:
            problems = tuple(exc.problems)
        except (StateUnavailable, VersionConflict) as exc:
            problems = (str(exc),)
            self._digest = None  # nothing is wrong with the file: the next look tries again
            self._seen = None
        version = self._live.applied.version
        self.last = Reload(
            time_s=time.time(),
            result="refused" if problems else "installed" if made is not None else "unchanged",
            from_version=before,
            version=version,
            problems=problems,
            needs_restart=needs_restart,
        )
        self._log(self.last)
        if self._report is not None:
            await self._report(self.last)
        return self.last

    def _log(self, reload: Reload) -> None:
        path = self._path
        if reload.problems:
            logger.error(
                "%s cannot be used, policy version %d stays in force: %s",
                path, reload.version, "; ".join(reload.problems),
            )  # fmt: skip
        elif reload.result == "unchanged":
            logger.info("%s: nothing in it that is not in version %d already", path, reload.version)
        if reload.needs_restart:
            logger.warning("%s: needs a restart to take effect: %s", path, ", ".join(reload.needs_restart))

    async def _was_edited(self) -> bool:
        """Whether the file is another one than at the last look, and has kept still since."""
        now = self._fingerprint()
        if now is None or now == self._seen:
            return False
        await asyncio.sleep(POLL_INTERVAL_S)
        if self._fingerprint() != now:
            return False  # somebody is still writing; the next look will tell
        self._seen = now
        return True

    def _fingerprint(self) -> tuple[int, int, int] | None:
        """Changes with every write and every replacement; None while the file is away, as when an editor renames."""
        try:
            status = self._path.stat()
        except OSError:
            return None
        return status.st_mtime_ns, status.st_size, status.st_ino

    def _digest_now(self) -> str | None:
        try:
            with self._path.open("rb") as file:
                return hashlib.sha256(file.read(MAX_FILE_BYTES)).hexdigest()
        except OSError:
            return None

    def _read(self) -> Config:
        """Raises: ConfigError."""
        try:
            with self._path.open("rb") as file:
                content = file.read(MAX_FILE_BYTES + 1)
            if len(content) > MAX_FILE_BYTES:
                raise ConfigError(str(self._path), [f"is larger than {MAX_FILE_BYTES} bytes"])
            return parse(content.decode("utf-8"), source=str(self._path))
        except (OSError, UnicodeDecodeError) as exc:
            raise ConfigError(str(self._path), [f"cannot be read: {exc}"]) from exc


def restart_keys(started_with: Config, now: Config) -> list[str]:
    """Dotted keys that differ and that only a restart can change."""
    live = {"tenants", *(f"server.{name}" for name in ServerBounds.model_fields)}
    differing = _differing("", started_with, now)
    return sorted(key for key in differing if key not in live and not key.startswith(("routing.", "limits.")))


def _differing(prefix: str, before: object, after: object) -> list[str]:
    if before == after:
        return []
    if isinstance(before, BaseModel) and type(before) is type(after):
        names = type(before).model_fields
        return [
            key for name in names for key in _differing(f"{prefix}{name}.", getattr(before, name), getattr(after, name))
        ]
    return [prefix.rstrip(".")]
