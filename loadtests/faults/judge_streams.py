"""Streams that break, and answers that fail before they begin."""

from __future__ import annotations

from loadtests.faults.judging import MEBIBYTE, Untouched, Verdict
from loadtests.faults.stage import FIRST_WORD, SECOND_WORD, Stage
from loadtests.faults.system import NotApplicable
from loadtests.faults.transcript import (
    Transcript,
    answer_of,
    describe,
    has_message,
    is_event_stream,
    names_members,
    read_stream,
    text_of,
)
from loadtests.faults.wire import Seen

NOTICED_S = 2.0
"""What counts as at once, on a busy machine; the upstream would have gone on for much longer."""
ENDLESS_PATIENCE_S = 20.0
MAX_GROWTH_BYTES = 64 * MEBIBYTE
MAX_RETRY_AFTER_S = 7
UNSURE = "I don't know. I am not sure. Maybe I cannot answer."
"""A draft that is not good enough, whatever judges it: unsure in its words, its logprobs and its end."""


def is_broken_off(found: Transcript) -> bool:
    """Text, then one whole error event, and no sign that could pass for a good end."""
    one_error = len(found.errors) == 1 and names_members(found.errors[0])
    return one_error and found.content_events > 0 and not found.done and not found.malformed


async def breaks_off(stage: Stage, directive: str) -> Verdict:
    seen = await stage.ask(directive, stream=True)
    found = read_stream(seen.body)
    return Verdict(is_broken_off(found) and not found.finished, describe(seen))


async def breaks_off_before_all_choices_finished(stage: Stage, directive: str) -> Verdict:
    seen = await stage.ask(directive, stream=True, n=2)
    if seen.status == 400 and not stage.asked():
        raise NotApplicable(f"refuses two choices ({describe(seen)})")
    found = read_stream(seen.body)
    return Verdict(is_broken_off(found) and len(found.finished) < 2, f"{describe(seen)}; 2 choices were asked for")


async def breaks_off_in_silence(stage: Stage, directive: str) -> Verdict:
    seen = await stage.ask(directive, stream=True)
    found = read_stream(seen.body)
    freed_s = await stage.happens(lambda: not stage.first.state.in_flight, NOTICED_S)
    upstream = "upstream call ended" if freed_s is not None else "upstream call left open"
    return Verdict(
        is_broken_off(found) and freed_s is not None, f"{describe(seen)} ({seen.elapsed_s:.1f} s); {upstream}"
    )


async def breaks_off_without_buffering(stage: Stage, directive: str) -> Verdict:
    before_bytes = stage.rss_bytes()
    seen = await stage.ask(directive, stream=True, patience_s=ENDLESS_PATIENCE_S)
    growth_bytes = max(0, stage.rss_bytes() - before_bytes)
    found = read_stream(seen.body)
    passed = is_broken_off(found) and growth_bytes < MAX_GROWTH_BYTES
    return Verdict(passed, f"{describe(seen)}; memory grew by {growth_bytes // MEBIBYTE} MiB")


async def completes(stage: Stage, directive: str) -> Verdict:
    """A whole answer of the first upstream, plain and as a stream."""
    plain = await stage.ask(directive)
    stream = await stage.ask(directive, stream=True)
    passed = is_whole(plain, FIRST_WORD) and is_whole(stream, FIRST_WORD)
    return Verdict(passed, f"plain {describe(plain)}; stream {describe(stream)}")


async def completes_stream(stage: Stage, directive: str) -> Verdict:
    seen = await stage.ask(directive, stream=True)
    return Verdict(is_whole(seen, FIRST_WORD), describe(seen))


def is_whole(seen: Seen, first_word: str) -> bool:
    """A whole answer that begins with this word, and holds the other upstream's nowhere."""
    other = SECOND_WORD if first_word == FIRST_WORD else FIRST_WORD
    text = read_stream(seen.body).text if is_event_stream(seen) else text_of(seen)
    ended_well = read_stream(seen.body).complete if is_event_stream(seen) else bool(text)
    return (
        seen.status == 200
        and seen.end == "complete"
        and ended_well
        and text.startswith(first_word)
        and other not in text
    )


async def falls_back(stage: Stage, directive: str) -> Verdict:
    """The second upstream's whole answer, plain."""
    return await _fall_back(stage, directive, stream=False)


async def falls_back_in_stream(stage: Stage, directive: str) -> Verdict:
    return await _fall_back(stage, directive, stream=True)


async def _fall_back(stage: Stage, directive: str, *, stream: bool) -> Verdict:
    seen = await stage.ask(directive, stream=stream)
    if not stage.asked():
        raise Untouched
    by_second = "the second upstream was asked" if stage.asked_second() else "the second upstream was not asked"
    return Verdict(is_whole(seen, SECOND_WORD), f"{describe(seen)} after {seen.elapsed_s:.1f} s; {by_second}")


async def shows_second_answer(stage: Stage, directive: str) -> Verdict:
    """A plain answer after a rejected draft."""
    seen = await stage.ask(directive, text=UNSURE)
    if not stage.asked():
        raise Untouched
    return Verdict(is_whole(seen, SECOND_WORD), describe(seen))


async def shows_one_answer(stage: Stage, directive: str) -> Verdict:
    """Of a stream whose draft is rejected, nothing of one answer stands beside the other's."""
    seen = await stage.ask(directive, stream=True, text=UNSURE)
    if not stage.asked():
        raise Untouched
    text = read_stream(seen.body).text
    both = FIRST_WORD in text and SECOND_WORD in text
    mixed = "; text of both upstreams" if both else ""
    return Verdict(is_whole(seen, SECOND_WORD), f"{describe(seen)}{mixed}")


async def never_mixes(stage: Stage, directive: str) -> Verdict:
    """The first upstream breaks after its text has begun: an error, or nothing but the second's answer."""
    seen = await stage.ask(directive, stream=True)
    if not stage.asked():
        raise Untouched
    found = read_stream(seen.body)
    both = FIRST_WORD in found.text and SECOND_WORD in found.text
    passed = not both and (is_broken_off(found) or is_whole(seen, SECOND_WORD))
    return Verdict(passed, f"{describe(seen)}{'; text of both upstreams' if both else ''}")


async def tells_when_to_retry(stage: Stage, directive: str) -> Verdict:
    """The upstream's 429 with its Retry-After (or a 503 with one): the client backs off for as long as it must."""
    seen = await stage.ask(directive)
    wait = seen.header("retry-after")
    passed = seen.status in (429, 503) and wait is not None and wait.isdigit() and 0 < int(wait) <= MAX_RETRY_AFTER_S
    passed = passed and has_message(answer_of(seen).get("error"))
    return Verdict(passed, f"{describe(seen)}; Retry-After {'absent' if wait is None else wait}")


async def fails_as_json(stage: Stage, directive: str) -> Verdict:
    """An upstream's HTML is an error in JSON, plain and for a stream."""
    answers = [await stage.ask(directive), await stage.ask(directive, stream=True)]
    passed = all(seen.status >= 500 and has_message(answer_of(seen).get("error")) for seen in answers)
    return Verdict(passed, f"plain {describe(answers[0])}; stream {describe(answers[1])}")


async def passes_refusal_on(stage: Stage, directive: str) -> Verdict:
    """What is wrong with the request itself is said with the upstream's status and words."""
    seen = await stage.ask(directive)
    error = answer_of(seen).get("error")
    passed = seen.status == 400 and has_message(error) and b"maximum context length" in seen.body
    return Verdict(passed, describe(seen))
