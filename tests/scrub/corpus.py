"""Texts in which it is known what is personal, made from a seed: values of each kind in the forms that people and
programs write them in, set into mails, chats, code, JSON and log lines; and texts that hold none, but look like it."""

from __future__ import annotations

import base64
import random
import string
from collections.abc import Callable, Iterator
from typing import NamedTuple

from router.scrub.checks import _IBAN_CHARS, luhn


class Sample(NamedTuple):
    """A text with one value of a kind; of none where the value is empty."""

    kind: str
    value: str
    text: str


FRAMES = (
    "Hello, could you update my details? {} is the right one now, thanks.",
    "Please use {}.",
    "{}",
    'The customer wrote: "{}" and left.',
    "name;contact;amount\nMiller;{};12.50\n",
    "2026-11-22T10:15:30Z INFO request by {} took 35 ms",
    '{{"to": "x", "value": "{}", "n": 3}}',
    'send(to="{}", retries=3)  # see issue 4711',
    "| Miller | {} | 2026-11-22 |",
    "(ref. {}) v2.1.0",
)
"""`{}` is where the value stands."""
DIGITS, ALNUM = string.digits, string.ascii_letters + string.digits


def _some(chance: random.Random, alphabet: str, size: int) -> str:
    return "".join(chance.choice(alphabet) for _ in range(size))


def _email(chance: random.Random) -> str:
    first, last = chance.choice(["anna", "j.r", "Mary-Ann", "o'neil", "jürgen", "li"]), chance.choice(["smith", "weber+shop", "x_1"])  # fmt: skip
    domain = chance.choice(["example.org", "mail.example.co.uk", "bücher.example", "uni-bonn.example", "a.example.io"])
    return f"{first}.{last}@{domain}"


def _phone(chance: random.Random) -> str:
    area, exchange, line = chance.randrange(201, 990), chance.randrange(200, 990), f"{chance.randrange(10_000):04d}"
    seven = _some(chance, DIGITS, 7)
    return chance.choice(
        [
            f"+1 ({area}) {exchange}-{line}", f"({area}) {exchange}-{line}", f"{area}-{exchange}-{line}",
            f"{area}.{exchange}.{line}", f"1-{area}-{exchange}-{line}", f"+49 30 {seven}", f"+49 (0)89 {seven}", f"0171 {seven}",
            f"030/{seven}", f"+44 20 7{seven[:3]} {line}", f"07{seven[:3]} {seven[1:4]}{seven[4:]}", f"+33 1 23 45 67 {seven[:2]}",
            f"01 23 45 67 {seven[:2]}", f"0044 20 7946 {line}", f"+91 98765 4{line}", f"+86 138 0013 {line}", f"tel. {area}{exchange}{line}",
            f"my number is {area} {exchange} {line}", f"phone: {seven}",
        ]
    )  # fmt: skip


def _card(chance: random.Random) -> str:
    prefix, size = chance.choice(
        [("4", 16), ("51", 16), ("2345", 16), ("37", 15), ("6011", 16), ("3528", 16), ("62", 16)]
    )
    body = prefix + _some(chance, DIGITS, size - len(prefix) - 1)
    number = next(body + last for last in DIGITS if luhn((body + last).encode()))
    groups = (4, 6, 5) if size == 15 else (4, 4, 4, 4)
    separator = chance.choice(["", " ", "-"])
    at, parts = 0, []
    for length in groups:
        parts.append(number[at : at + length])
        at += length
    return separator.join(parts)


def _iban(chance: random.Random) -> str:
    country = chance.choice(sorted(_IBAN_CHARS))
    body = _some(chance, DIGITS, _IBAN_CHARS[country] - 4)
    number = int("".join(str(int(char, 36)) for char in f"{body}{country}00"))
    text = f"{country}{98 - number % 97:02d}{body}"
    return text if chance.random() < 0.5 else " ".join(text[at : at + 4] for at in range(0, len(text), 4))


def _ssn(chance: random.Random) -> str:
    area = chance.choice([number for number in range(1, 900) if number != 666])
    return f"{area:03d}-{chance.randrange(1, 100):02d}-{chance.randrange(1, 10_000):04d}"


def _ipv4(chance: random.Random) -> str:
    return ".".join(str(chance.randrange(11, 255)) for _ in range(4)).replace("127.", "128.", 1)


def _ipv6(chance: random.Random) -> str:
    groups = [_some(chance, "123456789abcdef", 4) for _ in range(6)]
    return "2001:db8:" + chance.choice([":".join(groups), f":{groups[0]}:{groups[1]}", f"{groups[0]}::{groups[1]}"])


def _api_key(chance: random.Random) -> str:
    return chance.choice(
        [
            "sk-" + _some(chance, ALNUM, 48), "sk-proj-" + _some(chance, ALNUM + "_-", 60), "sk-ant-api03-" + _some(chance, ALNUM, 80),
            "AKIA" + _some(chance, "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567", 16), "ghp_" + _some(chance, ALNUM, 36),
            "github_pat_" + _some(chance, ALNUM, 60), "glpat-" + _some(chance, ALNUM, 20), "xoxb-" + _some(chance, DIGITS, 12) + "-" + _some(chance, ALNUM, 24),
            "AIza" + _some(chance, ALNUM, 35), "sk_live_" + _some(chance, ALNUM, 24), "hf_" + _some(chance, ALNUM, 34),
            "npm_" + _some(chance, ALNUM, 36), "locum_" + _some(chance, ALNUM, 43),
        ]
    )  # fmt: skip


def _secret(chance: random.Random) -> str:
    part = [base64.urlsafe_b64encode(b'{"' + _some(chance, ALNUM, 24).encode()).decode().rstrip("=") for _ in range(2)]
    block = "\n".join(_some(chance, ALNUM + "+/", 64) for _ in range(4))
    word = _some(chance, string.ascii_letters, 6) + _some(chance, DIGITS, 4)
    return chance.choice(
        [
            f"{part[0]}.{part[1]}.{_some(chance, ALNUM, 43)}",
            f"Bearer {_some(chance, ALNUM, 40)}",
            f"-----BEGIN RSA PRIVATE KEY-----\n{block}\n-----END RSA PRIVATE KEY-----",
            f"postgres://app:{word}@db.internal/x",
            f"password={word}",
            f"my password is {word}",
        ]
    )


MAKERS: dict[str, Callable[[random.Random], str]] = {
    "email": _email, "phone": _phone, "card": _card, "iban": _iban, "ssn": _ssn, "ipv4": _ipv4, "ipv6": _ipv6,
    "api_key": _api_key, "secret": _secret,
}  # fmt: skip


def _hard_email(chance: random.Random) -> str:
    return chance.choice(["anna at example dot org", "anna(at)example.org", "anna@intranet", "anna @ example.org"])


def _hard_phone(chance: random.Random) -> str:
    ten = f"{chance.randrange(201, 990)} {chance.randrange(200, 990)} {chance.randrange(10_000):04d}"
    seven = _some(chance, DIGITS, 7)
    return chance.choice(
        [ten, ten.replace(" ", ""), seven[:3] + "-" + seven[3:], f"+49{seven}1", f"89 {seven}", f"ring {seven}"]
    )


def _hard_card(chance: random.Random) -> str:
    digits = "".join(char for char in _card(chance) if char.isdigit())
    return chance.choice(
        [
            ".".join((digits[:4], digits[4:8], digits[8:12], digits[12:])),
            f"ends in {digits[-4:]}",
            digits[:8] + " " + digits[8:],
        ]
    )


def _hard_ssn(chance: random.Random) -> str:
    return _ssn(chance).replace("-", chance.choice([" ", "", "."]))


def _hard_secret(chance: random.Random) -> str:
    return chance.choice(
        [
            _some(chance, ALNUM, 32),
            _some(chance, "0123456789abcdef", 40),
            "correct horse battery staple",
            "pw: " + _some(chance, ALNUM, 10),
        ]
    )


HARD_MAKERS: dict[str, Callable[[random.Random], str]] = {
    "email": _hard_email, "phone": _hard_phone, "card": _hard_card, "ssn": _hard_ssn, "secret": _hard_secret,
}  # fmt: skip
"""Forms that no pattern was written for: what a pattern cannot tell from a number or a word, mostly."""


def hard(count: int, seed: int = 0) -> Iterator[Sample]:
    """So many samples of each kind in those forms."""
    chance = random.Random(seed)
    for kind, make in HARD_MAKERS.items():
        for _ in range(count):
            value = make(chance)
            yield Sample(kind, value, chance.choice(FRAMES).format(value))


def positives(count: int, seed: int = 0) -> Iterator[Sample]:
    """So many samples of each kind."""
    chance = random.Random(seed)
    for kind, make in MAKERS.items():
        for _ in range(count):
            value = make(chance)
            yield Sample(kind, value, chance.choice(FRAMES).format(value))


def _looks(chance: random.Random) -> str:
    number = _some(chance, DIGITS, 30)
    return chance.choice(
        [
            f"{chance.randrange(1, 30)}.{chance.randrange(100)}.{chance.randrange(100)}",
            f"version 10.{number[:2]}.{number[2:5]}.{chance.randrange(10, 99)}",
            f"{chance.randrange(1950, 2030)}-{chance.randrange(1, 13):02d}-{chance.randrange(1, 29):02d}",
            f"{chance.randrange(1, 29):02d}.{chance.randrange(1, 13):02d}.{chance.randrange(1950, 2030)}",
            f"{chance.randrange(1, 13)}/{chance.randrange(1, 29)}/{chance.randrange(1950, 2030)}",
            f"{number[:2]}:{number[2:4]}:{number[4:6]}.{number[6:9]}",
            f"0.{number[:16]}",
            f"{chance.randrange(1, 999)},{number[:3]},{number[3:6]}.{number[6:8]}",
            f"17{number[:8]}",
            f"17{number[:11]}",
            f"order {number[:9]}",
            f"ticket #{number[:10]}",
            f"{number[:8]}-{number[8:12]}-4{number[12:15]}-a{number[15:18]}-{number[18:30]}",
            _some(chance, "0123456789abcdef", 40),
            f"lodash@4.{number[:2]}.{number[2:4]}",
            f"x[{number[:3]}:{number[3:6]}] = {number[:4]} + {number[4:8]}",
            f"0x{number[:10]}",
            f"{number[:3]} {number[3:6]} {number[6:10]}",
            f"ISBN 978-3-16-{number[:6]}-0",
            f"std::map<int, a::b{number[:2]}>",
            f"icon@{number[:1]}x.png",
            f"pages {number[:3]}-{number[3:6]}",
            f"{chance.randrange(10, 999)} 000 000",
            f"12.{number[:6]}e-{number[:2]}",
            f"WHERE t{number[:4]}.id = {number[:12]} LIMIT 10",
            f"token = tokens[{number[:3]}]; password = input('{number[:1]}? ')",
            f"+{number[:1]}.{number[1:3]} %",
            f"@@ -{number[:3]},{number[3:4]} +{number[4:7]},{number[7:8]} @@",
        ]
    )


def negatives(count: int, seed: int = 0) -> Iterator[Sample]:
    """Versions, dates, numbers, hashes, code: nothing of anybody."""
    chance = random.Random(seed)
    for _ in range(count):
        value = _looks(chance)
        yield Sample("", value, chance.choice(FRAMES).format(value))
