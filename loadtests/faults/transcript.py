"""What a client's bytes say: a stream's events, an error's members, and a sentence about both for the report."""

from __future__ import annotations

import re
from typing import Any

import msgspec

from loadtests.faults.wire import Seen

_blank_line = re.compile(rb"\r\n\r\n|\n\n|\r\r")
_line_end = re.compile(rb"\r\n|\n|\r")
_decode = msgspec.json.Decoder().decode
MAX_QUOTED_CHARS = 110
MAX_SHOWN_TEXT_CHARS = 24
ENDS = {
    "complete": "the end of the answer",
    "closed": "the connection closed before the end of the answer",
    "reset": "a TCP reset",
    "bad_http": "bytes that are no HTTP",
    "patience": "nothing more while we waited",
}


class Transcript(msgspec.Struct):
    """The events of a stream, in order."""

    chunks: list[dict[str, Any]] = []
    errors: list[Any] = []
    """The member `error` of every event that has one."""
    texts: dict[int, str] = {}
    """By choice."""
    finished: dict[int, str] = {}
    usages: list[dict[str, Any]] = []
    done: int = 0
    content_events: int = 0
    after_done: int = 0
    """Events behind the first `[DONE]`."""
    malformed: list[bytes] = []
    rest_bytes: int = 0
    """Behind the last event, never ended."""

    @property
    def text(self) -> str:
        return self.texts.get(0, "")

    @property
    def complete(self) -> bool:
        """A whole answer: every choice finished, one `[DONE]`, nothing wrong."""
        return self.done == 1 and bool(self.finished) and not (self.errors or self.malformed or self.after_done)


def read_stream(body: bytes) -> Transcript:
    """Reads server-sent events by their own rules: any line end, comments, several data lines."""
    found = Transcript(chunks=[], errors=[], texts={}, finished={}, usages=[], malformed=[])
    start = 0
    for blank in _blank_line.finditer(body):
        _read_event(body[start : blank.start()], found)
        start = blank.end()
    found.rest_bytes = len(body[start:].strip())
    return found


def _read_event(event: bytes, found: Transcript) -> None:
    lines = [line[5:].removeprefix(b" ") for line in _line_end.split(event) if line.startswith(b"data:")]
    if not lines:
        return
    data = b"\n".join(lines)
    if found.done:
        found.after_done += 1
    if data.strip() == b"[DONE]":
        found.done += 1
        return
    try:
        chunk = _decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError):
        found.malformed.append(data)
        return
    if not isinstance(chunk, dict):
        found.malformed.append(data)
        return
    if chunk.get("error"):
        found.errors.append(chunk["error"])
        return
    found.chunks.append(chunk)
    if isinstance(chunk.get("usage"), dict):
        found.usages.append(chunk["usage"])
    for choice in chunk.get("choices") or ():
        _read_choice(choice, found)


def _read_choice(choice: dict[str, Any], found: Transcript) -> None:
    index = choice.get("index") or 0
    content = (choice.get("delta") or {}).get("content")
    if content:
        found.content_events += 1
        found.texts[index] = found.texts.get(index, "") + content
    if choice.get("finish_reason"):
        found.finished[index] = choice["finish_reason"]


def answer_of(seen: Seen) -> dict[str, Any]:
    """The JSON of a plain answer; empty when it is none."""
    try:
        value = _decode(seen.body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return {}
    return value if isinstance(value, dict) else {}


def text_of(seen: Seen) -> str:
    """The first choice's text of a plain answer."""
    choices = answer_of(seen).get("choices")
    if not isinstance(choices, list) or not choices or not isinstance(choices[0], dict):
        return ""
    return str((choices[0].get("message") or {}).get("content") or "")


def names_members(error: Any) -> bool:
    """Whether an error has OpenAI's form: a message, a type, and a code (which may be null)."""
    return isinstance(error, dict) and bool(error.get("message")) and bool(error.get("type")) and "code" in error


def has_message(error: Any) -> bool:
    """Whether an error is an object with a message, which is the least that a client can show."""
    return isinstance(error, dict) and bool(error.get("message"))


def is_event_stream(seen: Seen) -> bool:
    return (seen.header("content-type") or "").lower().startswith("text/event-stream")


def describe(seen: Seen) -> str:
    """One sentence about what the client really got."""
    if not seen.status:
        return f"no answer, then {ENDS[seen.end]}"
    if is_event_stream(seen):
        return f"{seen.status}: {_describe_stream(seen)}"
    kind = (seen.header("content-type") or "no content-type").partition(";")[0]
    text = text_of(seen)
    if text:
        shown = f"an answer ({_quoted(text)})"
    elif not seen.body:
        shown = "no body"
    else:
        shown = _quoted(seen.body.decode("utf-8", "replace"))
    ended = "" if seen.end == "complete" else f", then {ENDS[seen.end]}"
    return f"{seen.status} {kind}: {shown}{ended}"


def _describe_stream(seen: Seen) -> str:
    found = read_stream(seen.body)
    shown = f" ({_quoted(found.text, MAX_SHOWN_TEXT_CHARS)})" if found.text else ""
    parts = [f"{found.content_events} text chunk{'s' * (found.content_events != 1)}{shown}"]
    if found.finished:
        parts.append(f"finish_reason {', '.join(sorted(set(found.finished.values())))}")
    parts += [f"the error event {_quoted(msgspec.json.encode(error).decode())}" for error in found.errors[:1]]
    if found.malformed:
        parts.append(f"an event that is no JSON ({_quoted(found.malformed[0].decode('utf-8', 'replace'))})")
    if found.rest_bytes:
        parts.append(f"{found.rest_bytes:,} bytes of an event that never ended")
    parts += ["[DONE]"] * found.done
    return ", ".join([*parts, ENDS[seen.end]])


def _quoted(text: str, most: int = MAX_QUOTED_CHARS) -> str:
    """One line, cut, safe in a table cell."""
    line = " ".join(text.split()).replace("|", "/").replace("`", "'")
    return f"`{line[:most]}{'…' * (len(line) > most)}`"
