"""Reads retrieved text from the places where clients already put it: OpenAI- and Anthropic-style carriers.

None of it is changed or removed: it is part of the prompt. What is not recognised is no retrieved text.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from policies.base import Chunk

MAX_CHUNKS = 256
_TEXT_KEYS = ("text", "content", "snippet", "page_content", "contents", "chunk", "passage", "document")
_SCORE_KEYS = ("score", "relevance_score", "similarity", "relevance")
_LIST_KEYS = ("results", "documents", "chunks", "matches", "hits", "passages", "search_results")
_PART_TYPES = frozenset({"search_result", "file_search_call", "file_search_result", "document"})


def chunks_in(body: Mapping[str, Any]) -> tuple[Chunk, ...] | None:
    """Chunks in `documents`, and in the messages since the last user turn: tool results, search results.

    Returns:
        None when the request has no carrier at all; an empty tuple when it has one and nothing was found.
    """
    found: list[Chunk] = []
    carriers = 0
    documents = body.get("documents")
    if isinstance(documents, list):
        carriers += 1
        found += _items(documents)
    for message in _current_turn(body.get("messages") or ()):
        for chunk_list in _carried(message):
            carriers += 1
            found += chunk_list
    return tuple(found[:MAX_CHUNKS]) if carriers else None


def _current_turn(messages: Sequence[Any]) -> Sequence[Any]:
    for index in range(len(messages) - 1, -1, -1):
        if messages[index].get("role") == "user":
            return messages[index:]
    return messages


def _carried(message: Mapping[str, Any]) -> Iterator[list[Chunk]]:
    content = message.get("content")
    if isinstance(content, str):
        if message.get("role") == "tool":
            listed = _listed(content)
            if listed is not None:
                yield _items(listed)
        return
    for part in content or ():
        if not isinstance(part, dict):
            continue
        if part.get("type") in _PART_TYPES:
            results = part.get("results")
            yield _items(results if isinstance(results, list) else [part])
        elif message.get("role") == "tool" and isinstance(part.get("text"), str):
            listed = _listed(part["text"])
            if listed is not None:
                yield _items(listed)


def _listed(text: str) -> list[Any] | None:
    """The result list inside a tool message that is JSON; None when it is not a list of texts."""
    if text.lstrip()[:1] not in ("{", "["):
        return None
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if isinstance(value, dict):
        value = next((value[key] for key in _LIST_KEYS if isinstance(value.get(key), list)), None)
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        return None
    if value and not _items(value):
        return None
    return value


def _items(items: Sequence[Any]) -> list[Chunk]:
    return [chunk for chunk in map(_chunk, items) if chunk is not None]


def _chunk(item: Any) -> Chunk | None:
    if isinstance(item, str):
        return Chunk(text=item)
    if not isinstance(item, dict):
        return None
    text = next((joined for key in _TEXT_KEYS if (joined := _joined_text(item.get(key)))), None)
    if text is None:
        return None
    identifier = next(
        (item[key] for key in ("id", "file_id", "source", "filename") if isinstance(item.get(key), str)), None
    )
    return Chunk(text=text, score=_score(item), id=identifier)


def _joined_text(value: Any) -> str | None:
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        parts = [part["text"] for part in value if isinstance(part, dict) and isinstance(part.get("text"), str)]
        return "\n".join(parts) or None
    if isinstance(value, dict):
        return next((value[key] for key in _TEXT_KEYS if isinstance(value.get(key), str)), None)
    return None


def _score(item: Mapping[str, Any]) -> float | None:
    for key in _SCORE_KEYS:
        value = item.get(key)
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
            return float(value)
    return None
