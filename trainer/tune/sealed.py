"""Keeps the test set out of tuning: a threshold that was set on the cases that judge it proves nothing."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from policies.bundle import Manifest
from trainer.evaluation.dataset import Case, Message, prompt_hash


class SealedSetError(ValueError):
    """A sealed set is missing, unreadable or another one than the bundle was judged on. Wrong input."""


class _Line(msgspec.Struct, frozen=True):
    messages: list[dict[str, Any]]
    context: str | None = None


@dataclass(frozen=True)
class Sealed:
    """Prompts that must not be tuned on, by `prompt_hash`: without case, spacing and the system's instructions."""

    prompts: frozenset[str] = frozenset()
    files: tuple[Path, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.files)


def load_sealed(exclude: Sequence[Path], manifest: Manifest | None) -> Sealed:
    """Read the sealed sets. The one that a bundle was judged on is found by its hash: among `exclude`, else where the
    recipe had it.

    Raises: SealedSetError: also when the bundle's own set is nowhere to be found.
    """
    contents = {path: _read(path) for path in exclude}
    expected = manifest.evaluation_set_sha256 if manifest else ""
    if expected and expected not in map(_sha256, contents.values()):
        path = _path_in_recipe(manifest)
        found = _read(path) if path is not None and path.is_file() else None
        if path is None or found is None or _sha256(found) != expected:
            where = "" if path is None else f" ({path} {'is not there' if found is None else 'has another hash'})"
            raise SealedSetError(
                f"--exclude: the bundle was judged on an evaluation set with sha256 {expected}{where}; "
                "give that file with --exclude, so that no record of it sets the threshold"
            )
        contents[path] = found
    prompts: set[str] = set()
    for path, content in contents.items():
        prompts |= _prompts(path, content)
    return Sealed(frozenset(prompts), tuple(contents))


def _path_in_recipe(manifest: Manifest | None) -> Path | None:
    table = manifest.recipe.get("evaluate") if manifest else None
    dataset = table.get("dataset") if isinstance(table, dict) else None
    return Path(dataset) if isinstance(dataset, str) else None


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as exc:
        raise SealedSetError(f"--exclude: {path} cannot be read: {exc.strerror}") from exc


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _prompts(path: Path, content: bytes) -> set[str]:
    decoder = msgspec.json.Decoder(_Line)
    prompts: set[str] = set()
    for number, text in enumerate(content.splitlines(), 1):
        if not text.strip():
            continue
        try:
            line = decoder.decode(text)
        except (msgspec.MsgspecError, UnicodeDecodeError) as exc:
            raise SealedSetError(
                f"--exclude: {path}, line {number}: {exc}; each line is a JSON object with `messages`"
            ) from exc
        prompts.add(prompt_hash(line.messages))
        if line.context:  # as the evaluation asks it
            spoken = tuple(Message(str(each.get("role")), str(each.get("content"))) for each in line.messages)
            prompts.add(prompt_hash(Case(id="", messages=spoken, label="", context=line.context).prompt()))
    if not prompts:
        raise SealedSetError(f"--exclude: {path} has no case")
    return prompts
