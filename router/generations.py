"""The student that serves now, the policies that decide about it, and how either is replaced under load.

A request takes one `Generation` at its start and uses it to its end: the model that answers, the thresholds that judge
its draft, the version and the student that its record and its headers name belong together, always. A new student waits
for the requests of the old one; a new policy document keeps the student and waits for nothing.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, NamedTuple, Self

from policies.base import StudentDefaults
from router.additions import Additions
from router.documents.document import PolicyDocument
from router.resilience.pool import Pool
from router.tokenizer import PromptTokenizer

if TYPE_CHECKING:
    from router.routing import Decider

logger = logging.getLogger(__name__)


class Equipment(NamedTuple):
    """What a student brings along whatever the policies are."""

    defaults: StudentDefaults
    tokenizer: PromptTokenizer | None


class Users:
    """The requests that a student serves, whichever policies sent them there: when they have ended, it may stop."""

    def __init__(self) -> None:
        self.count = 0
        self._idle: asyncio.Event | None = None

    def leave(self) -> None:
        self.count -= 1
        if self._idle is not None and not self.count:
            self._idle.set()

    async def idle(self) -> None:
        """Wait until there is none; for a student that gets no new ones."""
        self._idle = asyncio.Event()
        if self.count:
            await self._idle.wait()


class Generation:
    """One student under one policy document. Nothing of it changes."""

    def __init__(
        self,
        student: Pool,
        decider: Decider,
        document: PolicyDocument,
        equipment: Equipment,
        wanted: Additions,
        users: Users | None = None,
    ) -> None:
        """
        Args:
            document: what `decider` decides by.
            wanted: what the student's plain answers shall bring along for these policies.
            users: of the same student under another document.
        """
        self.student = student
        self.decider = decider
        self.document = document
        self.equipment = equipment
        self.wanted = wanted
        self.bundle_id = equipment.defaults.bundle_id
        """What records and the header `x-router-student` say; before bundles the model's name."""
        self.users = users or Users()

    def enter(self) -> None:
        """A request uses this generation from now on, until it calls `leave`."""
        self.users.count += 1

    def leave(self) -> None:
        self.users.leave()


class Generations:
    """The current generation. `async with`: its backend's connections live as long as the block."""

    def __init__(
        self, first: Generation, *, drain_timeout_s: float, on_change: Callable[[Generation], None] = lambda _: None
    ) -> None:
        self.current = first
        self._drain_timeout_s = drain_timeout_s
        self._on_change = on_change

    async def __aenter__(self) -> Self:
        await self.current.student.__aenter__()
        self._on_change(self.current)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.current.student.__aexit__(None, None, None)

    async def replace(self, generation: Generation) -> Generation:
        """New requests use this student from now on. Returns the generation before it, which is to be retired."""
        await generation.student.__aenter__()
        old, self.current = self.current, generation
        self._on_change(generation)
        logger.info("student %s serves, in place of %s", generation.bundle_id, old.bundle_id)
        return old

    async def retire(self, old: Generation) -> None:
        """Wait for the requests of a student that was replaced, and close it.

        What still runs after the drain time is cut off: its student is about to be stopped. The gateway gives as much
        time as a request may take at all, so that a replacement cuts off none.
        """
        try:
            async with asyncio.timeout(self._drain_timeout_s):
                await old.users.idle()
        except TimeoutError:
            logger.warning("%d requests to %s outlast the drain time", old.users.count, old.bundle_id)
        finally:
            await old.student.__aexit__(None, None, None)

    def revise(self, generation: Generation) -> None:
        """New requests to the same student are decided by another document from now on."""
        assert generation.users is self.current.users  # noqa: S101 - another student needs `replace`
        self.current = generation
        self._on_change(generation)
