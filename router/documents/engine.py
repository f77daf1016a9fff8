"""Builds what a policy document needs beside the student that serves, and swaps it in."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from policies.base import PolicyConfigError
from router.config import ConfigError
from router.documents.document import DocumentRejected, PolicyDocument, Version
from router.generations import Generation, Generations
from router.routing import build_chain
from router.students import Students

BUILD_TIMEOUT_S = 60.0
"""For reading artefacts, third-party constructors and loading an encoder."""


class PolicyEngine:
    """Changes the document and the student of a gateway, one at a time, so that neither undoes the other."""

    def __init__(
        self,
        students: Students,
        generations: Generations,
        *,
        on_install: Callable[[PolicyDocument], None] = lambda _: None,
    ) -> None:
        """
        Args:
            on_install: puts the rest of a document in force, what is not about deciding; must not fail.
        """
        self._students = students
        self._generations = generations
        self._on_install = on_install
        self._swapping = asyncio.Lock()
        self._building = asyncio.Lock()
        """One encoder is loaded, however many ask for it."""

    async def check(self, document: PolicyDocument) -> None:
        """Build the document for the student that serves, and throw it away. Raises: DocumentRejected."""
        await self.built(self._students.version.model_copy(update={"document": document}))

    async def install(self, version: Version) -> None:
        """From the next request on this version decides. Raises: DocumentRejected: the one before goes on."""
        async with self._swapping:
            generation = await self.built(version)
            self._students.version = version
            self._generations.revise(generation)
            self._on_install(version.document)

    async def install_student(self, generation: Generation) -> None:
        """Let another student answer new requests, under the document that is in force by now.

        Returns when nothing uses its predecessor any more.

        Raises:
            ConfigError: the policies cannot be built for it; the one that serves goes on serving.
        """
        async with self._swapping:
            if generation.document is not self._students.version.document:
                try:
                    generation = await asyncio.to_thread(self._students.revised, generation, self._students.version)
                except PolicyConfigError as exc:
                    raise ConfigError(f"bundle {generation.bundle_id}", [f"routing.policies.{exc}"]) from exc
            old = await self._generations.replace(generation)
        await self._generations.retire(old)

    async def built(self, version: Version) -> Generation:
        """What would decide by this version about the student that serves now. Raises: DocumentRejected."""
        try:
            async with asyncio.timeout(BUILD_TIMEOUT_S):
                return await self._build(version)
        except PolicyConfigError as exc:
            raise DocumentRejected([f"routing.policies.{exc}"]) from exc
        except ConfigError as exc:
            raise DocumentRejected(exc.problems) from exc
        except TimeoutError as exc:
            raise DocumentRejected([f"routing.policies: could not be built within {BUILD_TIMEOUT_S:g} s"]) from exc

    async def _build(self, version: Version) -> Generation:
        students = self._students
        chain = await asyncio.to_thread(build_chain, version.document.routing)
        async with self._building:
            if await asyncio.to_thread(students.equip, chain.asked_first):
                assert students.encoder is not None  # noqa: S101 - `equip` says that it was loaded
                await students.encoder.warm()
        return await asyncio.to_thread(students.revised, self._generations.current, version)
