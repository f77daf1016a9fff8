"""A chat answer as a sequence of blocks: reasoning, text, a refusal, tool calls, one after the other.

Both Anthropic's Messages and OpenAI's Responses are made of such blocks, while chat sends pieces of several of them in
any order. `BlockReader` brings them into order for a stream and for a plain answer alike: a block ends before the next
one begins. Pieces of a later block wait until the block before it is complete; nothing is lost, and in the usual case,
where a backend finishes one tool call before it begins the next, nothing waits.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Literal, NamedTuple, TypeAlias

from router.dialects.fields import Json
from router.errors import BackendBroken
from router.sse import is_count

Kind = Literal["reasoning", "text", "refusal", "tool"]
_TEXTS: tuple[tuple[tuple[str, ...], Kind], ...] = (
    (("reasoning", "reasoning_content"), "reasoning"),
    (("content",), "text"),
    (("refusal",), "refusal"),
)
"""Members of a message or a delta, in the order in which they are read. Reasoning has two names, and some backends
send both with the same text."""


class Block:
    """One part of an answer."""

    __slots__ = ("_pieces", "call_id", "ended", "kind", "logprobs", "name", "number", "waiting")

    def __init__(self, kind: Kind, number: int) -> None:
        self.kind: Kind = kind
        self.number = number
        """Its place among the blocks of the answer, from 0."""
        self.call_id = self.name = ""
        """Of a tool call."""
        self.logprobs: list[Any] = []
        self.ended = False
        self.waiting: list[tuple[str, list[Any]]] = []
        """Pieces (and their logprobs) that have not been given out."""
        self._pieces: list[str] = []

    @property
    def text(self) -> str:
        """What has been received so far: text, or the arguments of a call as JSON text."""
        if len(self._pieces) > 1:
            self._pieces = ["".join(self._pieces)]
        return self._pieces[0] if self._pieces else ""

    def add(self, piece: str, logprobs: list[Any]) -> None:
        self._pieces.append(piece)
        self.logprobs += logprobs
        self.waiting.append((piece, logprobs))

    def may_be_over(self) -> bool:
        """Whether another block may follow. Arguments of a tool call are complete when they are valid JSON."""
        if self.kind != "tool":
            return True
        if not self._pieces or not self._pieces[-1].rstrip().endswith("}"):
            return False
        try:
            json.loads(self.text)
        except (ValueError, RecursionError):
            return False
        return True


class Begin(NamedTuple):
    block: Block


class Piece(NamedTuple):
    block: Block
    text: str
    logprobs: list[Any]


class End(NamedTuple):
    block: Block


BlockEvent: TypeAlias = Begin | Piece | End


class TokenUsage(NamedTuple):
    """Counts as chat reports them: the prompt's include those read from a cache, the completion's the reasoning's."""

    prompt: int = 0
    completion: int = 0
    cached: int = 0
    cache_writes: int = 0
    reasoning: int = 0


class BlockReader:
    """Reads the first choice of one chat answer, chunk by chunk.

    Attributes:
        blocks: everything received so far.
        finish_reason: chat's; None while the answer goes on.
        stop_sequence: the string that ended it, where the backend tells (vLLM's `stop_reason`).
        usage: None when the backend did not report any.
    """

    def __init__(self) -> None:
        self.blocks: list[Block] = []
        self.answer_id = self.model = ""
        self.created_s: int | None = None
        self.service_tier: str | None = None
        self.finish_reason: str | None = None
        self.stop_sequence: str | None = None
        self.usage: TokenUsage | None = None
        self._calls: dict[int | str, Block] = {}
        self._current = self._begun = 0

    def feed(self, chunk: Json) -> list[BlockEvent]:
        """One chunk of a stream. Raises: BackendBroken: a tool call goes on after its end."""
        self._note(chunk)
        choice = _first_choice(chunk)
        if choice is None:
            return []
        self._read(choice, choice.get("delta"), whole=False)
        return list(self._given_out(over=False))

    def finish(self) -> list[BlockEvent]:
        """What remains at the end of the answer: every block that has begun ends."""
        return list(self._given_out(over=True))

    def read_plain(self, answer: Json) -> None:
        """A whole chat completion; `blocks` then holds all of it. Raises: BackendBroken: it has no message."""
        self._note(answer)
        choice = _first_choice(answer)
        if choice is None or not isinstance(choice.get("message"), dict):
            raise BackendBroken("the answer is not a chat completion", cause="invalid_response")
        self._read(choice, choice["message"], whole=True)
        self.finish()

    def _note(self, chunk: Json) -> None:
        """What an answer, and each chunk of a stream, says about the whole."""
        self.answer_id = self.answer_id or _string(chunk.get("id"))
        self.model = self.model or _string(chunk.get("model"))
        if self.created_s is None and is_count(chunk.get("created")):
            self.created_s = chunk["created"]
        self.service_tier = _string(chunk.get("service_tier")) or self.service_tier
        if isinstance(chunk.get("usage"), dict):
            self.usage = _usage(chunk["usage"])

    def _read(self, choice: Json, delta: Any, *, whole: bool) -> None:
        if isinstance(delta, dict):
            logprobs = _logprobs(choice.get("logprobs"))
            for keys, kind in _TEXTS:
                piece = next(filter(None, (_string(delta.get(key)) for key in keys)), "")
                if piece:
                    self._text_block(kind).add(piece, logprobs if kind in ("text", "refusal") else [])
            calls = delta.get("tool_calls")
            for position, call in enumerate(calls if isinstance(calls, list) else ()):
                if isinstance(call, dict):
                    self._read_call(call, position if whole else None)
        self.finish_reason = _string(choice.get("finish_reason")) or self.finish_reason
        self.stop_sequence = _string(choice.get("stop_reason")) or self.stop_sequence

    def _text_block(self, kind: Kind) -> Block:
        """The block that a piece of this kind continues or begins."""
        last = self.blocks[-1] if self.blocks else None
        return last if last is not None and last.kind == kind and not last.ended else self._new_block(kind)

    def _new_block(self, kind: Kind) -> Block:
        block = Block(kind, len(self.blocks))
        self.blocks.append(block)
        return block

    def _call_block(self, call: Json, position: int | None) -> Block:
        """The block of a call. Not every backend numbers the calls of a stream, and none those of a plain answer."""
        key = call.get("index", position)
        if not isinstance(key, int):
            key = _string(call.get("id"))
            if not key and self._calls:
                return next(reversed(self._calls.values()))
        block = self._calls.get(key)
        if block is None:
            block = self._calls[key] = self._new_block("tool")
        return block

    def _read_call(self, call: Json, position: int | None) -> None:
        block = self._call_block(call, position)
        function = call.get("function")
        if not isinstance(function, dict):
            function = {}
        block.call_id = block.call_id or _string(call.get("id"))
        block.name = block.name or _string(function.get("name"))
        arguments = _string(function.get("arguments"))
        if not arguments:
            return
        if block.ended:
            if arguments.isspace():
                return
            raise BackendBroken("a tool call goes on after its arguments are complete", cause="invalid_response")
        block.add(arguments, [])

    def _given_out(self, *, over: bool) -> Iterator[BlockEvent]:
        """Everything that may be passed on now, in order."""
        while self._current < len(self.blocks):
            block = self.blocks[self._current]
            if block.kind == "tool" and not block.call_id:
                block.call_id = f"call_{self.answer_id.rpartition('-')[2] or 'locum'}_{block.number}"
            if block.kind == "tool" and not block.name:
                if over:
                    raise BackendBroken("a tool call has no name", cause="invalid_response")
                return
            yield from self._pieces_of(block)
            is_last = self._current + 1 == len(self.blocks)
            if not over and (is_last or not block.may_be_over()):
                return
            block.ended = True
            self._current += 1
            yield End(block)

    def _pieces_of(self, block: Block) -> Iterator[BlockEvent]:
        if block.number == self._begun:
            self._begun += 1
            yield Begin(block)
        waiting, block.waiting = block.waiting, []
        for piece, logprobs in waiting:
            yield Piece(block, piece, logprobs)


def _first_choice(chunk: Json) -> Json | None:
    choices = chunk.get("choices")
    for choice in choices if isinstance(choices, list) else ():
        if isinstance(choice, dict) and not choice.get("index"):
            return choice
    return None


def _usage(usage: Json) -> TokenUsage:
    prompt, completion = usage.get("prompt_tokens_details"), usage.get("completion_tokens_details")
    return TokenUsage(
        prompt=_count(usage, "prompt_tokens"),
        completion=_count(usage, "completion_tokens"),
        cached=_count(prompt, "cached_tokens"),
        cache_writes=_count(prompt, "cache_write_tokens"),
        reasoning=_count(completion, "reasoning_tokens"),
    )


def _count(values: Any, key: str) -> int:
    value: Any = values.get(key) if isinstance(values, dict) else None
    return int(value) if is_count(value) else 0


def _logprobs(value: Any) -> list[Any]:
    content = value.get("content") if isinstance(value, dict) else None
    return content if isinstance(content, list) else []


def _string(value: Any) -> str:
    return value if isinstance(value, str) else ""
