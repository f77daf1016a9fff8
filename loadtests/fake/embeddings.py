"""`/v1/embeddings` of the fake backend: vectors that depend on the text, floats or base64."""

from __future__ import annotations

import base64
import hashlib
from array import array
from typing import Any

import msgspec

DIMENSIONS = 8


class EmbeddingBody(msgspec.Struct):
    """An embedding request, as far as the fake reads it."""

    model: str
    input: str | list[Any]
    encoding_format: str = "float"
    dimensions: int | None = None


def embedding(text: str, dimensions: int = DIMENSIONS) -> list[float]:
    """A made-up vector, the same for the same text; every value is exact in 32 bits."""
    digest = hashlib.sha256(text.encode("utf-8", "replace")).digest()
    return [(digest[i % len(digest)] - 128) / 128 for i in range(dimensions)]


def embeddings_answer(body: EmbeddingBody) -> bytes:
    """The whole answer, in OpenAI's form."""
    given = body.input
    texts = [given] if isinstance(given, str) or (given and isinstance(given[0], int)) else given
    vectors = [embedding(str(text), body.dimensions or DIMENSIONS) for text in texts]
    tokens = sum(max(1, len(str(text)) // 4) for text in texts)
    return msgspec.json.encode(
        {
            "id": "embd-fake",
            "object": "list",
            "created": 1_700_000_000,
            "model": body.model,
            "data": [
                {"index": index, "object": "embedding", "embedding": _spelled(vector, body.encoding_format)}
                for index, vector in enumerate(vectors)
            ],
            "usage": {"prompt_tokens": tokens, "total_tokens": tokens, "completion_tokens": 0},
        }
    )


def _spelled(vector: list[float], encoding_format: str) -> str | list[float]:
    if encoding_format != "base64":
        return vector
    return base64.b64encode(array("f", vector).tobytes()).decode()
