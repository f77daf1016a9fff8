"""The turns of an Anthropic conversation as chat messages."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from router.dialects.fields import (
    Json,
    PartCount,
    flag,
    json_text,
    object_of,
    objects_of,
    optional_text,
    text_at,
    wrong,
)
from router.dialects.parts import chunk, content_of, image_part, tagged, text_part, tool_message

THINKING = ("thinking", "redacted_thinking")
"""Left out: nobody but the model that signed them can read them, and chat has no place for them."""
NO_CITATIONS = "must be false or absent: the routed models give no citations."
NO_FILES = "must be base64, url or text: the gateway keeps no files."


class Conversation:
    """Chat messages in the making.

    Attributes:
        chunks: retrieved text of the current turn (search results and documents), as `router.retrieved_chunks`.
    """

    def __init__(self) -> None:
        self.messages: list[Json] = []
        self.chunks: list[Json] = []
        self._count = PartCount()

    def add_system(self, system: Any, at: str) -> None:
        """A system prompt: a string or text blocks. Raises: InvalidRequest."""
        if system is None or system in ("", []):
            return
        self.messages.append({"role": "system", "content": content_of(self._texts(system, at))})

    def add_turns(self, turns: Any) -> None:
        """Raises: InvalidRequest."""
        found = objects_of(turns, "messages")
        if not found:
            raise wrong("messages", "must not be empty.")
        self._count.add(len(found), "messages")
        for index, turn in enumerate(found):
            at = f"messages.{index}."
            match text_at(turn, "role", at):
                case "user":
                    self._add_user(turn.get("content"), f"{at}content")
                case "assistant":
                    self._add_assistant(turn.get("content"), f"{at}content")
                case "system":
                    self.add_system(turn.get("content"), f"{at}content")
                case _:
                    raise wrong(f"{at}role", "must be user, assistant or system.")
        if found[-1]["role"] == "assistant":
            raise wrong(
                f"messages.{len(found) - 1}.role",
                "must not be assistant in the last message: an answer that is begun by the client is not supported.",
            )

    def _blocks(self, content: Any, at: str) -> list[Json]:
        if isinstance(content, str):
            return [{"type": "text", "text": content}]
        blocks = objects_of(content, at)
        self._count.add(len(blocks), "messages")
        return blocks

    def _texts(self, content: Any, at: str) -> list[Json]:
        parts = []
        for index, block in enumerate(self._blocks(content, at)):
            if block.get("type") != "text":
                raise wrong(f"{at}.{index}.type", "must be text.")
            parts.append(text_part(text_at(block, "text", f"{at}.{index}.")))
        return parts

    def _add_user(self, content: Any, at: str) -> None:
        """Tool results first, as messages of their own, then the rest as the user's."""
        blocks = self._blocks(content, at)
        if any(block.get("type") != "tool_result" for block in blocks):
            self.chunks.clear()  # a new question: what was found for the one before is no evidence for it
        parts: list[Json] = []
        for index, block in enumerate(blocks):
            here = f"{at}.{index}"
            if block.get("type") != "tool_result":
                parts += self._parts(block, here)
                continue
            if index and blocks[index - 1].get("type") != "tool_result":
                raise wrong(here, "is a tool_result behind another block: tool results come first in a message.")
            message, rest = self._tool_result(block, f"{here}.")
            self.messages.append(message)
            parts += rest
        if parts:
            self.messages.append({"role": "user", "content": content_of(parts)})

    def _tool_result(self, block: Json, at: str) -> tuple[Json, list[Json]]:
        call_id = text_at(block, "tool_use_id", at)
        parts: list[Json] = []
        if block.get("content") is not None:
            for index, inner in enumerate(self._blocks(block["content"], f"{at}content")):
                parts += self._parts(inner, f"{at}content.{index}")
        if flag(block.get("is_error"), f"{at}is_error"):
            parts = _as_error(parts)
        return tool_message(call_id, parts, f"Returned by the tool call {call_id}:")

    def _parts(self, block: Json, at: str) -> list[Json]:
        """What chat content becomes of a block of the user's or of a tool."""
        match block.get("type"):
            case "text":
                return [text_part(text_at(block, "text", f"{at}."))]
            case "image":
                return [_image(block, f"{at}.")]
            case "document":
                return self._document(block, f"{at}.")
            case "search_result":
                return self._search_result(block, f"{at}.")
            case kind:
                raise wrong(f"{at}.type", f"{str(kind)[:64]!r} is not supported here.")

    def _search_result(self, block: Json, at: str) -> list[Json]:
        _check_citations(block, at)
        source, title = text_at(block, "source", at), text_at(block, "title", at)
        parts = self._texts(block.get("content"), f"{at}content")
        self._found(chunk(parts, source))
        return tagged("search_result", {"source": source, "title": title}, parts)

    def _document(self, block: Json, at: str) -> list[Json]:
        _check_citations(block, at)
        source = object_of(block.get("source"), f"{at}source")
        title, context = optional_text(block, "title", at), optional_text(block, "context", at)
        match source.get("type"):
            case "text":
                parts = [text_part(text_at(source, "data", f"{at}source."))]
            case "content":
                blocks = self._blocks(source.get("content"), f"{at}source.content")
                parts = [
                    part
                    for index, inner in enumerate(blocks)
                    for part in self._parts(inner, f"{at}source.content.{index}")
                ]
            case "base64":
                return [_file(source, title, f"{at}source.")]
            case "url":
                raise wrong(f"{at}source.type", "must be base64 or text: chat models are not sent documents by URL.")
            case _:
                raise wrong(f"{at}source.type", NO_FILES)
        self._found(chunk(parts, title))
        return tagged("document", {"title": title, "context": context}, parts)

    def _found(self, evidence: Json | None) -> None:
        if evidence is not None:
            self.chunks.append(evidence)

    def _add_assistant(self, content: Any, at: str) -> None:
        texts: list[Json] = []
        calls: list[Json] = []
        for index, block in enumerate(self._blocks(content, at)):
            here = f"{at}.{index}."
            match block.get("type"):
                case "text":
                    texts.append(text_part(text_at(block, "text", here)))
                case "tool_use":
                    calls.append(_tool_call(block, here))
                case kind if kind not in THINKING:
                    raise wrong(f"{here}type", f"{str(kind)[:64]!r} is not supported in an assistant's turn.")
        message: Json = {"role": "assistant", "content": content_of(texts) if texts else ""}
        if calls:
            message["tool_calls"] = calls
            message["content"] = message["content"] or None
        self.messages.append(message)


def _as_error(parts: Sequence[Json]) -> list[Json]:
    """Chat has no flag for a failed tool call: its text says it."""
    for index, part in enumerate(parts):
        if part["type"] == "text":
            return [*parts[:index], text_part(f"Error: {part['text']}"), *parts[index + 1 :]]
    return [text_part("Error"), *parts]


def _check_citations(block: Json, at: str) -> None:
    if object_of(block.get("citations") or {}, f"{at}citations").get("enabled"):
        raise wrong(f"{at}citations.enabled", NO_CITATIONS)


def _image(block: Json, at: str) -> Json:
    source = object_of(block.get("source"), f"{at}source")
    if block.get("transformations") is not None:
        raise wrong(f"{at}transformations", "is not supported: scale the image before you send it.")
    at = f"{at}source."
    match source.get("type"):
        case "base64":
            return image_part(_data_url(source, at))
        case "url":
            return image_part(text_at(source, "url", at))
        case _:
            raise wrong(f"{at}type", "must be base64 or url: the gateway keeps no files.")


def _file(source: Json, title: str | None, at: str) -> Json:
    return {"type": "file", "file": {"filename": title or "document.pdf", "file_data": _data_url(source, at)}}


def _data_url(source: Json, at: str) -> str:
    return f"data:{text_at(source, 'media_type', at)};base64,{text_at(source, 'data', at)}"


def _tool_call(block: Json, at: str) -> Json:
    for key in ("caller", "toolset_name"):
        if block.get(key) not in (None, {"type": "direct"}):
            raise wrong(f"{at}{key}", "is not supported: it belongs to Anthropic's own tools.")
    arguments = json_text(object_of(block.get("input"), f"{at}input"), f"{at}input")
    return {
        "id": text_at(block, "id", at),
        "type": "function",
        "function": {"name": text_at(block, "name", at), "arguments": arguments},
    }
