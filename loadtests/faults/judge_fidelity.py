"""What of a request reaches the upstream, and what of its answer reaches the client."""

from __future__ import annotations

from typing import Any

import msgspec

from loadtests.fake.answers import EXTRA_MEMBERS
from loadtests.faults.judge_streams import is_whole
from loadtests.faults.judging import Verdict
from loadtests.faults.stage import FIRST_WORD, Stage
from loadtests.faults.transcript import answer_of, describe, read_stream, text_of

ODD_MEMBERS = (
    rb'"x_cost" : 2.50 ,"x_exp":1E+2,"x_big":12345678901234567890,"x_esc":"\u00e9\/\ud83d\ude00","x_null":null,'
    rb'"x_deep":{"b":[ ],"a":{"c":-0.0}}'
)
"""Members that no gateway knows, spelled as some client may spell them."""
PARAMETERS: dict[str, Any] = {
    "top_p": 0.25,
    "seed": 17,
    "stop": ["###"],
    "presence_penalty": 0.5,
    "frequency_penalty": -0.5,
    "response_format": {"type": "json_object"},
    "logit_bias": {"50256": -100},
    "user": "user-5",
}
"""Members that are OpenAI's own."""
TOOLS: dict[str, Any] = {
    "tools": [{"type": "function", "function": {"name": "look_up", "parameters": {"type": "object"}}}],
    "tool_choice": "auto",
    "parallel_tool_calls": False,
}
_decode = msgspec.json.Decoder().decode


def _parsed(data: bytes) -> dict[str, Any]:
    try:
        value = _decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return {}
    return value if isinstance(value, dict) else {}


def _list(names: list[str]) -> str:
    return ", ".join(names) if len(names) <= 5 else f"{', '.join(names[:5])} and {len(names) - 5} more"


async def keeps_parameters(stage: Stage, directive: str) -> Verdict:
    """Every parameter of the API reaches the upstream with its value."""
    return await _kept(stage, directive, PARAMETERS)


async def keeps_tools(stage: Stage, directive: str) -> Verdict:
    return await _kept(stage, directive, TOOLS)


async def _kept(stage: Stage, directive: str, members: dict[str, Any]) -> Verdict:
    seen = await stage.ask(directive, **members)
    if not stage.asked():
        return Verdict(False, f"the upstream was never called: {describe(seen)}")
    arrived = _parsed(stage.asked()[-1].body)
    lost = [name for name, value in members.items() if not _holds(arrived.get(name), value)]
    return Verdict(not lost, f"lost or changed: {_list(lost)}" if lost else "all of them arrived")


def _holds(arrived: Any, sent: Any) -> bool:
    """Whether a value arrived; members that a gateway adds to an object do not matter."""
    if isinstance(sent, dict) and isinstance(arrived, dict):
        return all(name in arrived and _holds(arrived[name], value) for name, value in sent.items())
    if isinstance(sent, list) and isinstance(arrived, list):
        return len(sent) == len(arrived) and all(map(_holds, arrived, sent))
    return bool(arrived == sent)


async def keeps_request_members(stage: Stage, directive: str) -> Verdict:
    arrived, saw = await _odd_request(stage, directive)
    if arrived is None:
        return Verdict(False, saw)
    sent = _parsed(b"{" + ODD_MEMBERS + b"}")
    found = _parsed(arrived)
    lost = [name for name, value in sent.items() if name not in found or found[name] != value]
    return Verdict(not lost, f"lost or changed: {_list(lost)}" if lost else "all of them arrived")


async def keeps_request_bytes(stage: Stage, directive: str) -> Verdict:
    arrived, saw = await _odd_request(stage, directive)
    if arrived is None:
        return Verdict(False, saw)
    if ODD_MEMBERS in arrived:
        return Verdict(True, "byte for byte")
    spellings = (b"2.50", b"1E+2", rb"\u00e9\/\ud83d\ude00", b"12345678901234567890", b"-0.0")
    changed = [spelling.decode() for spelling in spellings if spelling not in arrived]
    return Verdict(False, f"re-encoded: no more {_list(changed)}" if changed else "re-encoded: other order or spacing")


async def _odd_request(stage: Stage, directive: str) -> tuple[bytes | None, str]:
    """The body that reached the upstream, or what the client saw instead."""
    seen = await stage.post(stage.request(stage.body(directive)[:-1] + b"," + ODD_MEMBERS + b"}"))
    asked = stage.asked()
    return (asked[-1].body, "") if asked else (None, f"the upstream was never called: {describe(seen)}")


def _extra_names() -> list[str]:
    return list(_parsed(b"{" + EXTRA_MEMBERS.rstrip(b",") + b"}"))


async def keeps_answer_members(stage: Stage, directive: str) -> Verdict:
    """Members of an answer that nobody knows, in a plain answer and in every chunk with text."""
    plain = answer_of(await stage.ask(directive))
    chunks = read_stream((await stage.ask(directive, stream=True)).body).chunks
    sent = _parsed(b"{" + EXTRA_MEMBERS.rstrip(b",") + b"}")
    lost = [name for name in sent if plain.get(name) != sent[name]]
    texts = [chunk for chunk in chunks if chunk.get("choices")]
    lost_in_chunks = [name for name in sent if any(chunk.get(name) != sent[name] for chunk in texts)]
    saw = f"plain {_lost(lost)}; stream {_lost(lost_in_chunks) if texts else 'without a chunk'}"
    return Verdict(not lost and not lost_in_chunks and bool(texts), saw)


def _lost(names: list[str]) -> str:
    return f"lost {_list(names)}" if names else "kept all"


async def keeps_answer_bytes(stage: Stage, directive: str) -> Verdict:
    plain = await stage.ask(directive)
    stream = await stage.ask(directive, stream=True)
    sent = [b"".join(entry.response) for entry in stage.asked()]
    in_plain = bool(sent) and plain.body == sent[0]
    chunks = stream.body.count(EXTRA_MEMBERS)
    in_stream = chunks > 0 and chunks == len([c for c in read_stream(stream.body).chunks if c.get("choices")])
    saw = f"plain {'equal' if in_plain else 're-encoded'}; stream {'equal' if in_stream else 're-encoded'}"
    return Verdict(in_plain and in_stream, saw)


async def keeps_answer_id(stage: Stage, directive: str) -> Verdict:
    """The id by which the backend's own log can be searched."""
    plain = answer_of(await stage.ask(directive))
    chunks = read_stream((await stage.ask(directive, stream=True)).body).chunks
    ids = {str(plain.get("id")), *(str(chunk.get("id")) for chunk in chunks)}
    sent = {_id_of(b"".join(entry.response)) for entry in stage.asked()}
    return Verdict(ids == sent, "the upstream's id" if ids == sent else f"id {min(ids)}, the upstream sent {min(sent)}")


def _id_of(answer: bytes) -> str:
    return answer.partition(b'"id":"')[2].partition(b'"')[0].decode("latin-1")


async def hides_usage(stage: Stage, directive: str) -> Verdict:
    """Whether or not the gateway asks for usage itself, a client that did not ask sees the stream that it expects."""
    seen = await stage.ask(directive, stream=True)
    found = read_stream(seen.body)
    empty = sum(not chunk.get("choices") for chunk in found.chunks)
    passed = is_whole(seen, FIRST_WORD) and not found.usages and not empty
    return Verdict(passed, f"{len(found.usages)} chunks with usage, {empty} without choices; {describe(seen)}")


async def reports_usage(stage: Stage, directive: str) -> Verdict:
    """Asked for, the upstream's own counts arrive once."""
    seen = await stage.ask(directive, stream=True, stream_options={"include_usage": True})
    found = read_stream(seen.body)
    asked = stage.asked()
    if not asked:
        return Verdict(False, f"the upstream was never called: {describe(seen)}")
    sent = read_stream(b"".join(asked[-1].response)).usages
    counts = ("prompt_tokens", "completion_tokens")
    right = [[usage.get(name) for name in counts] for usage in sent]
    shown = [[usage.get(name) for name in counts] for usage in found.usages]
    passed = bool(right) and shown == right and found.complete
    return Verdict(passed, f"usage {shown or 'never'} (prompt, completion), the upstream said {right or 'nothing'}")


async def echoes_text(stage: Stage, directive: str) -> Verdict:
    """A text of many scripts, however its bytes are cut or its lines end, arrives as it is, plain and as a stream."""
    text = f"[[{directive}]] Stra\u00dfe \u4f60\u597d \U0001f600 caf\u00e9 \u0645\u0631\u062d\u0628\u0627 \u2028 end"
    plain = await stage.ask("", text=text)
    stream = await stage.ask("", text=text, stream=True)
    found = read_stream(stream.body)
    in_plain, in_stream = text in text_of(plain), text in found.text and found.complete
    if in_plain and in_stream:
        return Verdict(True, "the text, unchanged")
    saw = f"plain {_difference(text_of(plain), text)}; stream {_difference(found.text, text)}"
    return Verdict(False, f"{saw}{'' if found.complete else f', {describe(stream)}'}")


def _difference(arrived: str, sent: str) -> str:
    if sent in arrived:
        return "unchanged"
    missing = sorted(set(sent) - set(arrived))
    if missing and arrived:
        return "without " + ", ".join(f"U+{ord(character):04X}" for character in missing)
    return "with a changed text" if arrived else "without any text"


async def gives_nothing_unasked(stage: Stage, directive: str) -> Verdict:
    """An upstream sends a second answer that nobody asked for: it must not become the answer to the next client."""
    first = await stage.ask(directive)
    later = [await stage.ask("") for _ in range(4)]
    leaked = sum("SURPLUS" in text_of(seen) for seen in later)
    wrong = sum(not is_whole(seen, FIRST_WORD) for seen in later)
    saw = f"first {describe(first)}; of 4 later clients {leaked} got the other answer, {wrong - leaked} an error"
    return Verdict(is_whole(first, FIRST_WORD) and not wrong, saw)


async def survives_closed_keep_alive(stage: Stage, directive: str) -> Verdict:
    """The upstream closes a kept-alive connection in the moment in which a request is sent on it."""
    before = await stage.ask("")
    seen = await stage.ask(directive)
    passed = is_whole(before, FIRST_WORD) and is_whole(seen, FIRST_WORD)
    return Verdict(passed, f"{describe(seen)}; the upstream was asked {len(stage.asked()) - 1} times")
