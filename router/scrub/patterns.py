"""The patterns of the built-in kinds, in RE2's syntax.

RE2 reads each byte once for a search, whatever the pattern (no backtracking). What could still make a search over all
matches of a text superlinear is a look far beyond the end of a match, again and again: so what follows a possible end
is bounded, or cannot run over the beginning of the next match. Whole blocks of keys, which would need that look, are
found by their markers (router/scrub/engine.py).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple

from router.scrub import checks
from router.scrub.checks import Span

Kind = Literal["email", "phone", "card", "iban", "ssn", "ipv4", "ipv6", "api_key", "secret"]
Check = Callable[[bytes, int, int], Span | None]


class Pattern(NamedTuple):
    """One form of a kind."""

    regex: str
    """Its first group is what is found, else the whole match."""
    check: Check | None = None
    """(data, start, end) -> the exact span, or None: it only looked like it."""
    retries: bool = False
    """What is refused may hold the beginning of another one: look again behind its first word. Bounded ones only."""


_LETTER = r"A-Za-z\x{C0}-\x{24F}\x{370}-\x{52F}"
"""Latin, Greek and Cyrillic. Scripts without spaces are left out: words before an address would count as part of it."""
_EMAIL = rf"[0-9{_LETTER}._%+'-]+(?:@|%40|\\u0040)(?:[0-9{_LETTER}-]+\.)+[{_LETTER}]{{2,24}}"
_ANNOUNCES = (
    r"phone|telephone|telefon|t[ée]l[ée]phone|tel[ée]fono|telefone|tel|mobile|mobil|handy|cell|cellphone|fax|whatsapp|"
    r"sms|hotline|my number|(?:call|reach|ring|text) (?:me|us|him|her|them)"
)
_SMALL_WORDS = r"number|num|no|nr|nummer|is|at|on|under|home|work|office|me|us|ist|unter|lautet"
_ANNOUNCED = (
    rf"(?i)\b(?:{_ANNOUNCES})(?:[ \t\x00\"':=#.,()-]{{1,4}}(?:{_SMALL_WORDS})\b){{0,3}}"
    r"[ \t\x00\"':=#.(-]{0,5}([+(]?\d[\d ().\-/]{5,18}\d)"
)
_VENDOR_KEYS = (
    r"(?:AKIA|ASIA|ABIA|ACCA)[A-Z2-7]{16}",  # AWS
    r"gh[pousr]_[A-Za-z0-9]{36,}",  # GitHub
    r"github_pat_[A-Za-z0-9_]{22,}",
    r"glpat-[A-Za-z0-9_-]{20,}",  # GitLab
    r"xox[abeoprs]-[A-Za-z0-9-]{10,}",  # Slack
    r"AIza[A-Za-z0-9_-]{35}",  # Google
    r"ya29\.[A-Za-z0-9_-]{20,}",
    r"[rsp]k_(?:live|test)_[A-Za-z0-9]{10,}",  # Stripe
    r"(?:hf|gsk|npm|dop_v1|xai|locum)[_-][A-Za-z0-9]{30,}",  # Hugging Face, Groq, npm, DigitalOcean, xAI, Locum itself
    r"pypi-[A-Za-z0-9_-]{50,}",
    r"SG\.[A-Za-z0-9_-]{16,}\.[A-Za-z0-9_-]{16,}",  # SendGrid
)
_BEFORE_SECRETS = (
    r"password|passwort|passwd|passphrase|pwd|secret|api[_ -]?key|access[_-]?key|(?:auth|access|refresh)[_-]?token|"
    r"client[_-]?secret|private[_-]?key"
)
_ASSIGNED = (
    rf"(?i)(?:{_BEFORE_SECRETS})[\"'\x00]{{0,2}}(?:[ \t]{{0,3}}(?::=|=>|[:=])[ \t]{{0,3}}|[ \t]+is:?[ \t]+|\x00)"
    r"[\"'`\x00]{0,2}([0-9A-Za-z!#$%&*+./=?@^_~<{-]{8,200})"
)

PATTERNS: dict[Kind, tuple[Pattern, ...]] = {
    "secret": (
        Pattern(r"ey[IJ][A-Za-z0-9_-]{10,}\.ey[IJ][A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{10,}", checks.alone),  # JWT
        Pattern(r"(?i)\bbearer[ \t]{1,3}([A-Za-z0-9._~+/=-]{16,})", checks.mixed_token),
        Pattern(r"(?i)authorization[\"'\x00: =]{1,6}basic[ ]([A-Za-z0-9+/]{8,}={0,2})"),
        Pattern(r"[A-Za-z][A-Za-z0-9+.-]*://[^\s/:@\x00\"'<>]+:([^\s/@\x00\"'<>]+)@"),
        Pattern(_ASSIGNED, checks.password),
    ),
    "api_key": (
        Pattern("|".join(_VENDOR_KEYS), checks.alone),
        Pattern(r"sk-[A-Za-z0-9_-]{20,}", checks.mixed_token),  # OpenAI, Anthropic and those who follow them
    ),
    "iban": (Pattern(r"[A-Za-z]{2}\d{2}[ -]?[0-9A-Za-z]{2}", checks.iban, retries=True),),
    "card": (Pattern(r"\d(?:[ -]?\d){12,18}", checks.card, retries=True),),
    "email": (Pattern(_EMAIL, checks.email),),
    "ssn": (
        Pattern(r"\d{3}-\d{2}-\d{4}", checks.ssn, retries=True),
        Pattern(
            r"(?i)\b(?:ssn|social security(?: number)?)[ \t\x00\"':=#.,()-]{0,5}(?:is[ :]{1,2})?"
            r"(\d{3}[- ]?\d{2}[- ]?\d{4})",
            checks.ssn,
        ),
    ),
    "ipv6": (Pattern(r"[0-9A-Fa-f]{1,4}:[0-9A-Fa-f:.]{3,41}", checks.ipv6, retries=True),),
    "ipv4": (Pattern(r"(?:\d{1,3}\.){3}\d{1,3}", checks.ipv4, retries=True),),
    "phone": (
        Pattern(
            r"(?:\+|\b00)[1-9]\d{0,2}[ .\-/]?(?:\(0?\d{1,4}\)[ .\-/]?)?\d{1,4}(?:[ .\-/]?\d{1,5}){1,5}",
            checks.phone_international,
            retries=True,
        ),
        Pattern(
            r"(?:1[ .-])?(?:\([2-9]\d\d\) ?|[2-9]\d\d[.-])[2-9]\d\d[.-]\d{4}",
            checks.phone_american,
            retries=True,
        ),
        Pattern(r"0[1-9](?:(?: \d\d){4}|(?:\.\d\d){4}|(?:-\d\d){4})", checks.phone_national, retries=True),  # France
        Pattern(r"0[1-9]\d{1,3}[ /-]\d{6,8}", checks.phone_national, retries=True),  # Germany
        Pattern(r"07\d{3} \d{3} ?\d{3}", checks.phone_national, retries=True),  # United Kingdom
        Pattern(_ANNOUNCED, checks.phone_announced),
    ),
}
"""By kind; the order is that in which they count where two overlap."""
PRIVATE_KEY_MARKER = r"-----(BEGIN|END) [A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)?-----"
PRIVATE_KEY_BODY = r"(?:[\s\\nr]{0,8}[A-Za-z0-9+/=]{16,})*"
"""What of a key stands behind its beginning where no end follows."""
