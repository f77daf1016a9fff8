"""A thin client of `/admin/policy` for the command line."""

from __future__ import annotations

from typing import Any

import httpx

TIMEOUT_S = 90.0
"""Validation may load an encoder."""


class Refused(Exception):
    """The gateway said no. `status` is the HTTP status; the message is its own."""

    def __init__(self, status: int, message: str, current_version: int | None) -> None:
        super().__init__(message)
        self.status = status
        self.current_version = current_version


class Unreachable(Exception):
    """No gateway answered, or something that is none."""


class AdminClient:
    """Calls one gateway with one key."""

    def __init__(self, url: str, key: str, *, transport: httpx.BaseTransport | None = None) -> None:
        """
        Args:
            url: of the gateway, without a path.
        """
        self._client = httpx.Client(
            base_url=url.rstrip("/"),
            headers={"authorization": f"Bearer {key}"},
            timeout=TIMEOUT_S,
            trust_env=False,
            transport=transport,
        )

    def call(self, method: str, path: str, *, body: Any = None, query: dict[str, int] | None = None) -> dict[str, Any]:
        """The answer's JSON object. Raises: Refused, Unreachable."""
        try:
            response = self._client.request(method, f"/admin/{path}", json=body, params=query)
            content = response.json()
        except httpx.HTTPError as exc:
            raise Unreachable(f"{self._client.base_url}: {exc or type(exc).__name__}") from exc
        except ValueError as exc:
            raise Unreachable(f"{self._client.base_url}: answered with something that is not JSON") from exc
        if not isinstance(content, dict):
            raise Unreachable(f"{self._client.base_url}: answered with something that is not an object")
        if response.is_success:
            return content
        error = content.get("error")
        message = error.get("message") if isinstance(error, dict) else None
        raise Refused(response.status_code, str(message or response.reason_phrase), content.get("current_version"))
