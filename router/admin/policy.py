"""`/admin/policy`: the policy document, read, tried, changed and taken back."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import msgspec
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response

from policies.shadowing import deciding_artefacts
from router.admin.administration import Administration, VersionNotFound
from router.documents.diff import changes
from router.documents.document import MAX_COMMENT_CHARS, DocumentRejected, PolicyDocument, Version, parse_document
from router.documents.effect import effect_on
from router.documents.engine import PolicyEngine
from router.documents.live import ANY_VERSION, Draft, UnknownVersion
from router.errors import InvalidRequest, VersionConflict, error_body
from router.generations import Generations
from router.governance.shadow_votes import ShadowVotes

Number = Annotated[int, msgspec.Meta(ge=0)]
Comment = Annotated[str, msgspec.Meta(max_length=MAX_COMMENT_CHARS)]
DEFAULT_RECORDS = 1_000
DEFAULT_HISTORY = 20
MAX_HISTORY = 1_000
MAX_DIGITS = 12


class Put(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Body of PUT. The version that it replaces stands here or in If-Match."""

    document: dict[str, Any]
    expected_version: Number | None = None
    comment: Comment = ""


class Validate(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Body of a dry run."""

    document: dict[str, Any]
    records: Annotated[int, msgspec.Meta(ge=0, le=10_000)] = DEFAULT_RECORDS
    """Logged requests that are decided again; 0 = none."""


class Rollback(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    to: Number | None = None
    """Default: one step back."""
    expected_version: Number | None = None
    comment: Comment = ""


class NotShadowed(InvalidRequest):
    """A learned policy is to decide before it has shown itself."""

    status = 409

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems), code="not_shadowed")


class PolicyEndpoints:
    """The endpoints of `/admin/policy`."""

    def __init__(
        self,
        admin: Administration,
        engine: PolicyEngine,
        generations: Generations,
        log_dir: str,
        shadow_votes: ShadowVotes,
    ) -> None:
        self._admin = admin
        self._shadow_votes = shadow_votes
        self._live = admin.live
        self._engine = engine
        self._generations = generations
        self._log_dir = log_dir

    def add_to(self, app: FastAPI) -> None:
        app.add_exception_handler(VersionConflict, _on_conflict)
        for path, method, endpoint in (
            ("", "GET", self.current),
            ("", "PUT", self.put),
            ("/validate", "POST", self.validate),
            ("/history", "GET", self.history),
            ("/diff", "GET", self.diff),
            ("/rollback", "POST", self.rollback),
            ("/{version}", "GET", self.version),
        ):
            app.add_api_route(f"/admin/policy{path}", endpoint, methods=[method])

    async def current(self, request: Request) -> Response:
        """The document in force here, with its version as ETag, and the standing of its policies' certificates."""
        await self._admin.door.enter(request)
        standings = self._generations.current.decider.chain.standings
        return self._answer(self._live.applied, certificates=[standing.as_json() for standing in standings])

    async def version(self, version: str, request: Request) -> Response:
        """An earlier one."""
        await self._admin.door.enter(request)
        return self._answer(await self._get(as_number(version, "version")))

    async def history(self, request: Request) -> Response:
        """The last versions (`limit` of them), newest first, without the documents."""
        await self._admin.door.enter(request)
        limit = in_query(request, "limit", default=DEFAULT_HISTORY)
        versions = await self._live.history(min(max(1, limit), MAX_HISTORY))
        return answer({"current": self._live.applied.version, "versions": [each.summary() for each in versions]})

    async def diff(self, request: Request) -> Response:
        """What changed from one version to another, by default from the one before to the one in force."""
        await self._admin.door.enter(request)
        after = await self._get(in_query(request, "to", default=self._live.applied.version))
        before = await self._get(in_query(request, "from", default=max(0, after.version - 1)))
        found = changes(before.document, after.document)
        return answer({"from": before.version, "to": after.version, "changes": msgspec.to_builtins(found)})

    async def put(self, request: Request) -> Response:
        """Replace the document: here at once, in every other process within a second."""
        actor = await self._admin.door.enter(request)
        body = await self._admin.door.read(request, Put)
        expected = _expected(request, body.expected_version)

        async def change() -> Version:
            document = parse_document(body.document, defaults=self._live.applied.document)
            missing = await self._not_shadowed(document)
            if missing:
                raise NotShadowed(missing)
            return await self._live.put(Draft(document, actor.name, "api", body.comment), expected=expected)

        return self._answer(await self._admin.change(actor, "policy.put", change))

    async def rollback(self, request: Request) -> Response:
        """Make a new version with the content of an earlier one."""
        actor = await self._admin.door.enter(request)
        body = await self._admin.door.read(request, Rollback)
        expected = ANY_VERSION
        if body.expected_version is not None or "if-match" in request.headers:
            expected = _expected(request, body.expected_version)

        async def change() -> Version:
            return await self._live.rollback(body.to, author=actor.name, comment=body.comment, expected=expected)

        return self._answer(await self._admin.change(actor, "policy.rollback", change))

    async def validate(self, request: Request) -> Response:
        """Everything that PUT checks, and what would change, without changing anything."""
        await self._admin.door.enter(request)
        body = await self._admin.door.read(request, Validate)
        applied = self._live.applied
        result: dict[str, Any] = {"valid": False, "problems": [], "current_version": applied.version}
        try:
            document = parse_document(body.document, defaults=applied.document)
            result["diff"] = msgspec.to_builtins(changes(applied.document, document))
            await self._live.check(document)
            result["problems"] = await self._not_shadowed(document)
            result["valid"] = not result["problems"]
            if body.records and self._log_dir:
                result["effect"] = await self._effect(document, body.records)
        except DocumentRejected as exc:
            result["problems"] = exc.problems
        return answer(result)

    async def _not_shadowed(self, document: PolicyDocument) -> list[str]:
        """Problems: learned policies that would decide, by artefacts that have voted too seldom in shadow.

        What decides already may go on. The document in force has a say as well, so that nobody lowers the bar in the
        same step in which he jumps it. Raises: DocumentRejected, StateUnavailable.
        """
        required = max(document.routing.require_shadow_votes, self._live.applied.document.routing.require_shadow_votes)
        if not required:
            return []
        generation = await self._engine.built(self._live.applied.model_copy(update={"document": document}))
        known = set(deciding_artefacts(self._generations.current.decider.chain).values())
        counts = await self._shadow_votes.counts()
        return [
            f"routing.policies: {name} would decide by the artefact {sha256[:12]}, which has {counts[sha256]:,} of "
            f'{required:,} votes in shadow (routing.require_shadow_votes). Put it in with mode = "shadow" first'
            for name, sha256 in deciding_artefacts(generation.decider.chain).items()
            if sha256 not in known and counts[sha256] < required
        ]

    async def _effect(self, document: PolicyDocument, records: int) -> Any:
        """Raises: DocumentRejected."""
        revised = await self._engine.built(self._live.applied.model_copy(update={"document": document}))
        before, after = self._generations.current.decider.chain, revised.decider.chain
        try:
            return msgspec.to_builtins(await effect_on(Path(self._log_dir), before, after, limit=records))
        except OSError as exc:
            return {"problem": f"the traffic log cannot be read: {exc.strerror}"}

    async def _get(self, number: int) -> Version:
        try:
            return await self._live.get(number)
        except UnknownVersion as exc:
            raise VersionNotFound(exc) from exc

    def _answer(self, version: Version, **more: Any) -> Response:
        content = {**version.summary(), **more, "document": version.document.model_dump(mode="json")}
        return answer(content, etag=version.version)


def answer(content: Any, *, etag: int | None = None) -> JSONResponse:
    """JSON that no cache keeps."""
    headers = {"cache-control": "no-store"}
    if etag is not None:
        headers["etag"] = f'"{etag}"'
    return JSONResponse(content, headers=headers)


def _expected(request: Request, in_body: int | None) -> int:
    """The version that a change replaces. Raises: InvalidRequest."""
    header = request.headers.get("if-match")
    if header is None:
        if in_body is None:
            missing = InvalidRequest(
                "Say which version this replaces, in If-Match or expected_version: GET /admin/policy tells the current "
                "one. If-Match: * replaces whatever there is.",
                param="expected_version",
                code="precondition_required",
            )
            missing.status = 428
            raise missing
        return in_body
    text = header.strip()
    if text == "*":
        return ANY_VERSION
    number = as_number(text.removeprefix('"').removesuffix('"'), "If-Match")
    if in_body not in (None, number):
        raise InvalidRequest("If-Match and expected_version name different versions.", param="If-Match")
    return number


def in_query(request: Request, name: str, *, default: int) -> int:
    """A number in the query. Raises: InvalidRequest."""
    text = request.query_params.get(name)
    return default if text is None else as_number(text, name)


def as_number(text: str, name: str) -> int:
    """Raises: InvalidRequest: not digits, or too many."""
    if not (text.isascii() and text.isdigit() and len(text) <= MAX_DIGITS):
        raise InvalidRequest(f"{name} must be a number, such as 7, not {text[:40]!r}.", param=name)
    return int(text)


async def _on_conflict(request: Request, error: Exception) -> Response:
    """409 with the version to look at before trying again."""
    assert isinstance(error, VersionConflict)  # noqa: S101 - registered for it
    content = msgspec.json.decode(error_body(error))
    return JSONResponse({**content, "current_version": error.current_version}, status_code=error.status)
