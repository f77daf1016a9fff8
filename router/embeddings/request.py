"""A request for embeddings, and the answer in OpenAI's form."""

from __future__ import annotations

import base64
import json
from collections.abc import Collection, Iterable, Sequence
from typing import Any, Literal

import msgspec

from router import directives
from router.body import JsonBody
from router.chat import APPROX_BYTES_PER_TOKEN
from router.dialects.fields import text_at, wrong
from router.directives import Directives
from router.encoder import Vector
from router.errors import InvalidRequest, ModelNotFound
from router.sse import is_count

Encoding = Literal["float", "base64"]
_INPUTS = "must be a string, a list of strings, a list of token ids or a list of such lists, none of them empty."


class EmbeddingRequest:
    """One parsed request.

    Attributes:
        inputs: texts, or lists of token ids.
        directives: of them `train`, `session` and `tags` mean something here.
    """

    stream = False

    def __init__(self, body: JsonBody, inputs: list[Any], given: Directives) -> None:
        self.body = body
        self.inputs = inputs
        self.directives = given
        self.model: str = body.values["model"]
        self.encoding: Encoding = body.values.get("encoding_format") or "float"
        self.dimensions: int | None = body.values.get("dimensions")

    @classmethod
    def parse(
        cls,
        data: bytes,
        headers: Iterable[tuple[bytes, bytes]] = (),
        *,
        known_models: Collection[str],
        max_inputs: int,
    ) -> EmbeddingRequest:
        """Raises: InvalidRequest: `param` names the field."""
        body = JsonBody.parse(data)
        values = body.values
        if text_at(values, "model") not in known_models:
            raise ModelNotFound(values["model"], sorted(known_models))
        if values.get("encoding_format") not in (None, "float", "base64"):
            raise wrong("encoding_format", "must be float or base64.")
        dimensions = values.get("dimensions")
        if dimensions is not None and (type(dimensions) is not int or dimensions < 1):
            raise wrong("dimensions", "must be a whole number of at least 1.")
        inputs = _inputs(values.get("input"))
        if len(inputs) > max_inputs:
            raise wrong("input", f"has more than {max_inputs} elements (embeddings.max_inputs).")
        return cls(body, inputs, directives.read(values, headers))

    @property
    def approx_tokens(self) -> int:
        return sum(
            len(one) if isinstance(one, list) else -(-len(one.encode("utf-8", "replace")) // APPROX_BYTES_PER_TOKEN)
            for one in self.inputs
        )

    def session_key(self) -> None:
        """Nothing binds it to a replica."""

    def prompt_prefix(self, limit_bytes: int) -> bytes:
        """As little as its session."""
        return b""

    def texts(self) -> list[str]:
        """Raises: InvalidRequest: token ids, which are another model's."""
        for index, one in enumerate(self.inputs):
            if not isinstance(one, str):
                raise wrong("input" if len(self.inputs) == 1 else f"input.{index}", "must be text for a local model.")
        return self.inputs

    def forwarded(self, model: str) -> bytes:
        """The body for a backend: its model name and no `router`; all else byte for byte."""
        return self.body.splice(replace={"model": json.dumps(model)}, remove=("router",))


def _inputs(given: Any) -> list[Any]:
    if isinstance(given, str) or (isinstance(given, list) and given and _are_ids(given)):
        given = [given]
    if not isinstance(given, list) or not given:
        raise wrong("input", _INPUTS)
    for index, one in enumerate(given):
        if not one or not (isinstance(one, str) or _are_ids(one)):
            raise wrong("input" if len(given) == 1 else f"input.{index}", _INPUTS)
    return given


def _are_ids(value: Any) -> bool:
    return isinstance(value, list) and all(type(item) is int for item in value)


def answer_of(vectors: Sequence[Vector], *, model: str, encoding: Encoding, tokens: int) -> bytes:
    """OpenAI's answer. base64 holds little-endian 32-bit floats."""
    data = [
        {"object": "embedding", "index": index, "embedding": _spelled(vector, encoding)}
        for index, vector in enumerate(vectors)
    ]
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    return msgspec.json.encode({"object": "list", "data": data, "model": model, "usage": usage})


def _spelled(vector: Vector, encoding: Encoding) -> str | list[float]:
    return vector.tolist() if encoding == "float" else base64.b64encode(vector.tobytes()).decode()


class _Answer(msgspec.Struct):
    data: list[msgspec.Raw]
    usage: Any = None


_decode = msgspec.json.Decoder(_Answer).decode


def used_tokens(body: bytes, *, inputs: int) -> int | None:
    """What a backend's answer says; None where it says nothing.

    Raises:
        ValueError: it is no answer with one vector for each input.
    """
    try:
        answer = _decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise ValueError("the answer is not a list of embeddings") from exc
    if len(answer.data) != inputs:
        raise ValueError(f"the answer has {len(answer.data)} embeddings for {inputs} inputs")
    tokens: Any = answer.usage.get("prompt_tokens") if isinstance(answer.usage, dict) else None
    return int(tokens) if is_count(tokens) else None


class TooLong(InvalidRequest):
    """A text does not fit into the local model's window."""

    def __init__(self, index: int, tokens: int, window_tokens: int) -> None:
        super().__init__(
            f"input.{index} has {tokens} tokens, and the model reads {window_tokens}: send shorter texts, or let the "
            "gateway cut them (embeddings.truncate).",
            param=f"input.{index}",
            code="context_length_exceeded",
        )
