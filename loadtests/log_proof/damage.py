"""Segments that gateways wrote are damaged on purpose: all of it must be found, and spared records must be read."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import msgspec

from loadtests.log_proof.ledger import locum_log, locum_log_text

PAGE_BYTES = 4_096
BLOCK_BYTES = 512


class DamageResult(msgspec.Struct):
    """One way to damage segments."""

    kind: str
    segments: int
    """So many were damaged, each once."""
    records: int
    lost: int
    """Records that are not read any more."""
    hit: int
    """Records of which the damage has changed or torn off something; `lost` is at most this."""
    reported: int
    """Places that `locum log verify` names."""
    failures: list[str]


Harm = Callable[[bytes, random.Random], bytes]


def _line(data: bytes, chance: random.Random) -> tuple[int, int]:
    """Start and end (of its line feed) of a line, not the last one."""
    ends = [at for at, byte in enumerate(data) if byte == 10]
    number = chance.randrange(len(ends) - 1)
    return (ends[number - 1] + 1 if number else 0), ends[number]


def _flip(data: bytes, at: int, chance: random.Random) -> bytes:
    return data[:at] + bytes([data[at] ^ 1 << chance.randrange(8)]) + data[at + 1 :]


def _in_checksum(data: bytes, chance: random.Random) -> bytes:
    return _flip(data, _line(data, chance)[0] + chance.randrange(8), chance)


def _in_separator(data: bytes, chance: random.Random) -> bytes:
    return _flip(data, _line(data, chance)[0] + 8, chance)


def _in_payload(data: bytes, chance: random.Random) -> bytes:
    start, end = _line(data, chance)
    return _flip(data, chance.randrange(start + 9, end), chance)


def _in_line_end(data: bytes, chance: random.Random) -> bytes:
    return _flip(data, _line(data, chance)[1], chance)


def _cut(data: bytes, chance: random.Random) -> bytes:
    start, end = _line(data, chance)
    return data[: chance.randrange(start + 1, end)]


def _zeroed_page(data: bytes, chance: random.Random) -> bytes:
    start = chance.randrange(max(1, len(data) // PAGE_BYTES)) * PAGE_BYTES
    size = min(PAGE_BYTES, len(data) - start)
    return data[:start] + bytes(size) + data[start + size :]


def _zeroed_tail(data: bytes, chance: random.Random) -> bytes:
    start = max(1, len(data) - PAGE_BYTES)
    return data[:start] + bytes(len(data) - start)


def _swapped_blocks(data: bytes, chance: random.Random) -> bytes:
    first, second = sorted(chance.sample(range(len(data) // BLOCK_BYTES), 2))
    blocks = [data[at : at + BLOCK_BYTES] for at in range(0, len(data), BLOCK_BYTES)]
    blocks[first], blocks[second] = blocks[second], blocks[first]
    return b"".join(blocks)


HARMS: dict[str, Harm] = {
    "a bit of a checksum": _in_checksum,
    "a bit of the separator": _in_separator,
    "a bit of a record": _in_payload,
    "a bit of a line end": _in_line_end,
    "cut inside a record": _cut,
    "a page of zeros": _zeroed_page,
    "zeros to the end": _zeroed_tail,
    "two blocks swapped": _swapped_blocks,
}
SILENT = "cut inside a record"
"""Looks like what a killed process leaves: an unfinished line, no damage."""


async def damage_all(folder: Path, segments: list[Path], *, seed: int) -> list[DamageResult]:
    """Damage copies of the segments in each of the ways, and read what is left of them.

    Args:
        folder: empty; for the copies.
    """
    chance = random.Random(seed)  # noqa: S311 - repeatable, not a secret
    results = []
    for number, (kind, harm) in enumerate(HARMS.items()):
        place = folder / str(number)
        place.mkdir(parents=True)
        results.append(await _damaged(place, kind, harm, segments, chance))
    return results


async def _damaged(place: Path, kind: str, harm: Harm, segments: list[Path], chance: random.Random) -> DamageResult:
    written: Counter[str] = Counter()
    spared: Counter[str] = Counter()
    failures = []
    for path in segments:
        data = path.read_bytes()
        harmed = harm(data, chance)
        (place / path.name).write_bytes(harmed)
        for line in data.splitlines(keepends=True):
            identity = _identity(line)
            written[identity] += 1
            spared[identity] += harmed.count(line)
    code, said, messages = await locum_log("verify", str(place))
    records = await locum_log_text("query", str(place), "SELECT decision_id FROM records", "--json")
    judgements = await locum_log_text("query", str(place), "SELECT decision_id FROM feedback", "--json")
    read = Counter(row["decision_id"] for row in json.loads(records))
    read += Counter(f"feedback {row['decision_id']}" for row in json.loads(judgements))
    reported = len(said.get("damaged", ())) + (said.get("unfinished_lines", 0) if kind == SILENT else 0)
    if missing := spared - read:
        failures.append(f"{kind}: {missing.total()} records that the damage spared are not read")
    if invented := read - written:
        failures.append(f"{kind}: {invented.total()} records were invented or doubled")
    if reported < len(segments):
        failures.append(f"{kind}: {reported} places were found in {len(segments)} segments; {messages[-200:]}")
    if (code == 0) != (kind == SILENT):
        failures.append(f"{kind}: verify ended with {code}")
    lost, hit = (written - read).total(), (written - spared).total()
    return DamageResult(kind, len(segments), written.total(), lost, hit, reported, failures)


def _identity(line: bytes) -> str:
    fields = json.loads(line[9:])
    return f"feedback {fields['decision_id']}" if "kind" in fields else str(fields["decision_id"])
