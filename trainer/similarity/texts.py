"""What two requests are compared by: their turns, normalised, without the template that many of them share."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import msgspec

WORD = re.compile(r"\w+")
NUMERAL = re.compile(r"\d+(?:[.,:/]\d+)*")
TEMPLATE_WORDS = (256, 128, 96, 64, 48, 32, 24, 16, 12, 10, 8)
"""Lengths at which a shared beginning or end is looked for; shorter ones are how people speak."""
TEMPLATE_SHARE = 0.001
TEMPLATE_ROWS = 20
_SLOTS = 1 << 21
"""A beginning is a template when this many different requests and this share of them have it."""


class NotText(ValueError):
    """Messages that are not plain text turns. The message is a cause in snake_case."""


class Turn(msgspec.Struct, frozen=True):
    role: str
    text: str


def turns_of(messages: object) -> list[Turn]:
    """The turns of a request's `messages`.

    Raises:
        NotText: `bad_messages` (not OpenAI's form), `tools` or `not_text` (images and the like).
    """
    if not isinstance(messages, list) or not messages:
        raise NotText("bad_messages")
    turns = []
    for message in messages:
        if not isinstance(message, dict) or not isinstance(message.get("role"), str):
            raise NotText("bad_messages")
        if message["role"] in ("tool", "function") or message.get("tool_calls") or message.get("function_call"):
            raise NotText("tools")
        turns.append(Turn(message["role"], _text_of(message.get("content"))))
    return turns


def _text_of(content: object) -> str:
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise NotText("bad_messages")
    parts = []
    for part in content:
        if not isinstance(part, dict):
            raise NotText("bad_messages")
        if part.get("type") != "text" or not isinstance(part.get("text"), str):
            raise NotText("not_text")
        parts.append(part["text"])
    return "".join(parts)


@dataclass(frozen=True)
class Prompt:
    """A request as the filters see it."""

    context: str
    """All that comes before the last user turn, roles included."""
    turn: str
    """The last user turn: the question."""
    user_turns: tuple[str, ...]
    """All user turns, the last one included."""


def prompt_of(messages: str) -> Prompt:
    """From the JSON text of `messages` in a table of examples. Raises: NotText."""
    turns = turns_of(msgspec.json.decode(messages))
    users = [index for index, turn in enumerate(turns) if turn.role == "user"]
    if not users:
        raise NotText("no_user_turn")
    last = users[-1]
    others = [turn for index, turn in enumerate(turns) if index != last]
    context = "\n".join(f"{turn.role}: {turn.text}" for turn in others)
    return Prompt(context, turns[last].text, tuple(turns[index].text for index in users))


def normalise(text: str) -> str:
    """Compatibility forms, case and white space made equal."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def words(text: str) -> list[str]:
    return WORD.findall(normalise(text))


def numerals(text: str) -> tuple[str, ...]:
    """The numbers of a text in the order of their value as text: texts with different ones are different questions."""
    return tuple(sorted(NUMERAL.findall(unicodedata.normalize("NFKC", text))))


def digest(*parts: str) -> bytes:
    """16 bytes that tell texts apart, with the borders between the parts."""
    state = hashlib.blake2b(digest_size=16)
    for part in parts:
        data = part.encode("utf-8", "surrogatepass")
        state.update(len(data).to_bytes(8, "big") + data)
    return state.digest()


def shingles(text: str, size: int = 5) -> set[str]:
    """Overlapping pieces of `size` characters; a shorter text is one piece."""
    return {text[index : index + size] for index in range(max(1, len(text) - size + 1))}


def ngrams(tokens: Sequence[str], size: int) -> Iterator[bytes]:
    """Hashes of the overlapping runs of `size` words; none when there are fewer."""
    for index in range(len(tokens) - size + 1):
        yield hashlib.blake2b(" ".join(tokens[index : index + size]).encode(), digest_size=8).digest()


class Templates:
    """Beginnings and ends that many different requests share (`Classify this message: ...`).

    They say nothing about whether two requests are the same, and would make all of them alike. Learned from the
    requests themselves; a request that is nothing but template keeps its text.
    """

    def __init__(self, texts: Iterable[str]) -> None:
        self._counts = array("I", bytes(4 * _SLOTS))
        """By hash: a table of fixed size. Two beginnings that share a slot are counted together, which at the least
        count below does no harm."""
        rows = 0
        seen: set[bytes] = set()
        for text in texts:
            tokens = text.split()
            if (whole := digest(" ".join(tokens))) in seen:
                continue
            seen.add(whole)
            rows += 1
            for size in TEMPLATE_WORDS:
                if size < len(tokens):
                    self._counts[_slot("first", tokens[:size])] += 1
                    self._counts[_slot("last", tokens[-size:])] += 1
        self._least = max(TEMPLATE_ROWS, TEMPLATE_SHARE * rows)

    def strip(self, text: str) -> str:
        """The text without the longest template at either end, white space made single."""
        tokens = text.split()
        sizes = [size for size in TEMPLATE_WORDS if size < len(tokens)]
        start = next((size for size in sizes if self._counts[_slot("first", tokens[:size])] >= self._least), 0)
        end = next((size for size in sizes if self._counts[_slot("last", tokens[-size:])] >= self._least), 0)
        if start + end >= len(tokens):
            return " ".join(tokens)
        return " ".join(tokens[start : len(tokens) - end])


def _slot(place: str, tokens: Sequence[str]) -> int:
    return int.from_bytes(digest(place, " ".join(tokens))[:8], "big") % _SLOTS
