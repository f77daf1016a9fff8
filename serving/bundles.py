"""One bundle as a folder: written, read and verified by its hashes (the schema is policies/bundle.py).

The trainer puts `model/`, the calibrator and the reports into a folder, calls `write_bundle`, and hands the folder to
`Registry.add`. The id is a hash of what is served and of where it comes from, so the same run gives the same id, and
a new verdict on the same model gives another one.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping
from pathlib import Path, PurePosixPath
from typing import TypeVar

import msgspec

from policies.bundle import BUNDLE_SCHEMA_VERSION, Bundle, Manifest
from policies.durable import sha256_of, sync
from serving.errors import DamagedBundle

BUNDLE_FILE, MANIFEST_FILE = "bundle.json", "manifest.json"
BUNDLE_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,80}-[0-9a-f]{12}")
BUNDLE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,80}")
ID_HEX_DIGITS = 12

Sha256 = Callable[[Path], str]
T = TypeVar("T")


def write_bundle(folder: Path, bundle: Bundle, manifest: Manifest) -> Bundle:
    """Complete a folder that has the model, the calibrator and the reports: fill in hashes and id, write both files.

    Args:
        bundle: `bundle_id`, `model_sha256` and `model_bytes` may be anything; they are computed.
        manifest: `bundle_id` and `files` may be anything; they are computed.
    Returns:
        The bundle as written. Everything is on disk (fsync) when this returns.
    Raises:
        DamagedBundle: no model, no calibrator where one is named, a link, or a name that makes no id.
    """
    return seal(folder, bundle, manifest, hash_files(folder))


def seal(folder: Path, bundle: Bundle, manifest: Manifest, files: Mapping[str, str]) -> Bundle:
    """`write_bundle` for files whose hashes are known already (all but the two that are written here)."""
    if not BUNDLE_NAME.fullmatch(bundle.name):
        raise DamagedBundle(f"{folder}: the name {bundle.name!r} must be letters, digits, '.', '_' and '-'")
    content = {name: digest for name, digest in files.items() if name not in (BUNDLE_FILE, MANIFEST_FILE)}
    model = model_files(bundle, content)
    bundle = msgspec.structs.replace(
        bundle,
        model_sha256=content_hash(model),
        model_bytes=sum((folder / bundle.model / name).stat().st_size for name in model),
    )
    bundle = msgspec.structs.replace(bundle, bundle_id=_bundle_id(bundle, manifest, content))
    _write(folder / BUNDLE_FILE, bundle)
    content[BUNDLE_FILE] = sha256_of(folder / BUNDLE_FILE)
    _write(folder / MANIFEST_FILE, msgspec.structs.replace(manifest, bundle_id=bundle.bundle_id, files=content))
    problem = _form_problem(bundle, content)
    if problem is not None:
        raise DamagedBundle(f"{folder}: {problem}")
    for name in content:
        sync(folder / name)
    for inner in {(folder / name).parent for name in content} | {folder}:
        sync(inner)
    return bundle


def read_bundle(folder: Path) -> Bundle:
    """Raises: DamagedBundle."""
    bundle = _read(folder / BUNDLE_FILE, Bundle)
    if bundle.schema != BUNDLE_SCHEMA_VERSION:
        raise DamagedBundle(
            f"{folder / BUNDLE_FILE}: schema {bundle.schema} is not the {BUNDLE_SCHEMA_VERSION} of this version"
        )
    for inner in (bundle.model, bundle.calibrator, bundle.certificate):
        if inner is not None and not _is_inside(inner):
            raise DamagedBundle(f"{folder}: {inner!r} in {BUNDLE_FILE} must be a path inside the bundle")
    return bundle


def read_manifest(folder: Path) -> Manifest:
    """Raises: DamagedBundle."""
    manifest = _read(folder / MANIFEST_FILE, Manifest)
    for name in manifest.files:
        if not _is_inside(name):
            raise DamagedBundle(f"{folder}: {name!r} in {MANIFEST_FILE} must be a path inside the bundle")
    return manifest


def _is_inside(path: str) -> bool:
    return bool(path) and not PurePosixPath(path).is_absolute() and ".." not in PurePosixPath(path).parts


def verify_bundle(folder: Path, *, sha256: Sha256 = sha256_of) -> tuple[Bundle, Manifest]:
    """Hash every file and compare with the manifest; nothing may be missing, changed or added.

    Args:
        sha256: of a file; for one that can be stopped.
    Raises:
        DamagedBundle: the first file that is wrong, and how.
    """
    bundle, manifest = read_bundle(folder), read_manifest(folder)
    if manifest.bundle_id != bundle.bundle_id or not BUNDLE_ID.fullmatch(bundle.bundle_id):
        raise DamagedBundle(
            f"{folder}: {BUNDLE_FILE} says {bundle.bundle_id!r} and {MANIFEST_FILE} {manifest.bundle_id!r}; both must "
            "be the same `<name>-<12 hex digits>`"
        )
    found = hash_files(folder, expected=manifest.files, sha256=sha256)
    for name in sorted(manifest.files.keys() | found.keys()):
        if name not in found:
            raise DamagedBundle(f"{folder / name} is missing; {_RESTORE}")
        if name not in manifest.files:
            raise DamagedBundle(f"{folder / name} is not in the manifest; a bundle never changes: remove the file")
        if found[name] != manifest.files[name]:
            size_bytes = (folder / name).stat().st_size
            raise DamagedBundle(
                f"{folder / name} ({size_bytes} bytes) has sha256 {found[name][:12]}… where the manifest says "
                f"{manifest.files[name][:12]}…: it is truncated or was changed; {_RESTORE}"
            )
    problem = _form_problem(bundle, found)
    if problem is not None:
        raise DamagedBundle(f"{folder}: {problem}")
    if _id_of_files(folder, found) != bundle.bundle_id:  # the manifest, and with it the verdict, has no hash
        raise DamagedBundle(f"{folder}: {BUNDLE_FILE} or {MANIFEST_FILE} was edited: the id is another; {_RESTORE}")
    return bundle, manifest


_RESTORE = "copy the bundle again, or run the stage `bundle` once more"


def hash_files(
    folder: Path, *, expected: Mapping[str, str] | None = None, sha256: Sha256 = sha256_of
) -> dict[str, str]:
    """Path relative to the folder (with /) -> sha256, of every file but the manifest.

    Raises:
        DamagedBundle: a link, which could change or point elsewhere; or, before any hashing, a missing file.
    """
    paths = sorted(folder.rglob("*"))
    for path in paths:
        if path.is_symlink() or not (path.is_file() or path.is_dir()):
            raise DamagedBundle(f"{path} is a link or a special file; a bundle holds plain files only")
    names = {path.relative_to(folder).as_posix(): path for path in paths if path.is_file()}
    names.pop(MANIFEST_FILE, None)
    for name in expected or ():
        if name not in names:
            raise DamagedBundle(f"{folder / name} is missing; {_RESTORE}")
    return {name: sha256(path) for name, path in names.items()}


def content_hash(files: Mapping[str, str]) -> str:
    """sha256 of the sorted `sha256  name` lines: the hash of a folder from the hashes of its files."""
    lines = "".join(f"{digest}  {name}\n" for name, digest in sorted(files.items()))
    return hashlib.sha256(lines.encode()).hexdigest()


def model_files(bundle: Bundle, files: Mapping[str, str]) -> dict[str, str]:
    """The hashes of the model's files, named relative to the model's folder."""
    prefix = f"{bundle.model}/"
    return {name.removeprefix(prefix): digest for name, digest in files.items() if name.startswith(prefix)}


def _form_problem(bundle: Bundle, files: Mapping[str, str]) -> str | None:
    """What contradicts itself, or None."""
    for inner in (bundle.model, bundle.calibrator, bundle.certificate):
        if inner is not None and not _is_inside(inner):
            return f"{inner!r} in {BUNDLE_FILE} must be a path inside the bundle"
    model = model_files(bundle, files)
    if not model:
        return f"the folder {bundle.model!r} has no files; it must hold the model in Hugging Face layout"
    if content_hash(model) != bundle.model_sha256:
        return f"the files of {bundle.model!r} do not have the model_sha256 of {BUNDLE_FILE}"
    for kind, name in (("calibrator", bundle.calibrator), ("certificate", bundle.certificate)):
        if name is not None and name not in files:
            return f"the {kind} {name!r} that {BUNDLE_FILE} names is missing"
    threshold = bundle.cascade_threshold
    if threshold is not None and not 0.0 <= threshold <= 1.0:
        return f"cascade_threshold {threshold} in {BUNDLE_FILE} must be a probability in [0, 1]"
    return None


def _bundle_id(bundle: Bundle, manifest: Manifest, files: Mapping[str, str]) -> str:
    return _id_of(msgspec.to_builtins(bundle), msgspec.to_builtins(manifest), files)


def _id_of_files(folder: Path, files: Mapping[str, str]) -> str:
    """From the two files as they are, so that a field that a later version adds leaves old ids alone."""
    bundle, manifest = (_read(folder / name, dict[str, object]) for name in (BUNDLE_FILE, MANIFEST_FILE))
    return _id_of(bundle, manifest, files)


def _id_of(bundle: dict[str, object], manifest: dict[str, object], files: Mapping[str, str]) -> str:
    """Times and reports are left out: building the same bundle twice gives the same id."""
    content = {
        "bundle": {**bundle, "bundle_id": "", "created_s": 0.0},
        "manifest": {**manifest, "bundle_id": "", "files": {}},
        "served": {name: digest for name, digest in files.items() if name == bundle.get("calibrator")},
    }
    digest = hashlib.sha256(msgspec.json.encode(content, order="sorted")).hexdigest()
    return f"{bundle['name']}-{digest[:ID_HEX_DIGITS]}"


def _read(path: Path, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except OSError as exc:
        raise DamagedBundle(f"{path} cannot be read: {exc.strerror}; is this a bundle?") from exc
    except msgspec.MsgspecError as exc:
        raise DamagedBundle(f"{path} is damaged: {exc}") from exc


def _write(path: Path, struct: msgspec.Struct) -> None:
    """A new file each time: the old one may be a hard link into another bundle."""
    path.unlink(missing_ok=True)
    path.write_bytes(msgspec.json.format(msgspec.json.encode(struct), indent=1) + b"\n")
