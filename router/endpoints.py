"""The endpoints beside the hot path: models, health, readiness, metrics, and errors in OpenAI's form."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from router.addresses import is_loopback
from router.errors import InvalidRequest, LocumError, ModelNotFound, error_body
from router.feedback import add_feedback
from router.http_client import Headers
from router.resilience.pool import Pool
from router.resilience.replica import Replica
from router.routing import model_names

if TYPE_CHECKING:
    from router.app import Application, Parts


def add_endpoints(app: Application, parts: Parts) -> None:
    """Register everything but the hot path."""
    _add_models(app, parts)
    _add_health(app, parts)
    add_feedback(app, parts)
    app.add_exception_handler(LocumError, _on_locum_error)
    app.add_exception_handler(HTTPException, _on_http_error)


def _add_models(app: FastAPI, parts: Parts) -> None:
    names = model_names(parts.config)
    started_s = int(time.time())

    def card(name: str) -> dict[str, Any]:
        backend = {"student": parts.student, "teacher": parts.teacher}.get(names[name])
        window = {"max_model_len": backend.window_tokens} if backend and backend.window_tokens else {}
        return {"id": name, "object": "model", "created": started_s, "owned_by": "locum", **window}

    def allowed(request: Request) -> list[str]:
        models = parts.admission.authenticate(request.headers.raw).models
        return [name for name in names if models is None or name in models]

    @app.get("/v1/models")
    async def list_models(request: Request) -> JSONResponse:
        """The names that a request may use."""
        return JSONResponse({"object": "list", "data": [card(name) for name in allowed(request)]})

    @app.get("/v1/models/{name:path}")
    async def get_model(name: str, request: Request) -> JSONResponse:
        """One of them."""
        known = allowed(request)
        if name not in known:
            raise ModelNotFound(name, known)
        return JSONResponse(card(name))


def _add_health(app: Application, parts: Parts) -> None:
    @app.get("/healthz")
    async def healthz() -> JSONResponse:
        """Whether the process is alive."""
        return JSONResponse({"status": "ok"})

    @app.get("/readyz")
    async def readyz() -> JSONResponse:
        """Whether requests should come here: a backend was there at the last probe, and no stop is under way."""
        reachable = any(pool.reachable for pool in (parts.student, *parts.teachers))
        ready = reachable and not app.draining
        detail = {
            "status": "draining" if app.draining else "ready" if ready else "not_ready",
            "policy_version": parts.generations.current.decider.version,
            "policy": parts.control.readiness(),
            "certificates": {
                standing.policy: "valid" if standing.valid else "void"
                for standing in parts.generations.current.decider.chain.standings
            },
            "student": {"bundle": parts.generations.current.bundle_id, **_state(parts.student)},
            "teacher": _state(parts.teacher),
            "teacher_fallbacks": [_state(teacher) for teacher in parts.teachers[1:]],
            **({"embeddings": [_state(pool) for pool in parts.embedder.pools]} if parts.embedder is not None else {}),
            "state": _shared_state(parts),
        }
        return JSONResponse(detail, status_code=200 if ready else 503)

    @app.get("/metrics")
    async def metrics() -> Response:
        """Prometheus exposition."""
        return Response(parts.metrics.render(), media_type="text/plain; version=0.0.4; charset=utf-8")


def comes_from_foreign_page(headers: Headers) -> bool:
    """Whether a browser sent this for a page that is not of this machine; other clients send no Origin."""
    for name, value in headers:
        if name == b"origin":
            try:
                return not is_loopback(urlsplit(value.decode("latin-1")).hostname or "")
            except ValueError:
                return True
    return False


def foreign_origin_response() -> Response:
    """403 in OpenAI's form."""
    refused = InvalidRequest(
        "Pages of other sites may not use a gateway without keys; add an [auth] table to its configuration.",
        code="origin_not_allowed",
    )
    refused.status = 403
    return _error_response(refused)


async def _on_locum_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, LocumError)  # noqa: S101 - registered for it
    headers = {name.decode(): value.decode() for name, value in error.headers}
    if error.retry_after_s is not None:
        headers["retry-after"] = str(error.retry_after_s)
    return _error_response(error, headers)


async def _on_http_error(request: Request, error: Exception) -> Response:
    """Starlette's own 404 and 405, in OpenAI's form."""
    assert isinstance(error, HTTPException)  # noqa: S101 - registered for it
    if error.status_code == 405:
        wrong = InvalidRequest(f"{request.method} is not allowed here.", code="method_not_allowed")
    else:
        wrong = InvalidRequest(f"There is no endpoint {request.url.path[:100]}.", code="not_found")
    wrong.status = error.status_code
    return _error_response(wrong, dict(error.headers or {}))


def _shared_state(parts: Parts) -> dict[str, Any]:
    """Without its URL: whoever asks for readiness need not know where it is."""
    failure = parts.store.failure
    kind = parts.config.state.url.partition(":")[0]
    return {"kind": kind, "reachable": failure is None, **({} if failure is None else {"failure": failure})}


def _state(pool: Pool) -> dict[str, Any]:
    return {
        "model": pool.config.model,
        "reachable": pool.reachable,
        "context_window_tokens": pool.window_tokens,
        "replicas": [_replica_state(replica) for replica in pool.replicas],
    }


def _replica_state(replica: Replica) -> dict[str, Any]:
    engine = replica.engine
    return {
        "name": replica.name,
        "reachable": replica.backend.reachable,
        "breaker": replica.breaker.state,
        "inflight_requests": replica.inflight,
        "overflow": replica.overflow,
        "engine": engine._asdict() if engine is not None else None,
    }


def _error_response(error: LocumError, headers: dict[str, str] | None = None) -> Response:
    return Response(error_body(error), status_code=error.status, headers=headers, media_type="application/json")
