"""The built-in engine: RE2 over all texts of a record at once, then the checks.

RE2 works in time linear in the text and lets other threads run meanwhile. It is imported where an engine is made: a
gateway that does not scrub does without it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from router.scrub.findings import Finding
from router.scrub.patterns import PATTERNS, PRIVATE_KEY_BODY, PRIVATE_KEY_MARKER, Kind, Pattern

if TYPE_CHECKING:
    from router.scrub.checks import Span

AT_ONCE_BYTES = 4_096
"""Under a millisecond of searching: the time that one record may take from all other requests."""
MAX_PATTERN_CHARS = 1_000
MAX_CANDIDATES = 20_000
"""Places that look like something at first, in one record. To check texts made of nothing else would take too long."""
_RUN = re.compile(rb"[0-9A-Za-z]+|.", re.DOTALL)


class TooMuchWork(Exception):
    """The texts hold more candidates than are looked at."""


class PatternError(ValueError):
    """A pattern of the configuration cannot be used. The message says why and what to write instead."""


class BuiltInEngine:
    """Finds the built-in kinds and an operator's own patterns, which come first."""

    def __init__(self, kinds: Collection[Kind], custom: Mapping[str, str]) -> None:
        """Raises: PatternError: naming the pattern; ImportError: google-re2 is not installed."""
        self.at_once_bytes = AT_ONCE_BYTES
        self.kinds: frozenset[str] = frozenset(kinds) | frozenset(custom)
        self._searches: list[tuple[str, Callable[[bytes], Iterator[Span | None]]]] = []
        for name, regex in custom.items():
            self._add(name, Pattern(checked(name, regex)))
        for kind, patterns in PATTERNS.items():
            if kind in kinds:
                if kind == "secret":
                    self._searches.append((kind, PrivateKeys()))
                for pattern in patterns:
                    self._add(kind, pattern)

    def _add(self, kind: str, pattern: Pattern) -> None:
        self._searches.append((kind, Search(pattern)))

    def find(self, data: bytes) -> list[Finding]:
        """Raises: TooMuchWork."""
        left, findings = MAX_CANDIDATES, []
        for kind, search in self._searches:
            for span in search(data):
                left -= 1
                if left < 0:
                    raise TooMuchWork
                if span is not None:
                    findings.append(Finding(*span, kind))
        return findings


class Search:
    """All candidates of one pattern, None for those that the check refused.

    A search goes on behind what was found. Behind what was refused, too, unless another candidate may begin in it: then
    behind the first word of it, since none begins within a word. So a byte is looked at once for each word of the
    longest candidate, and those are bounded.
    """

    def __init__(self, pattern: Pattern) -> None:
        self.pattern = pattern
        self._regex = compiled(pattern.regex)
        self._group = min(self._regex.groups, 1)

    def __call__(self, data: bytes) -> Iterator[Span | None]:
        at = 0
        check = self.pattern.check
        while (match := self._regex.search(data, at)) is not None:
            start, end = match.span(self._group)
            span: Span | None = (start, end)
            if check is not None:
                span = check(data, start, end)
            yield span
            if span is not None:
                at = max(span[1], match.start() + 1)
            elif self.pattern.retries:
                at = _RUN.match(data, match.start()).end()  # type: ignore[union-attr]  # the match is not empty
            else:
                at = match.end()


class PrivateKeys:
    """PEM and PGP blocks of private keys, by their markers; one that is cut off counts as far as it goes."""

    def __init__(self) -> None:
        self._marker, self._body = compiled(PRIVATE_KEY_MARKER), compiled(PRIVATE_KEY_BODY)

    def __call__(self, data: bytes) -> Iterator[Span | None]:
        markers = [(match.group(1) == b"BEGIN", *match.span()) for match in self._marker.finditer(data)]
        for number, (begins, start, end) in enumerate(markers):
            if not begins:
                continue
            ends = number + 1 < len(markers) and not markers[number + 1][0]
            yield start, markers[number + 1][2] if ends else self._body.match(data, end).end()


def compiled(regex: str) -> Any:
    """Raises: PatternError; ImportError."""
    import re2  # noqa: PLC0415 - see above

    options = re2.Options()
    options.log_errors = False
    try:
        return re2.compile(regex, options)
    except re2.error as exc:
        reason = exc.args[0].decode("utf-8", "replace") if exc.args and isinstance(exc.args[0], bytes) else str(exc)
        raise PatternError(f"RE2 cannot use it: {reason}") from exc


def checked(name: str, regex: str) -> str:
    """An operator's pattern, when the time that it takes is linear in the text however often it matches.

    Raises: PatternError.
    """
    if not 1 <= len(regex) <= MAX_PATTERN_CHARS:
        raise PatternError(f"{name}: 1 to {MAX_PATTERN_CHARS} characters")
    if (unbounded := _unbounded(regex)) is not None:
        raise PatternError(
            f"{name}: `{unbounded}` repeats without a bound, and a text could make it look through itself again and "
            "again; write a bound, e.g. {0,64}"
        )
    try:
        found = compiled(regex)
    except PatternError as exc:
        raise PatternError(f"{name}: {exc}") from exc
    if found.search(b"") is not None:
        raise PatternError(f"{name}: it matches the empty text")
    return regex


def _unbounded(regex: str) -> str | None:
    """The first `*`, `+` or `{n,}` that is a repetition, not an escaped character or one of a class."""
    at, in_class = 0, False
    while at < len(regex):
        char = regex[at]
        if regex.startswith("\\Q", at):
            end = regex.find("\\E", at)
            at = len(regex) if end < 0 else end + 2
            continue
        if char == "\\":
            at += 2
            continue
        if in_class:
            in_class = char != "]"
        elif char == "[":
            in_class = True
            at += 1 + regex.startswith("^", at + 1)  # a bracket at the start of a class is one of its characters
            if regex.startswith("]", at):
                at += 1
            continue
        elif char in "*+":
            return char
        elif char == "{":
            inside, closed, _ = regex[at + 1 :].partition("}")
            if closed and inside.endswith(",") and inside[:-1].isdigit():
                return f"{{{inside}}}"
        at += 1
    return None
