"""`/admin/students`: the bundles of the registry that the gateway serves from, promoted and rolled back."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import msgspec
from fastapi import FastAPI, Request
from fastapi.responses import Response

from router.admin.administration import Administration
from router.admin.audit import Actor
from router.admin.policy import Comment, answer
from router.errors import InvalidRequest
from serving.errors import PromotionRefused, RegistryError, UnknownBundle
from serving.pointer import Pointer
from serving.promotion import status_of
from serving.registry import Registry


class Promote(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    bundle_id: Annotated[str, msgspec.Meta(min_length=1, max_length=200)]
    force: bool = False
    """Whatever the verdict; needs a reason."""
    reason: Comment | None = None


class RollbackStudent(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    reason: Comment | None = None


class StudentEndpoints:
    """The endpoints of `/admin/students`. A change moves the registry's pointer; the gateway then loads the bundle
    beside the one that serves, and `GET` tells how far it is."""

    def __init__(self, admin: Administration, folder: str | None) -> None:
        """
        Args:
            folder: `student.registry`, None without one.
        """
        self._admin = admin
        self._folder = folder

    def add_to(self, app: FastAPI) -> None:
        app.add_api_route("/admin/students", self.list, methods=["GET"])
        app.add_api_route("/admin/students/promote", self.promote, methods=["POST"])
        app.add_api_route("/admin/students/rollback", self.rollback, methods=["POST"])

    async def list(self, request: Request) -> Response:
        """Every bundle with its verdict, the current one, and what the gateway has made of the last change."""
        await self._admin.door.enter(request)
        registry = self._registry()
        try:
            return answer(await asyncio.to_thread(_listed, registry))
        except RegistryError as exc:
            raise _for_client(exc) from exc

    async def promote(self, request: Request) -> Response:
        """Verify a bundle and make it the current one."""
        actor = await self._admin.door.enter(request)
        body = await self._admin.door.read(request, Promote)
        registry = self._registry()
        return await self._change(
            actor,
            "student.promote",
            lambda: registry.promote(body.bundle_id, force=body.force, reason=body.reason),
            detail=f"{body.bundle_id}{', forced' if body.force else ''}: {body.reason or 'no reason given'}",
        )

    async def rollback(self, request: Request) -> Response:
        """Go back to the bundle before the current one."""
        actor = await self._admin.door.enter(request)
        body = await self._admin.door.read(request, RollbackStudent)
        registry = self._registry()
        return await self._change(
            actor,
            "student.rollback",
            lambda: registry.rollback(reason=body.reason),
            detail=body.reason or "no reason given",
        )

    async def _change(self, actor: Actor, action: str, change: Callable[[], Pointer], *, detail: str) -> Response:
        await self._admin.can_write_down()
        try:
            pointer = await asyncio.to_thread(change)  # hashes every file of the bundle
        except RegistryError as exc:
            await self._admin.write_down(actor, action, "refused", detail=f"{detail}; {exc}")
            raise _for_client(exc) from exc
        sequence = pointer.change.sequence
        await self._admin.write_down(actor, action, "ok", to_version=sequence, detail=f"{pointer.bundle_id}; {detail}")
        return answer(msgspec.to_builtins(pointer))

    def _registry(self) -> Registry:
        if self._folder is None:
            missing = InvalidRequest("The configuration names no student.registry.", code="no_registry")
            missing.status = 404
            raise missing
        return Registry(Path(self._folder))


def _listed(registry: Registry) -> dict[str, Any]:
    """Raises: RegistryError."""
    bundles = [
        {**msgspec.to_builtins(bundle), "verdict": registry.manifest(bundle.bundle_id).verdict}
        for bundle in registry.list()
    ]
    status: dict[str, Any] = msgspec.to_builtins(status_of(registry))
    return {"bundles": bundles, "damaged": dict(registry.damaged()), "status": status}


def _for_client(error: RegistryError) -> InvalidRequest:
    match error:
        case UnknownBundle():
            status, code = 404, "bundle_not_found"
        case PromotionRefused():
            status, code = 409, "promotion_refused"
        case _:
            status, code = 409, "registry_error"
    refused = InvalidRequest(str(error), code=code)
    refused.status = status
    return refused
