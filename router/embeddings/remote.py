"""Embeddings by a backend: the request is forwarded byte for byte, and so is the answer."""

from __future__ import annotations

import os
from collections.abc import Mapping

from router.backends import Backend
from router.config import BackendConfig
from router.config.embeddings import EmbeddingsConfig
from router.embeddings.local import Answered
from router.embeddings.request import EmbeddingRequest, used_tokens
from router.errors import BackendBroken, BackendRefused, NoRoute, RateLimited

PATH = b"/embeddings"


class RemoteModel:
    """Answers requests."""

    def __init__(
        self,
        config: EmbeddingsConfig,
        *,
        max_response_bytes: int,
        retry_after_s: int,
        environ: Mapping[str, str] = os.environ,
    ) -> None:
        """
        Args:
            retry_after_s: of a 503 when the backend says nothing better.
        Raises:
            ConfigError: the key cannot be used.
        """
        assert config.base_url is not None  # noqa: S101 - else the model is a local one
        self._max_response_bytes = max_response_bytes
        self._retry_after_s = retry_after_s
        options = BackendConfig(
            base_url=config.base_url,
            model=config.model,
            api_key_env=config.api_key_env,
            connect_timeout_s=config.connect_timeout_s,
        )
        self._backend = Backend("teacher", options, environ, name="embeddings")

    async def __aenter__(self) -> RemoteModel:
        await self._backend.__aenter__()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._backend.__aexit__(None, None, None)

    async def answer(self, request: EmbeddingRequest) -> Answered:
        """The backend's answer, or its refusal of the request itself. Raises: BackendError, RateLimited, NoRoute."""
        body = request.forwarded(self._backend.config.model)
        try:
            async with self._backend.call(PATH, body, []) as answer:
                content = await answer.body(self._max_response_bytes)
        except BackendRefused as exc:
            retry_after_s = exc.retry_after_s or self._retry_after_s
            if exc.cause == "rate_limited":
                raise RateLimited("The embedding model is rate limited.", retry_after_s=retry_after_s) from exc
            raise NoRoute(f"The embedding model does not answer ({exc.cause}).", retry_after_s=retry_after_s) from exc
        headers = (*answer.headers, (b"content-type", answer.content_type))
        if answer.status >= 400:
            return Answered(answer.status, content, None, headers)
        try:
            tokens = used_tokens(content, inputs=len(request.inputs))
        except ValueError as exc:
            raise BackendBroken(str(exc), cause="invalid_response") from exc
        return Answered(answer.status, content, tokens, headers)
