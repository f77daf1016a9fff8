"""The policy document that is in force in this process, how it is changed, and how it follows the other replicas.

A change is validated here, written to the store under the version that it replaces, and taken by every process that
watches the store. A process that cannot build a document keeps the one it has, says so, and tries again.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from contextlib import suppress
from typing import NamedTuple, Protocol

from router.documents.archive import Archive
from router.documents.document import DocumentRejected, PolicyDocument, Source, Version, foreign_types
from router.errors import StateUnavailable, VersionConflict
from router.metrics import Metrics
from router.state.base import HISTORY_LENGTH, Document, Store

logger = logging.getLogger(__name__)

NAME = "policy"
"""Of the document in the store."""
CHECK_INTERVAL_S = 3.0
"""How often the store is asked unannounced: finds what a store has lost, and tries again what was rejected."""
ANY_VERSION = -1
"""As the expected version: whatever is in force is replaced."""
FILE_TRIES = 8
"""Workers that read the same edit of the file get out of each other's way this often."""


class UnknownVersion(LookupError):
    """There is no version of that number any more, or there never was."""


class Engine(Protocol):
    """The part of the gateway that decides by a document."""

    async def check(self, document: PolicyDocument) -> None:
        """Build everything that the document needs, and throw it away. Raises: DocumentRejected."""

    async def install(self, version: Version) -> None:
        """Let it decide from the next request on; atomic. Raises: DocumentRejected: the old one goes on."""


class Rejected(NamedTuple):
    """A version of the store that this process could not use."""

    version: int
    problem: str


class Draft(NamedTuple):
    """A change that somebody wants."""

    document: PolicyDocument
    author: str
    source: Source
    comment: str = ""
    restores: int | None = None
    file_sha256: str | None = None
    """What the configuration file says, where the change comes from there."""


class LivePolicy:
    """One instance a process. `start`, then `follow` in a task of its own."""

    def __init__(
        self,
        seed: Version,
        *,
        engine: Engine,
        store: Store,
        shared: bool,
        archive: Archive,
        metrics: Metrics,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """
        Args:
            seed: version 0, which the engine has installed.
            shared: the store outlives this machine's gateways: then it, and not the file, has the last word at start.
        """
        self.seed = seed
        self.trusted = seed.document
        """What the configuration file says now: the only source of policies named as `module:Class`."""
        self.applied = seed
        self.rejected: Rejected | None = None
        self.unkept: int | None = None
        """The version in force, when it could not be written to the archive."""
        self._engine = engine
        self._store = store
        self._shared = shared
        self._archive = archive
        self._metrics = metrics
        self._clock = clock
        self._changing = asyncio.Lock()
        self._announce()

    # What there is

    async def history(self, limit: int = HISTORY_LENGTH) -> list[Version]:
        """The last versions, newest first, down to version 0. An unreachable store leaves what this machine has."""
        found = {self.seed.version: self.seed, self.applied.version: self.applied}
        for number in self._archive.numbers()[-limit:]:
            if (kept := await asyncio.to_thread(self._archive.get, number)) is not None:
                found[kept.version] = kept
        try:
            stored = await self._store.document_history(NAME, limit=limit)
        except StateUnavailable:
            stored = []
        for document in stored:
            if (version := _decoded(document)) is not None:
                found[version.version] = version
        return [found[number] for number in sorted(found, reverse=True)][:limit]

    async def get(self, number: int) -> Version:
        """Raises: UnknownVersion."""
        if number in (self.seed.version, self.applied.version):
            return self.seed if number == self.seed.version else self.applied
        for version in await self.history():
            if version.version == number:
                return version
        kept = await asyncio.to_thread(self._archive.get, number)
        if kept is None:
            raise UnknownVersion(f"there is no version {number}")
        return kept

    # Changes

    async def check(self, document: PolicyDocument) -> None:
        """Everything that stands between a document and its being in force. Raises: DocumentRejected."""
        problems = foreign_types(document, self.trusted)
        if problems:
            raise DocumentRejected(problems)
        await self._engine.check(document)

    async def put(self, draft: Draft, *, expected: int) -> Version:
        """Replace the version that the caller has seen. Content that is in force already makes no new version.

        Args:
            expected: number of the version to replace, or ANY_VERSION.
        Returns:
            The version that is in force; here at once, in every other process within a second.
        Raises:
            VersionConflict, DocumentRejected, StateUnavailable: nothing has changed.
        """
        async with self._changing:
            stored = await self._store.read_document(NAME)
            current = self._current(stored)
            if expected not in (ANY_VERSION, current.version):
                raise VersionConflict(NAME, expected_version=expected, current_version=current.version)
            if draft.document == current.document and draft.file_sha256 in (None, current.file_sha256):
                if current != self.applied:  # another process of this machine has read the same file first
                    await self._apply(current)
                return current
            await self.check(draft.document)
            version = Version(
                version=current.version + 1,
                created_s=self._clock(),
                source=draft.source,
                author=draft.author,
                comment=draft.comment,
                restores=draft.restores,
                file_sha256=draft.file_sha256 or current.file_sha256,
                document=draft.document,
            )
            try:
                await self._store.write_document(
                    NAME, version.encoded(), expected_version=stored.version if stored else 0
                )
            except VersionConflict as exc:  # it names the store's count, not the version
                newer = self._current(await self._store.read_document(NAME)).version
                raise VersionConflict(NAME, expected_version=current.version, current_version=newer) from exc
            await self._apply(version)
            return version

    async def rollback(self, to: int | None, *, author: str, comment: str, expected: int) -> Version:
        """Make a new version with the content of an earlier one.

        Args:
            to: None goes back one step, and one more with every further rollback.
        Raises:
            UnknownVersion, and what `put` raises.
        """
        stored = await self._store.read_document(NAME)
        current = self._current(stored)
        if to is None:
            here = current.version if current.restores is None else current.restores
            if here == 0:
                raise UnknownVersion("there is no version before version 0, the configuration file")
            to = here - 1
        wanted = await self.get(to)
        draft = Draft(wanted.document, author, "rollback", comment or f"rollback to version {to}", restores=to)
        return await self.put(draft, expected=current.version if expected == ANY_VERSION else expected)

    # Following

    async def start(self) -> None:
        """Take what is in force elsewhere, or what was before a restart, before the first request.

        Which one wins: with a shared store its document, and an edited file is only reported. Without one, the last
        change, be it of the document or of the file.
        """
        kept = await asyncio.to_thread(self._archive.newest)
        try:
            await self.catch_up(lost=kept)
        except StateUnavailable as exc:
            logger.warning("the store is away (%s): starting with the last policy document of this machine", exc)
            if kept is not None:
                await self._take(kept)
        if self.applied.version == 0 or self.seed.file_sha256 == self.applied.file_sha256:
            return
        if self._shared:
            logger.warning(
                "[routing] of the configuration file is not what version %d was made from; version %d stays in force. "
                "SIGHUP or `locum policy put` installs the file's",
                self.applied.version, self.applied.version,
            )  # fmt: skip
            return
        await self.take_file(self.seed.document, comment="the file was edited while the gateway was stopped")

    async def take_file(self, document: PolicyDocument, *, comment: str, author: str = "file") -> Version | None:
        """Install what the configuration file says, unless its last state has been installed before.

        Returns:
            The version that this process made of it; None when it is there already.
        Raises:
            DocumentRejected, StateUnavailable, VersionConflict.
        """
        self.trusted = document
        draft = Draft(document, author, "file", comment, file_sha256=document.sha256)
        for _ in range(FILE_TRIES):  # the other workers of this machine read the same edit at the same time
            await self.catch_up()
            if document.sha256 == self.applied.file_sha256:
                return None
            with suppress(VersionConflict):
                return await self.put(draft, expected=ANY_VERSION)
        raise VersionConflict(NAME, expected_version=self.applied.version, current_version=self.applied.version + 1)

    async def follow(self) -> None:
        """Take every new version as it is announced; until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._watch())
            tasks.create_task(self._check_regularly())

    async def catch_up(self, *, lost: Version | None = None) -> None:
        """Take what the store has, if that is another version. A store that has lost it is given it back.

        Args:
            lost: the version to give back, default the one in force.
        Raises:
            StateUnavailable.
        """
        async with self._changing:
            stored = await self._store.read_document(NAME)
            if stored is None:
                stored = await self._give_back(lost or self.applied)
            if stored is None:
                return
            try:
                version = Version.decoded(stored.content)
            except DocumentRejected as exc:
                self._reject(stored.version, "unreadable", exc)
                return
            if version != self.applied:
                await self._take(version)
            else:
                self.rejected = None

    async def _watch(self) -> None:
        async for _ in self._store.watch(NAME):
            await self._caught_up()

    async def _check_regularly(self) -> None:
        while True:
            await asyncio.sleep(CHECK_INTERVAL_S)
            await self._caught_up()

    async def _caught_up(self) -> None:
        try:
            await self.catch_up()
        except StateUnavailable as exc:
            logger.debug("the policy document cannot be read: %s", exc)
        except Exception:  # whatever it was, this process must hear of the next version
            logger.exception("following the policy document failed; trying again")

    async def _give_back(self, version: Version) -> Document | None:
        """Write a version into a store that has none, unless another replica is faster; what the store has then."""
        if version.version == 0:
            return None
        try:
            stored = await self._store.write_document(NAME, version.encoded(), expected_version=0)
        except VersionConflict:
            return await self._store.read_document(NAME)
        logger.warning("the store had no policy document: it was given version %d", version.version)
        return stored

    async def _take(self, version: Version) -> None:
        """Install what somebody else has written, or report why not."""
        problems = foreign_types(version.document, self.trusted)
        try:
            if problems:
                raise DocumentRejected(problems)
            await self._apply(version)
        except DocumentRejected as exc:
            self._reject(version.version, "not_buildable", exc)

    async def _apply(self, version: Version) -> None:
        await self._engine.install(version)
        before, self.applied, self.rejected = self.applied, version, None
        self._announce()
        logger.info(
            "policy version %d (%s, by %s) is in force, in place of %d",
            version.version, version.source, version.author, before.version,
        )  # fmt: skip
        try:
            await asyncio.to_thread(self._archive.keep, version)
            self.unkept = None
        except OSError as exc:
            self.unkept = version.version
            self._metrics.policy_apply_failures.labels("not_kept").inc()
            logger.error("policy version %d is in force but not on disk: %s", version.version, exc.strerror)

    def _reject(self, number: int, cause: str, error: DocumentRejected) -> None:
        rejected = Rejected(number, str(error))
        if rejected == self.rejected:
            return  # it is tried again and again; once is enough to say so
        self.rejected = rejected
        self._metrics.policy_apply_failures.labels(cause).inc()
        logger.error(
            "policy version %d cannot be used here, version %d stays in force: %s", number, self.applied.version, error
        )

    def _current(self, stored: Document | None) -> Version:
        """The version that a change replaces: the store's, else what is in force here. Raises: DocumentRejected."""
        return self.applied if stored is None else Version.decoded(stored.content)

    def _announce(self) -> None:
        self._metrics.policy_version.info({"version": str(self.applied.version), "source": self.applied.source})


def _decoded(document: Document) -> Version | None:
    try:
        return Version.decoded(document.content)
    except DocumentRejected:
        return None  # of another release; whoever follows the store reports it
