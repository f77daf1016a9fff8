"""Which prompts a student was trained on, as hashes: so that a set that shall measure it can be kept apart.

The trainer puts `training_prompts.bin` into the bundle, sorted hashes of 8 bytes without a header. The manifest holds
the hash of the file. No prompt can be read back, but who has a prompt can ask whether it was there.
"""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

FILE = "training_prompts.bin"
DIGEST_BYTES = 8
MAX_BYTES = 256 * 2**20


def prompt_digest(messages: Sequence[Mapping[str, Any]]) -> bytes | None:
    """Of what the user says in all turns, written alike; None: there is no text.

    The system prompt does not count: the same question below another template is the same question.
    """
    texts = [_text_of(message.get("content")) for message in messages if message.get("role") == "user"]
    text = " ".join(unicodedata.normalize("NFKC", " ".join(texts)).casefold().split())
    return hashlib.blake2b(text.encode("utf-8", "replace"), digest_size=DIGEST_BYTES).digest() if text else None


def _text_of(content: object) -> str:
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else []
    return " ".join(str(part.get("text", "")) for part in parts if isinstance(part, dict))


def write(path: Path, digests: Iterable[bytes | None]) -> None:
    """Raises: OSError."""
    path.write_bytes(b"".join(sorted({digest for digest in digests if digest is not None})))


class Corpus:
    """The prompts of one bundle."""

    def __init__(self, digests: bytes = b"") -> None:
        self._known = {digests[at : at + DIGEST_BYTES] for at in range(0, len(digests), DIGEST_BYTES)}

    @classmethod
    def read(cls, bundle: Path) -> Corpus | None:
        """Of the folder of a bundle; None: it does not say. Raises: OSError."""
        path = bundle / FILE
        if not path.is_file() or path.stat().st_size > MAX_BYTES:
            return None
        return cls(path.read_bytes())

    def __len__(self) -> int:
        return len(self._known)

    def has(self, messages: Sequence[Mapping[str, Any]]) -> bool:
        """Whether the student was trained on this prompt."""
        return prompt_digest(messages) in self._known
