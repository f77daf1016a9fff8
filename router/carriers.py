"""Reads retrieved text from the places where clients already put it: OpenAI- and Anthropic-style carriers.

None of it is changed or removed: it is part of the prompt. What is not recognised is no retrieved text.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

from policies.base import Chunk
from router.directives import MAX_CHUNKS

MAX_TOOL_CHARS = 262_144
"""A tool message longer than this is not searched for results."""
MAX_SCORE = 1e9
_TEXT_KEYS = ("text", "content", "snippet", "page_content", "contents", "chunk", "passage", "document")
_SCORE_KEYS = ("score", "relevance_score", "similarity", "relevance")
_LIST_KEYS = ("results", "documents", "chunks", "matches", "hits", "passages", "search_results")
_PART_TYPES = frozenset({"search_result", "file_search_call", "file_search_result", "document"})


def chunks_in(body: Mapping[str, Any]) -> tuple[Chunk, ...] | None:
    """Chunks in `documents`, and in the messages since the last user turn: tool results, search results.

    Returns:
        The first MAX_CHUNKS; an empty tuple when there is a carrier and nothing was found in it; None when the
        request has no carrier at all.
    """
    found: list[Chunk] = []
    carriers = 0
    for items in _carriers(body):
        carriers += 1
        found += _chunks(items, MAX_CHUNKS - len(found))
        if len(found) >= MAX_CHUNKS:
            break
    return tuple(found) if carriers else None


def _carriers(body: Mapping[str, Any]) -> Iterator[Sequence[Any]]:
    """The lists of results in a request."""
    documents = body.get("documents")
    if isinstance(documents, list):
        yield documents
    for message in _current_turn(body.get("messages") or ()):
        is_tool = message.get("role") == "tool"
        content = message.get("content")
        if isinstance(content, str):
            listed = _listed(content) if is_tool else None
            if listed is not None:
                yield listed
            continue
        for part in content or ():
            listed = _in_part(part, is_tool=is_tool)
            if listed is not None:
                yield listed


def _current_turn(messages: Sequence[Any]) -> Sequence[Any]:
    for index in range(len(messages) - 1, -1, -1):
        if messages[index].get("role") == "user":
            return messages[index:]
    return messages


def _in_part(part: Mapping[str, Any], *, is_tool: bool) -> Sequence[Any] | None:
    kind = part.get("type")
    if isinstance(kind, str) and kind in _PART_TYPES:
        results = part.get("results")
        return results if isinstance(results, list) else [part]
    text = part.get("text")
    return _listed(text) if is_tool and isinstance(text, str) else None


def _listed(text: str) -> Sequence[Any] | None:
    """The result list inside a tool message that is JSON; None when it is not a list of texts."""
    if len(text) > MAX_TOOL_CHARS or text.lstrip()[:1] not in ("{", "["):
        return None
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if isinstance(value, dict):
        value = next((value[key] for key in _LIST_KEYS if isinstance(value.get(key), list)), None)
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        return None
    return value if not value or _chunks(value, 1) else None


def _chunks(items: Sequence[Any], most: int) -> list[Chunk]:
    return list(islice(filter(None, map(_chunk, items)), most))


def _chunk(item: Any) -> Chunk | None:
    if isinstance(item, str):
        return Chunk(text=item)
    if not isinstance(item, dict):
        return None
    text = next((joined for key in _TEXT_KEYS if (joined := _joined_text(item.get(key)))), None)
    if text is None:
        return None
    names = (item.get(key) for key in ("id", "file_id", "source", "filename"))
    return Chunk(text=text, score=_score(item), id=next((name for name in names if isinstance(name, str)), None))


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
        if isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= MAX_SCORE:
            return float(value)
    return None
