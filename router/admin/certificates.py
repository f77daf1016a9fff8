"""`/admin/certificates/acknowledge`: somebody answers for a certificate although drift has rung."""

from __future__ import annotations

from typing import Annotated

import msgspec
from fastapi import FastAPI, Request
from fastapi.responses import Response

from router.admin.administration import Administration
from router.admin.policy import answer
from router.documents.document import MAX_COMMENT_CHARS
from router.errors import InvalidRequest, StateUnavailable
from router.quality.certificates import Certificates, NoCertificate, NotAcknowledged

ACTION = "certificate.acknowledge"


class Acknowledge(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    policy: Annotated[str, msgspec.Meta(min_length=1, max_length=200)]
    comment: Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_COMMENT_CHARS)]
    """Why the promise holds all the same: kept in the audit log and shown with the certificate."""


class CertificateEndpoints:
    """Where certificates stand is in `GET /admin/policy`."""

    def __init__(self, admin: Administration, certificates: Certificates) -> None:
        self._admin = admin
        self._certificates = certificates

    def add_to(self, app: FastAPI) -> None:
        app.add_api_route("/admin/certificates/acknowledge", self.acknowledge, methods=["POST"])

    async def acknowledge(self, request: Request) -> Response:
        """What has happened to a certificate until now does not void it any more; what happens later does."""
        actor = await self._admin.door.enter(request)
        body = await self._admin.door.read(request, Acknowledge)
        await self._admin.can_write_down()
        try:
            standing = await self._certificates.acknowledge(body.policy, by=actor.name, comment=body.comment)
        except (NoCertificate, NotAcknowledged) as exc:
            await self._admin.write_down(actor, ACTION, "refused", detail=f"{body.policy}: {exc}")
            missing = isinstance(exc, NoCertificate)
            refused = InvalidRequest(
                f"{body.policy}: {exc}",
                param="policy",
                code="certificate_not_found" if missing else "not_acknowledgeable",
            )
            refused.status = 404 if missing else 409
            raise refused from exc
        except StateUnavailable as exc:
            await self._admin.write_down(actor, ACTION, "failed", detail=f"{body.policy}: {exc}")
            raise
        detail = f"{body.policy}, certificate {standing.sha256[:12]}: {body.comment}"
        await self._admin.write_down(actor, ACTION, "ok", detail=detail)
        return answer(standing.as_json())
