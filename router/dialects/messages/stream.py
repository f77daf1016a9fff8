"""A chat stream as a stream of Anthropic's Messages API.

message_start, then for every block content_block_start, content_block_delta and content_block_stop, then message_delta
with the stop reason and the usage, then message_stop. An error takes the place of the end.
"""

from __future__ import annotations

from collections.abc import Iterable

from router.dialects.blocks import Begin, Block, BlockEvent, BlockReader, Piece, TokenUsage
from router.dialects.fields import Json
from router.dialects.frames import event
from router.dialects.messages.answer import empty_block, ending, error_object, is_shown, opening, usage_of
from router.errors import LocumError

PING = event({"type": "ping"})
"""Keeps a connection alive while nothing is known yet; clients skip it."""
_DELTAS = {
    "text": ("text_delta", "text"),
    "refusal": ("text_delta", "text"),
    "reasoning": ("thinking_delta", "thinking"),
    "tool": ("input_json_delta", "partial_json"),
}


class MessagesStream:
    """Translates the chunks of one chat stream. `end` or `error` is called once, after the last `feed`."""

    def __init__(self, model: str, *, thinking: bool = False) -> None:
        """
        Args:
            model: named where the backend names none.
            thinking: whether the client asked to see the reasoning.
        """
        self.model = model
        self.thinking = thinking
        self._reader = BlockReader()
        self._started = False
        self._shown: dict[int, int] = {}

    def feed(self, chunk: Json) -> bytes:
        """The events that a chunk becomes, possibly none. Raises: BackendBroken."""
        events = self._reader.feed(chunk)
        return self._start() + self._written(events)

    def end(self) -> bytes:
        """The events of the end. Raises: BackendBroken: the answer is incomplete."""
        last = self._written(self._reader.finish())
        usage = usage_of(self._reader.usage or TokenUsage())
        delta = {"type": "message_delta", "delta": ending(self._reader), "usage": usage}
        return self._start() + last + event(delta) + event({"type": "message_stop"})

    def error(self, error: LocumError) -> bytes:
        """The last event of a stream that failed."""
        return event(error_object(error))

    def _start(self) -> bytes:
        if self._started:
            return b""
        self._started = True
        message = opening(self._reader, self.model)
        if self._reader.usage is not None:
            message["usage"] = usage_of(self._reader.usage)
        return event({"type": "message_start", "message": message}) + PING

    def _written(self, events: Iterable[BlockEvent]) -> bytes:
        return b"".join(event(self._translated(found)) for found in events if self._is_shown(found.block))

    def _is_shown(self, block: Block) -> bool:
        return is_shown(block, thinking=self.thinking)

    def _translated(self, found: BlockEvent) -> Json:
        block = found.block
        index = self._shown.setdefault(block.number, len(self._shown))
        if isinstance(found, Begin):
            return {"type": "content_block_start", "index": index, "content_block": empty_block(block)}
        if isinstance(found, Piece):
            kind, key = _DELTAS[block.kind]
            return {"type": "content_block_delta", "index": index, "delta": {"type": kind, key: found.text}}
        return {"type": "content_block_stop", "index": index}
