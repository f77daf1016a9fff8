"""What tells a card number from any other sixteen digits: checksums, lengths, prefixes, and what stands around."""

from __future__ import annotations

import ipaddress
import re

Span = tuple[int, int]

_CARD_LAYOUTS = frozenset({(4, 4, 4, 4), (4, 4, 4, 4, 1), (4, 4, 4, 4, 2), (4, 4, 4, 4, 3), (4, 6, 5), (4, 6, 4)})
"""Lengths of the groups that cards are written in, beside all digits in one."""
_IBAN_CHARS = {
    country: int(length)
    for country, length in re.findall(
        r"([A-Z]{2})(\d{2})",
        "AD24 AE23 AL28 AT20 AZ28 BA20 BE16 BG22 BH22 BR29 BY28 CH21 CR22 CY28 CZ24 DE22 DK18 DO28 EE20 EG29 ES24 FI18 "
        "FO18 FR27 GB22 GE22 GI23 GL18 GR27 GT28 HR21 HU28 IE22 IL23 IQ23 IS26 IT27 JO30 KW30 KZ20 LB28 LC32 LI21 LT20 "
        "LU20 LV21 LY25 MC27 MD24 ME22 MK19 MR27 MT31 MU30 NL18 NO15 PK24 PL28 PS29 PT25 QA29 RO24 RS22 SA24 SC31 SD18 "
        "SE24 SI19 SK24 SM27 ST25 SV28 TL23 TN24 TR26 UA29 VA22 VG24 XK20",
    )
}
"""Characters of an account number by country (the IBAN registry of ISO 13616)."""
_COUNTRY_CODES = frozenset(
    re.findall(
        r"\d+",
        "1 7 20 27 30 31 32 33 34 36 39 40 41 43 44 45 46 47 48 49 51 52 53 54 55 56 57 58 60 61 62 63 64 65 66 81 82 "
        "84 86 90 91 92 93 94 95 98 211 212 213 216 218 220 221 222 223 224 225 226 227 228 229 230 231 232 233 234 "
        "235 236 237 238 239 240 241 242 243 244 245 246 248 249 250 251 252 253 254 255 256 257 258 260 261 262 263 "
        "264 265 266 267 268 269 290 291 297 298 299 350 351 352 353 354 355 356 357 358 359 370 371 372 373 374 375 "
        "376 377 378 380 381 382 383 385 386 387 389 420 421 423 500 501 502 503 504 505 506 507 508 509 590 591 592 "
        "593 594 595 596 597 598 599 670 672 673 674 675 676 677 678 679 680 681 682 683 685 686 687 688 689 690 691 "
        "692 800 850 852 853 855 856 880 886 960 961 962 963 964 965 966 967 968 970 971 972 973 974 975 976 977 992 "
        "993 994 995 996 998 ",
    )
)
"""Calling codes in use (ITU-T E.164)."""
_NO_TLD = frozenset(
    re.findall(
        rb"\w+",
        b"png jpg jpeg gif svg webp avif ico pdf js mjs cjs ts tsx jsx json css scss html htm xml yml yaml toml txt "
        b"csv sql java cpp hpp rb go kt swift exe dll whl tar gz localhost local internal lan",
    )
)
"""Endings of file names and of machines at home: `icon@2x.png` is no address."""
_ADDRESS_SPACE = tuple(map(ipaddress.IPv6Network, ("2000::/3", "fc00::/7", "fe80::/10")))
_IS_VERSION = re.compile(rb"(?:version|release|section|chapter|build|ver\.?|v)[\s:=\"']{0,3}\Z", re.IGNORECASE)
_DATE = re.compile(rb"(?:19|20)\d\d([-./ ]?)(?:0[1-9]|1[0-2])\1(?:0[1-9]|[12]\d|3[01])")


def stands_alone(data: bytes, start: int, end: int) -> bool:
    """Whether no letter or digit touches it, and no decimal point with a digit behind it."""
    return starts_alone(data, start) and not _is_word(data[end : end + 1]) and not _point_digit(data[end : end + 2])


def starts_alone(data: bytes, start: int) -> bool:
    """Whether what stands before is no part of it: a word, a number, but not an escape like `\\n` that code spells."""
    before = data[start - 1 : start] if start else b""
    if _is_word(before):
        return before in (b"n", b"r", b"t") and data[start - 2 : start - 1] == b"\\"
    return not (before in (b".", b",") and data[start - 2 : start - 1].isdigit())


def _is_word(byte: bytes) -> bool:
    return byte.isalnum() or byte == b"_" or byte >= b"\x80"


def _point_digit(two: bytes) -> bool:
    return two[:1] in (b".", b",") and two[1:].isdigit()


def _digits(data: bytes) -> bytes:
    return bytes(byte for byte in data if 48 <= byte <= 57)


def luhn(digits: bytes) -> bool:
    """ISO/IEC 7812-1, annex B."""
    doubled = (0, 2, 4, 6, 8, 1, 3, 5, 7, 9)
    values = [byte - 48 for byte in reversed(digits)]
    return (sum(values[::2]) + sum(doubled[value] for value in values[1::2])) % 10 == 0


def card(data: bytes, start: int, end: int) -> Span | None:
    """The card number that begins at `start`. A date or a code behind it may have been taken for more digits of it."""
    if not starts_alone(data, start) or data[start - 1 : start] == b"-":
        return None
    for stop in _group_ends(data, start, end):
        groups = tuple(len(group) for group in re.split(rb"[ -]", data[start:stop]))
        digits = _digits(data[start:stop])
        in_cards_form = len(groups) == 1 or groups in _CARD_LAYOUTS
        if in_cards_form and _brand_fits(digits) and luhn(digits) and stands_alone(data, start, stop):
            return start, stop
    return None


def _group_ends(data: bytes, start: int, end: int) -> list[int]:
    """Where the groups of digits end, the last one first."""
    ends = [start + match.end() for match in re.finditer(rb"\d+", data[start:end])]
    return ends[::-1]


def _brand_fits(digits: bytes) -> bool:
    """Prefixes and lengths that card schemes issue."""
    length, two, four = len(digits), int(digits[:2]), int(digits[:4])
    if digits[:1] == b"4":
        return length in (13, 16, 19)
    if two in (34, 37):
        return length == 15
    if 51 <= two <= 55 or 2221 <= four <= 2720:
        return length == 16
    if two in (36, 38, 39) or 300 <= int(digits[:3]) <= 305:
        return length == 14
    if two == 35 or two in (60, 64, 65) or two == 62:
        return 16 <= length <= 19
    return two in (50, 56, 57, 58, 63, 67) and 13 <= length <= 19


def iban(data: bytes, start: int, end: int) -> Span | None:
    """The account number that begins at `start`: as many characters as its country has, single spaces between them."""
    wanted = _IBAN_CHARS.get(data[start : start + 2].decode("ascii").upper())
    if wanted is None or not starts_alone(data, start):
        return None
    taken, at = bytearray(), start
    while len(taken) < wanted and at < len(data):
        byte = data[at : at + 1]
        if byte.isalnum():
            taken += byte
        elif byte not in (b" ", b"-") or not data[at - 1 : at].isalnum():
            return None
        at += 1
    text = taken.decode("ascii")
    if len(taken) < wanted or not (text.isupper() or text.islower()) or _is_word(data[at : at + 1]):
        return None
    number = int("".join(str(int(char, 36)) for char in text[4:] + text[:4]))
    return (start, at) if number % 97 == 1 else None


def ssn(data: bytes, start: int, end: int) -> Span | None:
    """Areas, groups and serials that the US has never given out are something else."""
    digits = _digits(data[start:end])
    area, group, serial = digits[:3], digits[3:5], digits[5:]
    if area in (b"000", b"666") or area[:1] == b"9" or group == b"00" or serial == b"0000":
        return None
    touched = data[start - 1 : start] == b"-" or data[end : end + 1] == b"-"
    return (start, end) if stands_alone(data, start, end) and not touched else None


def ipv4(data: bytes, start: int, end: int) -> Span | None:
    """An address of a machine. What looks like one may be a version, and some addresses are everybody's."""
    parts = data[start:end].split(b".")
    if any(int(part) > 255 or (len(part) > 1 and part[:1] == b"0") for part in parts):
        return None
    octets = [int(part) for part in parts]
    if octets[0] in (0, 127, 255) or octets[1:] == [0, 0, 0] or all(octet < 10 for octet in octets):
        return None
    if not stands_alone(data, start, end) or data[start - 1 : start] == b".":
        return None
    if data[start - 2 : start] in (b"==", b">=", b"<=", b"~=", b"!="):
        return None  # a package's version
    product = data[start - 1 : start] == b"/" and data[start - 2 : start - 1].isalnum()  # Chrome/120.1.2.3
    return None if product or _IS_VERSION.search(data[max(0, start - 16) : start]) else (start, end)


def ipv6(data: bytes, start: int, end: int) -> Span | None:
    """An address that a machine can have. Times, MAC addresses and names like `a::b` in code are none."""
    if _is_word(data[start - 1 : start]) or data[start - 1 : start] in (b":", b"."):
        return None
    text = data[start:end].rstrip(b".:")
    stop = start + len(text)
    if _is_word(data[stop : stop + 1]):
        return None
    try:
        address = ipaddress.IPv6Address(text.decode("ascii"))
    except ValueError:
        return None
    return (start, stop) if any(address in network for network in _ADDRESS_SPACE) else None


def email(data: bytes, start: int, end: int) -> Span | None:
    """An address of a person or a mailbox; not a picture for two pixel densities, and not the user of a git server."""
    if data[start - 1 : start] == b"\\" and data[start : start + 1] in b"nrt":
        start += 1
    while data[start : start + 1] in (b"'", b".", b"-", b"%", b"+") and start < end:
        start += 1
    local, _, domain = data[start:end].replace(b"%40", b"@").replace(b"\\u0040", b"@").partition(b"@")
    if not local or local == b"git" or domain.rpartition(b".")[2].lower() in _NO_TLD:
        return None
    return start, end


def phone_international(data: bytes, start: int, end: int) -> Span | None:
    """`+` or `00`, a calling code that exists, and as many digits as a number may have."""
    before = data[start - 1 : start]
    if not starts_alone(data, start) or before in (b"+", b")", b"]", b"-", b"."):
        return None
    if before == b" " and data[start - 2 : start - 1].isdigit() and data[start : start + 1] == b"0":
        return None  # a group of a longer number
    digits = _digits(data[start:end])
    national = digits[2:] if data[start : start + 2] == b"00" else digits
    if national[:1] == b"1":
        fits = len(national) == 11 and national[1:2] not in b"01" and national[4:5] not in b"01"
    else:
        fits = 8 <= len(national) <= 15 and _has_country_code(data[start:end].lstrip(b"+").removeprefix(b"00"))
        if data[start : start + 1] == b"0" and re.match(rb"\d{6}", data[start:end]):
            return None  # a number that is filled up with zeros
    return (start, end) if fits and stands_alone(data, start, end) else None


def _has_country_code(number: bytes) -> bool:
    """Whether the first group is a calling code, or begins with one where it is longer than those are."""
    first = re.split(rb"\D", number, maxsplit=1)[0].decode("ascii")
    return first in _COUNTRY_CODES if len(first) <= 3 else any(first[:size] in _COUNTRY_CODES for size in (1, 2, 3))


def phone_american(data: bytes, start: int, end: int) -> Span | None:
    """Three, three and four digits; the same separator between them, unless the first group is in parentheses."""
    text = data[start:end]
    first = text.removeprefix(b"1")[1:] if text[:1] == b"1" else text
    same = first[:1] == b"(" or first[3:4] == first[7:8]
    around = data[start - 1 : start], data[end : end + 1]
    return (start, end) if same and b"-" not in around and stands_alone(data, start, end) else None


def phone_national(data: bytes, start: int, end: int) -> Span | None:
    """A form that numbers are written in within a country."""
    around = data[start - 1 : start], data[end : end + 1]
    touched = any(byte in (b"-", b"/", b":") for byte in around)
    return (start, end) if not touched and stands_alone(data, start, end) else None


def phone_announced(data: bytes, start: int, end: int) -> Span | None:
    """Digits behind a word like `phone`; not a date, not a price."""
    digits = _digits(data[start:end])
    if not 7 <= len(digits) <= 15 or _DATE.match(data[start:end]) or _is_word(data[end : end + 1]):
        return None
    return None if _point_digit(data[end : end + 2]) else (start, end)


def alone(data: bytes, start: int, end: int) -> Span | None:
    """A form that nothing else has."""
    return (start, end) if starts_alone(data, start) else None


def mixed_token(data: bytes, start: int, end: int) -> Span | None:
    """Letters and digits: not a word of prose, not a name in code."""
    text = data[start:end]
    has_digit, has_letter = any(48 <= byte <= 57 for byte in text), text.lower() != text.upper()
    return (start, end) if has_digit and has_letter and starts_alone(data, start) else None


def password(data: bytes, start: int, end: int) -> Span | None:
    """A value, not an expression that fetches one."""
    text = data[start:end].rstrip(b".,;")
    code = text[:1] in (b"$", b"%", b"<", b"{", b"/", b".") or b"://" in text or b"environ" in text or b"..." in text
    called = data[start + len(text) : start + len(text) + 1] in (b"(", b"[", b"{")
    if code or called or len(text) < 8:
        return None
    has_digit = any(48 <= byte <= 57 for byte in text)
    return (start, start + len(text)) if has_digit and text.lower() != text.upper() else None
