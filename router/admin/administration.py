"""What the endpoints of `/admin` share: the door, the policy in force, and changes that leave a line behind."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import TypeVar

from router.admin.audit import Actor, Audit, AuditError, Outcome
from router.admin.door import Door
from router.documents.document import DocumentRejected, Version
from router.documents.file import Reload
from router.documents.live import LivePolicy, UnknownVersion
from router.errors import InvalidRequest, LocumError, StateUnavailable, VersionConflict

logger = logging.getLogger(__name__)

T = TypeVar("T")


class AuditUnavailable(LocumError):
    """What cannot be written down is not done."""

    status = 503
    type = "service_unavailable"
    code = "audit_unavailable"
    retry_after_s = 5


class InvalidDocument(InvalidRequest):
    """A policy document that this gateway cannot use."""

    def __init__(self, rejected: DocumentRejected) -> None:
        super().__init__("\n".join(rejected.problems), code="invalid_policy_document")


class VersionNotFound(InvalidRequest):
    status = 404

    def __init__(self, unknown: UnknownVersion) -> None:
        super().__init__(f"{unknown}; GET /admin/policy/history lists those there are.", code="version_not_found")


class Administration:
    """One instance a process."""

    def __init__(self, door: Door, audit: Audit, live: LivePolicy) -> None:
        self.door = door
        self.audit = audit
        self.live = live

    async def change(self, actor: Actor, action: str, change: Callable[[], Awaitable[Version]]) -> Version:
        """Change the policy document and write down how it ended.

        Raises:
            AuditUnavailable: nothing was done.
            InvalidDocument, VersionNotFound, VersionConflict, StateUnavailable: nothing was changed.
        """
        await self.can_write_down()
        before = self.live.applied.version
        try:
            version = await change()
        except (DocumentRejected, UnknownVersion, VersionConflict, StateUnavailable, InvalidRequest) as exc:
            outcome: Outcome = "failed" if isinstance(exc, StateUnavailable) else "refused"
            await self.write_down(actor, action, outcome, from_version=before, detail=str(exc))
            raise _for_client(exc) from exc
        outcome = "unchanged" if version.version == before else "ok"
        await self.write_down(
            actor, action, outcome, from_version=before, to_version=version.version, detail=version.comment
        )
        return version

    async def can_write_down(self) -> None:
        """Raises: AuditUnavailable."""
        try:
            await asyncio.to_thread(self.audit.check)
        except AuditError as exc:
            raise AuditUnavailable(str(exc)) from exc

    async def write_down(
        self,
        actor: Actor,
        action: str,
        outcome: Outcome,
        *,
        from_version: int | None = None,
        to_version: int | None = None,
        detail: str = "",
    ) -> None:
        """After the fact: a log that fails now is loud and does not undo what was done."""
        try:
            await asyncio.to_thread(
                lambda: self.audit.record(
                    actor, action, outcome, from_version=from_version, to_version=to_version, detail=detail
                )
            )
        except AuditError as exc:
            logger.critical(
                "the audit log has no line for %s by %s: %s -> %s, %s: %s",
                action, actor.name, from_version, to_version, outcome, exc,
            )  # fmt: skip

    async def write_down_reload(self, reload: Reload) -> None:
        """The configuration file was read again."""
        if reload.result == "unchanged":
            return
        outcome: Outcome = "ok" if reload.result == "installed" else "refused"
        detail = "; ".join(reload.problems)
        to_version = reload.version if reload.result == "installed" else None
        await self.write_down(
            Actor("file"), "file.reload", outcome,
            from_version=reload.from_version, to_version=to_version, detail=detail,
        )  # fmt: skip


def _for_client(error: Exception) -> Exception:
    match error:
        case DocumentRejected():
            return InvalidDocument(error)
        case UnknownVersion():
            return VersionNotFound(error)
        case _:
            return error
