"""A chat stream as a stream of OpenAI's Responses API.

response.created and response.in_progress, then for every item output_item.added, its content, output_item.done, then
response.completed, response.incomplete or response.failed. Every event carries the next sequence number.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from router.dialects.blocks import Begin, Block, BlockEvent, BlockReader, Piece
from router.dialects.fields import Json
from router.dialects.frames import event
from router.dialects.responses.answer import content_part, ended, failed, item, item_id, opening
from router.errors import LocumError

_NAMES = {
    "text": "response.output_text",
    "refusal": "response.refusal",
    "reasoning": "response.reasoning_text",
    "tool": "response.function_call_arguments",
}
_WHOLE = {"text": "text", "refusal": "refusal", "reasoning": "text", "tool": "arguments"}
"""Member of a `done` event that repeats everything."""


class ResponsesStream:
    """Translates the chunks of one chat stream. `end` or `error` is called once, after the last `feed`."""

    def __init__(self, request: Mapping[str, Any], *, now_s: Callable[[], float] = time.time) -> None:
        """`request`: the body that the client sent."""
        self.request = request
        self._now_s = now_s
        self._reader = BlockReader()
        self._response: Json | None = None
        self._number = 0

    def feed(self, chunk: Json) -> bytes:
        """The events that a chunk becomes, possibly none. Raises: BackendBroken."""
        events = self._reader.feed(chunk)
        return self._start() + self._written(events)

    def end(self) -> bytes:
        """The events of the end. Raises: BackendBroken: the answer is incomplete."""
        events = self._reader.finish()
        written = self._start() + self._written(events)
        response = ended(self._response or {}, self._reader)
        return written + self._event(f"response.{response['status']}", response=response)

    def error(self, error: LocumError) -> bytes:
        """The last events of a stream that failed."""
        written = self._start()
        return written + self._event("response.failed", response=failed(self._response or {}, self._reader, error))

    def _start(self) -> bytes:
        if self._response is not None:
            return b""
        self._response = opening(self._reader, self.request, self._now_s)
        created = self._event("response.created", response=self._response)
        return created + self._event("response.in_progress", response=self._response)

    def _written(self, events: Iterable[BlockEvent]) -> bytes:
        return b"".join(written for found in events for written in self._translated(found))

    def _translated(self, found: BlockEvent) -> Iterator[bytes]:
        block = found.block
        if isinstance(found, Begin):
            yield self._item_event("added", block, "in_progress")
            if block.kind != "tool":
                yield self._part_event("added", block, content_part(block, empty=True))
        elif isinstance(found, Piece):
            yield self._content_event("delta", block, delta=found.text, **_logprobs(block, found.logprobs))
        else:
            whole = {_WHOLE[block.kind]: block.text}
            yield self._content_event("done", block, **whole, **_logprobs(block, block.logprobs))
            if block.kind != "tool":
                yield self._part_event("done", block, content_part(block))
            yield self._item_event("done", block, self._status_of(block))

    def _status_of(self, block: Block) -> str:
        """As the response will list it: the last item of an answer that was cut off is incomplete."""
        is_last = block.number + 1 == len(self._reader.blocks)
        cut_off = self._reader.finish_reason in ("length", "content_filter")
        return "incomplete" if is_last and cut_off else "completed"

    def _item_event(self, what: str, block: Block, status: str) -> bytes:
        described = item(block, self._reader, status)
        return self._event(f"response.output_item.{what}", output_index=block.number, item=described)

    def _part_event(self, what: str, block: Block, part: Json) -> bytes:
        return self._event(f"response.content_part.{what}", **self._place(block), part=part)

    def _content_event(self, what: str, block: Block, **content: Any) -> bytes:
        return self._event(f"{_NAMES[block.kind]}.{what}", **self._place(block), **content)

    def _place(self, block: Block) -> Json:
        place: Json = {"item_id": item_id(block, self._reader), "output_index": block.number}
        return place if block.kind == "tool" else {**place, "content_index": 0}

    def _event(self, name: str, **members: Any) -> bytes:
        number, self._number = self._number, self._number + 1
        return event({"type": name, "sequence_number": number, **members})


def _logprobs(block: Block, logprobs: list[Any]) -> Json:
    return {"logprobs": logprobs} if block.kind == "text" else {}
