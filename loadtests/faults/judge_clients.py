"""Clients that leave, stop reading, or speak an unusual HTTP."""

from __future__ import annotations

import asyncio
import contextlib
import random
import re

from loadtests.faults.judge_streams import NOTICED_S, is_whole
from loadtests.faults.judging import MEBIBYTE, Verdict
from loadtests.faults.stage import FIRST_WORD, PATIENCE_S, Stage
from loadtests.faults.transcript import answer_of, describe, has_message, read_stream
from loadtests.faults.wire import Client

LEAVERS = 30
STUCK_CLIENTS = 3
STUCK_FOR_S = 2.0
SMALL_BUFFER_BYTES = 4096
MAX_STUCK_GROWTH_BYTES = 64 * MEBIBYTE
PIPELINED = 3
_position = re.compile(r"(line|column|char|byte|position|offset|index|pos)\D{0,12}\d+", re.IGNORECASE)


async def cancels_in_stream(stage: Stage, directive: str) -> Verdict:
    """The client has read some text and goes."""
    return await _cancel(stage, directive, stream=True, until=FIRST_WORD.encode())


async def cancels_before_first_byte(stage: Stage, directive: str) -> Verdict:
    return await _cancel(stage, directive, stream=True)


async def cancels_plain(stage: Stage, directive: str) -> Verdict:
    return await _cancel(stage, directive, stream=False)


async def _cancel(stage: Stage, directive: str, *, stream: bool, until: bytes | None = None) -> Verdict:
    state = stage.first.state
    async with stage.connect() as client:
        await client.send(stage.request(stage.body(directive, stream=stream)))
        if await stage.happens(lambda: state.in_flight > 0, PATIENCE_S) is None:
            return Verdict(False, "the upstream was never called")
        if until is not None:
            seen = await client.receive(PATIENCE_S, until=until)
            if until not in seen.body:
                return Verdict(False, f"no text before it could leave: {describe(seen)}")
        client.leave()
    return await _freed(stage)


async def _freed(stage: Stage) -> Verdict:
    state = stage.first.state
    waited_s = await stage.happens(lambda: not state.in_flight, NOTICED_S)
    if waited_s is None:
        return Verdict(False, f"{NOTICED_S:g} s later the upstream was still generating for nobody")
    return Verdict(state.aborted > 0, f"the upstream call was cancelled after {waited_s:.1f} s")


async def answers_half_closed(stage: Stage, directive: str) -> Verdict:
    """A client that closes its sending side may still be reading: it gets its answer, or the call is cancelled."""
    async with stage.connect() as client:
        await client.send(stage.request(stage.body(directive)))
        await stage.happens(lambda: stage.first.state.in_flight > 0, PATIENCE_S)
        client.half_close()
        seen = await client.receive(PATIENCE_S)
    if is_whole(seen, FIRST_WORD):
        return Verdict(True, f"the answer all the same: {describe(seen)}")
    freed = await stage.happens(lambda: not stage.first.state.in_flight, 1.0)
    cancelled = freed is not None and stage.first.state.aborted > 0
    left = "the upstream call was cancelled" if cancelled else "the upstream went on for nobody"
    return Verdict(cancelled, f"{describe(seen)}; {left}")


async def leaves_nothing_behind(stage: Stage, directive: str) -> Verdict:
    """Many clients leave at random moments: nothing goes on upstream, and the next client is served."""
    source = random.Random(7)  # noqa: S311 - moments, not secrets

    async def leave() -> None:
        with contextlib.suppress(OSError):
            async with stage.connect() as client:
                await client.send(stage.request(stage.body(directive, stream=source.random() < 0.5)))
                await client.receive(source.uniform(0.0, 0.6))
                client.leave(reset=source.random() < 0.5)

    await asyncio.gather(*(leave() for _ in range(LEAVERS)))
    left_s = await stage.happens(lambda: not stage.first.state.in_flight, NOTICED_S)
    still = stage.first.state.in_flight
    seen = await stage.ask("")
    left = (
        f"{still} of {LEAVERS} upstream calls still ran {NOTICED_S:g} s later" if still else "no upstream call was left"
    )
    return Verdict(left_s is not None and is_whole(seen, FIRST_WORD), f"{left}; the next client saw {describe(seen)}")


async def bounds_stuck_clients(stage: Stage, directive: str) -> Verdict:
    """Clients stop reading: the gateway stops taking from the upstream, and its memory stays where it was."""
    state = stage.first.state
    before_bytes = stage.rss_bytes()
    async with contextlib.AsyncExitStack() as stack:
        for _ in range(STUCK_CLIENTS):
            client = await stack.enter_async_context(stage.connect(receive_buffer_bytes=SMALL_BUFFER_BYTES))
            await client.send(stage.request(stage.body(directive, stream=True)))
        await stage.happens(lambda: state.in_flight == STUCK_CLIENTS, PATIENCE_S)
        taken_bytes, stalled = await _taken_until_it_stalls(stage)
        growth_bytes = max(0, stage.rss_bytes() - before_bytes)
    freed_s = await stage.happens(lambda: not state.in_flight, NOTICED_S)
    bounded = growth_bytes < MAX_STUCK_GROWTH_BYTES
    saw = (
        f"{taken_bytes // MEBIBYTE} MiB taken from the upstream for {STUCK_CLIENTS} clients "
        f"{'until it was held back' if stalled else 'without holding it back'}; memory grew by "
        f"{growth_bytes // MEBIBYTE} MiB; {'freed' if freed_s is not None else 'not freed'} when they left"
    )
    return Verdict(stalled and bounded and freed_s is not None, saw)


async def _taken_until_it_stalls(stage: Stage) -> tuple[int, bool]:
    """Bytes that the upstream could send, and whether it was held back: no more in `STUCK_FOR_S`, all streams open."""
    loop = asyncio.get_running_loop()
    deadline_s = loop.time() + 2 * PATIENCE_S
    taken_bytes, changed_s = -1, loop.time()
    while loop.time() < deadline_s and stage.first.state.in_flight == STUCK_CLIENTS:
        sent_bytes = sum(sum(map(len, entry.response)) for entry in stage.asked())
        if sent_bytes != taken_bytes:
            taken_bytes, changed_s = sent_bytes, loop.time()
        elif loop.time() - changed_s > STUCK_FOR_S:
            return taken_bytes, True
        await asyncio.sleep(0.1)
    return sum(sum(map(len, entry.response)) for entry in stage.asked()), False


async def serves_http_10(stage: Stage, directive: str) -> Verdict:
    """No chunks for a client that does not know them, and the close as the end of a stream."""
    plain = await stage.post(stage.request(stage.body(directive), version="1.0"))
    stream = await stage.post(stage.request(stage.body(directive, stream=True), version="1.0"))
    passed = is_whole(plain, FIRST_WORD) and is_whole(stream, FIRST_WORD) and not (plain.chunked or stream.chunked)
    chunked = "; in chunks, which HTTP/1.0 does not know" if plain.chunked or stream.chunked else ""
    return Verdict(passed, f"plain {describe(plain)}; stream {describe(stream)}{chunked}")


async def reads_trailers(stage: Stage, directive: str) -> Verdict:
    """A body in chunks with a trailer behind it is a body like any other."""
    seen = await stage.post(stage.request(stage.body(directive), framing="chunked"))
    passed = is_whole(seen, FIRST_WORD) and all(entry.header("x-late") is None for entry in stage.asked())
    return Verdict(passed, describe(seen))


async def grants_continue(stage: Stage, directive: str) -> Verdict:
    """A client that asks before it sends its body gets 100 Continue, then its answer."""
    data = stage.request(stage.body(directive), headers={"expect": "100-continue"})
    head, _, body = data.partition(b"\r\n\r\n")
    async with stage.connect() as client:
        await client.send(head + b"\r\n\r\n")
        first = await client.receive(NOTICED_S, interim=True)
        if first.status:
            return Verdict(False, f"instead of 100 Continue: {describe(first)}")
        await client.send(body)
        seen = await client.receive(PATIENCE_S)
    granted = first.interim[:1] == [100]
    saw = "100 Continue" if granted else f"no 100 Continue within {NOTICED_S:g} s"
    return Verdict(granted and is_whole(seen, FIRST_WORD), f"{saw}, then {describe(seen)}")


async def keeps_pipelined_order(stage: Stage, directive: str) -> Verdict:
    """Several requests in one segment are answered in their order."""
    texts = [f"[[{directive}]] pipelined {number}" for number in range(PIPELINED)]
    async with stage.connect() as client:
        await client.send(b"".join(stage.request(stage.body("", text=text)) for text in texts))
        answers = await _answers(client, PIPELINED)
    passed = [text in answer for text, answer in zip(texts, answers, strict=True)] == [True] * PIPELINED
    return Verdict(passed, f"{sum(bool(answer) for answer in answers)} of {PIPELINED} answers")


async def _answers(client: Client, count: int) -> list[str]:
    """Answers that follow one another on a connection; httptools stops at the end of each."""
    collected = b""
    with contextlib.suppress(TimeoutError, OSError):
        async with asyncio.timeout(PATIENCE_S):
            while collected.count(b'"finish_reason"') < count:
                data = await client.receive_some()
                if not data:
                    break
                collected += data
    parts = collected.split(b"HTTP/1.1 ")[1:]
    texts = [part.decode("utf-8", "replace") for part in parts]
    return (texts + [""] * count)[:count]


async def refuses_two_lengths(stage: Stage, directive: str) -> Verdict:
    """Content-Length and Transfer-Encoding together are how a second request is smuggled past a proxy."""
    inner = stage.request(stage.body("", text="smuggled"))
    body = stage.body(directive)
    chunked = b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body) + inner
    head = stage.request(b"", headers={"transfer-encoding": "chunked"}, framing="none").removesuffix(b"\r\n\r\n")
    seen = await stage.post(head + b"\r\ncontent-length: %d\r\n\r\n" % len(chunked) + chunked)
    smuggled = await stage.happens(lambda: any(b"smuggled" in entry.body for entry in stage.asked()), 1.0) is not None
    reached = "reached" if smuggled else "did not reach"
    return Verdict(not smuggled, f"{describe(seen)}; the hidden request {reached} the upstream")


async def points_at_bad_json(stage: Stage, directive: str) -> Verdict:
    body = stage.body(directive)
    broken = body.replace(b'"messages":[', b'"messages":[,', 1)
    seen = await stage.post(stage.request(broken))
    located = bool(_position.search(seen.body.decode("utf-8", "replace")))
    in_form = has_message(answer_of(seen).get("error"))
    saw = f"{describe(seen)}; {'with' if located else 'without'} a position{'' if in_form else ', no JSON error'}"
    return Verdict(seen.status == 400 and in_form and located and not stage.asked(), saw)


async def keeps_streams_apart(stage: Stage, directive: str) -> Verdict:
    """Many streams at once: each client gets its own text, the whole of it and nothing else."""
    texts = [f"[[{directive}]] mine is number {number} \u2014 {'abc' * number} \u2713" for number in range(24)]

    async def own(text: str) -> bool:
        seen = await stage.ask("", text=text, stream=True, patience_s=3 * PATIENCE_S)
        found = read_stream(seen.body)
        return found.complete and text in found.text and found.text.count("mine is number") == 1

    right = sum(await asyncio.gather(*map(own, texts)))
    return Verdict(right == len(texts), f"{right} of {len(texts)} clients got their own text and no other")
