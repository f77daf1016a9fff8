"""Parts of chat requests and their messages, as translations build them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol
from xml.sax.saxutils import quoteattr

from router.dialects.fields import Json, flag

MAX_CHUNKS = 256
"""As `router.retrieved_chunks` takes."""


class Conversation(Protocol):
    """The messages of a request, and the retrieved text that stood in them."""

    messages: list[Json]
    chunks: list[Json]


def shared_fields(body: Mapping[str, Any], copied: Sequence[str], conversation: Conversation) -> Json:
    """What is the same in the chat request of every dialect.

    Args:
        copied: fields of the dialect that chat has under the same name.
    Raises:
        InvalidRequest.
    """
    chat = {key: body[key] for key in copied if body.get(key) is not None}
    chat["messages"] = conversation.messages
    if flag(body.get("stream"), "stream"):
        chat["stream_options"] = {"include_usage": True}
    router = _with_chunks(body.get("router"), conversation.chunks)
    if router is not None:
        chat["router"] = router
    return chat


def text_part(text: str) -> Json:
    return {"type": "text", "text": text}


def image_part(url: str, detail: str | None = None) -> Json:
    return {"type": "image_url", "image_url": {"url": url} if detail is None else {"url": url, "detail": detail}}


def content_of(parts: Sequence[Json]) -> str | list[Json]:
    """The content of a message: one text as a plain string, which every chat template knows; else the parts."""
    if len(parts) == 1 and parts[0]["type"] == "text":
        text: str = parts[0]["text"]
        return text
    return list(parts)


def tagged(tag: str, attributes: dict[str, str | None], parts: Sequence[Json]) -> list[Json]:
    """Parts of one document or search result, between tags that say where they come from."""
    named = "".join(f" {key}={quoteattr(value)}" for key, value in attributes.items() if value is not None)
    if all(part["type"] == "text" for part in parts):
        text = "\n".join(part["text"] for part in parts)
        return [text_part(f"<{tag}{named}>\n{text}\n</{tag}>")]
    return [text_part(f"<{tag}{named}>"), *parts, text_part(f"</{tag}>")]


def tool_message(call_id: str, parts: Sequence[Json], label: str) -> tuple[Json, list[Json]]:
    """The result of a tool call as a chat message, and what has to follow as the user's.

    Chat APIs take nothing but text in a tool's message: images and files go into the next turn, with a label.
    """
    texts = [part for part in parts if part["type"] == "text"]
    others = [part for part in parts if part["type"] != "text"]
    message = {"role": "tool", "tool_call_id": call_id, "content": content_of(texts) if texts else ""}
    return message, [text_part(label), *others] if others else []


def _with_chunks(router: Any, chunks: Sequence[Json]) -> Any:
    """The request's `router` object with the retrieved text that stood in the messages, unless it brings its own."""
    if not chunks or not (router is None or isinstance(router, dict)):
        return router
    given: Json = router or {}
    if given.get("retrieved_chunks") is not None:
        return given
    return {**given, "retrieved_chunks": list(chunks[:MAX_CHUNKS])}


def chunk(parts: Sequence[Json], source: str | None, score: Any = None) -> Json | None:
    """Retrieved text as evidence for the routing decision; None where there is no text."""
    text = "\n".join(part["text"] for part in parts if part["type"] == "text")
    if not text:
        return None
    found: Json = {"text": _storable(text)}
    if source is not None:
        found["id"] = _storable(source)
    if isinstance(score, int | float) and not isinstance(score, bool):
        found["score"] = float(score)
    return found


def _storable(text: str) -> str:
    """Without lone surrogates: evidence is read strictly, where a prompt is only passed on."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode("utf-8")
