"""The input items of a Responses request as chat messages."""

from __future__ import annotations

from typing import Any

from router.dialects.fields import Json, PartCount, objects_of, optional_text, text_at, wrong
from router.dialects.parts import chunk, content_of, image_part, tagged, text_part, tool_message

ROLES = {"user": "user", "assistant": "assistant", "system": "system", "developer": "system"}
"""`developer` becomes `system`, which every chat template knows and OpenAI's models read as the same."""


class Conversation:
    """Chat messages in the making.

    Attributes:
        chunks: results of file searches of the current turn, as `router.retrieved_chunks`.
    """

    def __init__(self) -> None:
        self.messages: list[Json] = []
        self.chunks: list[Json] = []
        self._count = PartCount()
        self._for_user: list[Json] = []
        """Images and files out of tool results; they follow when all results of a turn are there."""

    def add_instructions(self, instructions: str | None) -> None:
        if instructions:
            self.messages.append({"role": "system", "content": instructions})

    def add_input(self, given: Any) -> None:
        """Raises: InvalidRequest."""
        if isinstance(given, str):
            self.messages.append({"role": "user", "content": given})
            return
        items = objects_of(given, "input")
        if not items:
            raise wrong("input", "must not be empty.")
        self._count.add(len(items), "input")
        for index, item in enumerate(items):
            self._add_item(item, f"input.{index}.")
        self._flush()

    def _add_item(self, item: Json, at: str) -> None:
        match item.get("type", "message"):
            case "message":
                self._flush()
                self._add_message(item, at)
            case "function_call":
                self._flush()
                self._add_call(item, at)
            case "function_call_output":
                self._add_output(item, at)
            case "file_search_call":
                self._flush()
                self._add_search(item, at)
            case "reasoning":
                pass  # sealed for the model that wrote it, or of a turn that is over: chat has no place for it
            case "item_reference":
                raise wrong(
                    f"{at}type", "'item_reference' is not supported: the gateway keeps no items; send it whole."
                )
            case kind:
                raise wrong(f"{at}type", f"{str(kind)[:64]!r} is not supported: use messages and function calls.")

    def _add_message(self, item: Json, at: str) -> None:
        role = ROLES.get(text_at(item, "role", at))
        if role is None:
            raise wrong(f"{at}role", f"must be one of {', '.join(ROLES)}.")
        parts = self._parts(item.get("content"), f"{at}content")
        if role == "user":
            self.chunks.clear()  # a new question: what was found for the one before is no evidence for it
        if role == "assistant" and all(part["type"] == "text" for part in parts):
            parts = [text_part("".join(part["text"] for part in parts))]
        self.messages.append({"role": role, "content": content_of(parts)})

    def _parts(self, content: Any, at: str) -> list[Json]:
        if isinstance(content, str):
            return [text_part(content)]
        parts = objects_of(content, at)
        self._count.add(len(parts), "input")
        return [_part(part, f"{at}.{index}.") for index, part in enumerate(parts)]

    def _add_call(self, item: Json, at: str) -> None:
        """Calls of one turn stand in one assistant message, together with the text before them."""
        for key in ("namespace", "async"):
            if item.get(key):
                raise wrong(f"{at}{key}", "is not supported: it belongs to OpenAI's hosted tools.")
        function = {"name": text_at(item, "name", at), "arguments": text_at(item, "arguments", at)}
        call = {"id": text_at(item, "call_id", at), "type": "function", "function": function}
        last = self.messages[-1] if self.messages else None
        if last is None or last["role"] != "assistant":
            last = {"role": "assistant", "content": None}
            self.messages.append(last)
        last.setdefault("tool_calls", []).append(call)

    def _add_output(self, item: Json, at: str) -> None:
        call_id = text_at(item, "call_id", at)
        parts = self._parts(item.get("output"), f"{at}output")
        message, rest = tool_message(call_id, parts, f"Returned by the tool call {call_id}:")
        self.messages.append(message)
        self._for_user += rest

    def _add_search(self, item: Json, at: str) -> None:
        """Results of a hosted file search: the model saw them then, and has to see them again."""
        for index, result in enumerate(objects_of(item.get("results") or [], f"{at}results")):
            here = f"{at}results.{index}."
            source = optional_text(result, "filename", here) or optional_text(result, "file_id", here)
            text = optional_text(result, "text", here)
            if not text:
                continue
            part = text_part(text)
            evidence = chunk([part], source, result.get("score"))
            if evidence is not None:
                self.chunks.append(evidence)
            content = content_of(tagged("search_result", {"source": source}, [part]))
            self.messages.append({"role": "user", "content": content})

    def _flush(self) -> None:
        if self._for_user:
            self.messages.append({"role": "user", "content": self._for_user})
            self._for_user = []


def _part(part: Json, at: str) -> Json:
    match part.get("type"):
        case "input_text" | "output_text" | "text":
            return text_part(text_at(part, "text", at))
        case "refusal":
            return {"type": "refusal", "refusal": text_at(part, "refusal", at)}
        case "input_image":
            if part.get("image_url") is None:
                raise wrong(f"{at}image_url", "is required: the gateway keeps no files.")
            detail = optional_text(part, "detail", at)
            return image_part(text_at(part, "image_url", at), None if detail == "auto" else detail)
        case "input_file":
            if part.get("file_url") is not None:
                raise wrong(f"{at}file_url", "is not supported: send the file as file_data.")
            kept = ("file_id", "file_data", "filename")
            return {"type": "file", "file": {key: part[key] for key in kept if part.get(key) is not None}}
        case "input_audio":
            return {"type": "input_audio", "input_audio": part.get("input_audio")}
        case kind:
            raise wrong(f"{at}type", f"{str(kind)[:64]!r} is not supported here.")
