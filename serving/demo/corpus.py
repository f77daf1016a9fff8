"""The demo's corpus: docstrings of the Python standard library, cut into chunks.

It is real text that lies on every machine with Python, so nothing has to be downloaded and every answer can be
looked up in the chunk that it came from.
"""

from __future__ import annotations

import hashlib
import importlib
import inspect
from collections.abc import Iterator, Sequence

import msgspec

MODULES: tuple[str, ...] = (
    "base64", "binascii", "bisect", "builtins", "calendar", "collections", "colorsys", "configparser",
    "contextlib", "copy", "csv", "dataclasses", "difflib", "filecmp", "fnmatch", "functools", "getpass",
    "glob", "graphlib", "gzip", "hashlib", "heapq", "hmac", "html", "inspect", "itertools", "json", "keyword",
    "linecache", "math", "mimetypes", "operator", "os", "os.path", "pickle", "platform", "pprint", "queue",
    "random", "re", "secrets", "shelve", "shlex", "shutil", "socket", "statistics", "string", "struct",
    "subprocess", "tarfile", "tempfile", "textwrap", "threading", "time", "timeit", "tomllib", "traceback",
    "unicodedata", "urllib.parse", "uuid", "warnings", "weakref", "webbrowser", "zipfile", "zlib",
)  # fmt: skip
"""Modules whose public functions and classes are described. None of them acts on being imported."""

CLASSES: tuple[str, ...] = (
    "builtins.str", "builtins.list", "builtins.dict", "builtins.set", "collections.Counter",
    "collections.deque", "pathlib.Path", "datetime.date", "datetime.datetime",
)  # fmt: skip
"""Classes whose public methods are described as well."""

MIN_DOC_CHARS = 20
MAX_CHUNK_CHARS = 700
"""About 170 tokens: the encoder reads 256, and four chunks leave the student's window free for an answer."""


class CorpusChunk(msgspec.Struct, frozen=True):
    """A piece of one object's documentation."""

    id: str
    """`shutil.rmtree#0`: the object's dotted name and the number of the piece."""
    name: str
    text: str
    """Begins with the name (and signature), so that a piece can be understood alone."""


def build_corpus(modules: Sequence[str] = MODULES, classes: Sequence[str] = CLASSES) -> list[CorpusChunk]:
    """The chunks of every documented public object, in a stable order, each object once."""
    chunks: list[CorpusChunk] = []
    seen: set[str] = set()
    for name, described in _objects(modules, classes):
        doc = inspect.getdoc(described)
        if name in seen or not doc or len(doc) < MIN_DOC_CHARS:
            continue
        seen.add(name)
        chunks += split_document(name, _heading(name, described), doc)
    return chunks


def split_document(name: str, heading: str, doc: str, max_chars: int = MAX_CHUNK_CHARS) -> list[CorpusChunk]:
    """Cut at paragraphs, then at lines, then anywhere; every piece is led by the heading.

    A piece is longer than `max_chars` only when the heading alone nearly is.
    """
    room = max(max_chars - len(heading) - 1, max_chars // 4)
    pieces: list[str] = []
    current = ""
    for part in _parts(doc, room):
        joined = f"{current}\n{part}" if current else part
        if len(joined) > room:
            pieces.append(current)
            current = part
        else:
            current = joined
    pieces.append(current)
    return [
        CorpusChunk(id=f"{name}#{number}", name=name, text=f"{heading}\n{piece}")
        for number, piece in enumerate(piece for piece in pieces if piece)
    ]


def module_document(module: str) -> str:
    """One module's whole documentation as one text, as a user would paste it."""
    documented = ((name, described, inspect.getdoc(described)) for name, described in _objects((module,), ()))
    return "\n\n".join(f"{_heading(name, described)}\n{doc}" for name, described, doc in documented if doc)


def corpus_sha256(chunks: Sequence[CorpusChunk]) -> str:
    """Identifies the corpus: another Python has other docstrings, and their embeddings must not be mixed."""
    digest = hashlib.sha256()
    for chunk in chunks:
        digest.update(f"{chunk.id}\0{chunk.text}\0".encode())
    return digest.hexdigest()


def _objects(modules: Sequence[str], classes: Sequence[str]) -> Iterator[tuple[str, object]]:
    for module_name in modules:
        module = importlib.import_module(module_name)
        exported = getattr(module, "__all__", None)
        prefix = "" if module_name == "builtins" else f"{module_name}."
        for name, member in inspect.getmembers(module, _is_described):
            if name.startswith("_") or (exported is not None and name not in exported):
                continue
            if isinstance(member, type) and issubclass(member, BaseException):
                continue
            yield f"{prefix}{name}", member
    for path in classes:
        module_name, _, class_name = path.rpartition(".")
        described = getattr(importlib.import_module(module_name), class_name)
        prefix = class_name if module_name == "builtins" else path
        for name, member in inspect.getmembers(described, callable):
            if not name.startswith("_"):
                yield f"{prefix}.{name}", member


def _is_described(member: object) -> bool:
    return inspect.isroutine(member) or inspect.isclass(member)


def _heading(name: str, described: object) -> str:
    try:
        signature = str(inspect.signature(described))  # type: ignore[arg-type]
    except (TypeError, ValueError):  # many builtins have none
        return name
    if len(signature) > MAX_CHUNK_CHARS // 4 or " at 0x" in signature:  # an address differs in every process
        return f"{name}(...)"
    return f"{name}{signature}"


def _parts(doc: str, room: int) -> Iterator[str]:
    for paragraph in doc.split("\n\n"):
        if len(paragraph) <= room:
            yield paragraph
            continue
        for line in paragraph.splitlines():
            yield from (line[start : start + room] for start in range(0, len(line), room))
