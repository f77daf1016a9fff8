"""Takes findings out of texts: `[EMAIL_1]` stands for the same address wherever it comes in one record.

Texts stay trainable: who wrote to whom can still be told, a person's name for it cannot.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter

from router.scrub.findings import Engine, Finding, apart

NUL = b"\0"
LONG_CHARS = 200
"""Short texts keep their neighbours: a key says what its value is."""


class Text:
    """One text of a record, and what becomes of it."""

    def __init__(self, text: str) -> None:
        self._text = text
        self.data = text.encode("utf-8", "surrogatepass")
        self._edits: list[tuple[int, int, str]] = []

    @property
    def changed(self) -> bool:
        return bool(self._edits)

    def replace(self, start: int, end: int, placeholder: str) -> None:
        """To be called in the order of the places."""
        self._edits.append((start, end, placeholder))

    def __str__(self) -> str:
        if not self._edits:
            return self._text
        pieces, at = [], 0
        for start, end, placeholder in self._edits:
            pieces += [self.data[at:start], placeholder.encode()]
            at = end
        return b"".join((*pieces, self.data[at:])).decode("utf-8", "surrogatepass")


class Sheet:
    """All texts of one record: searched together, so that one value has one placeholder in all of them."""

    def __init__(self) -> None:
        self._texts: list[Text] = []
        self._long: dict[str, Text] = {}

    def text(self, text: str) -> Text:
        """Put a text on the sheet. A long one comes there once: the last user turn is a part of the request, too."""
        if (known := self._long.get(text)) is not None:
            return known
        made = Text(text)
        self._texts.append(made)
        if len(text) >= LONG_CHARS:
            self._long[text] = made
        return made

    def scrub(self, engine: Engine) -> Counter[str]:
        """Replace what the engine finds.

        Returns:
            How often something of each kind was replaced.
        """
        counts: Counter[str] = Counter()
        data = NUL.join(text.data for text in self._texts)
        starts, at = [], 0
        for text in self._texts:
            starts.append(at)
            at += len(text.data) + 1
        names: dict[tuple[str, bytes], str] = {}
        numbers: Counter[str] = Counter()
        for finding in apart(engine.find(data), len(data)):
            value = finding.kind, canonical(data[finding.start : finding.end])
            if value not in names:
                numbers[finding.kind] += 1
                names[value] = f"[{finding.kind.upper()}_{numbers[finding.kind]}]"
            self._replace(finding, starts, names[value])
            counts[finding.kind] += 1
        return counts

    def _replace(self, finding: Finding, starts: list[int], placeholder: str) -> None:
        """In every text that the finding reaches into."""
        number = bisect_right(starts, finding.start) - 1
        while number < len(starts) and starts[number] < finding.end:
            text, base = self._texts[number], starts[number]
            start, end = max(0, finding.start - base), min(len(text.data), finding.end - base)
            if start < end:
                text.replace(start, end, placeholder)
            number += 1


def canonical(value: bytes) -> bytes:
    """How two spellings of one value are known for the same: without spaces, separators and case."""
    return b"".join(
        value.replace(b"%40", b"@").replace(b"\\u0040", b"@").lower().translate(None, b" \t\r\n-()/").split()
    )
