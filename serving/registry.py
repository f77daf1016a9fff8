"""The registry: a folder of immutable bundles, one pointer to the current one, and the history of that pointer.

    <registry>/<bundle id>/     immutable; never deleted by Locum
    <registry>/current.json     the pointer: which bundle is served, and what came before it (`Pointer`)
    <registry>/history.jsonl    one line for each change of the pointer (`Change`)
    <registry>/state.json       what the running gateway has made of the pointer (serving/switch_state.py)
    <registry>/.lock            held while the pointer or the list of bundles changes
    <registry>/.verified/       which bundles were found sound (serving/verdicts.py)
    <registry>/.incoming-*      copies that are not finished; no reader sees them

Every change is one rename, of a folder or of `current.json`: whoever reads, and whenever a writer is killed, the
registry is the old one or the new one.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Literal

import msgspec

from policies.bundle import Bundle, Manifest
from policies.durable import sha256_of, sync
from serving.bundles import BUNDLE_FILE, BUNDLE_ID, Sha256, read_bundle, read_manifest, seal, verify_bundle
from serving.errors import DamagedBundle, PromotionRefused, RegistryError, UnknownBundle
from serving.leftovers import new_workspace, remove_leftovers
from serving.locks import LockHeld, locked
from serving.pointer import (
    POINTER_SCHEMA,
    ROLLBACK_DEPTH,
    Change,
    Pointer,
    last_sequence,
    read_history,
    read_pointer,
    write_pointer,
)
from serving.store import remove
from serving.verdicts import fingerprints, is_known, remember, stoppable_sha256

logger = logging.getLogger(__name__)

LOCK_FILE = ".lock"
LOCK_TIMEOUT_S = 30.0
"""A writer holds the lock for renames only, never while it hashes or copies."""
DERIVED_CALIBRATOR, DERIVED_CERTIFICATE = "calibrator.json", "certificate.json"


class Registry:
    """One folder of bundles. Cheap to make; reading needs no lock, and several processes may write."""

    def __init__(self, folder: Path, *, clock: Callable[[], float] = time.time) -> None:
        """`clock` gives the time of changes, in seconds since 1970."""
        self.root = folder.expanduser()
        self._clock = clock

    def folder(self, bundle_id: str) -> Path:
        """Where a bundle lies. Raises: UnknownBundle."""
        if not BUNDLE_ID.fullmatch(bundle_id) or not (self.root / bundle_id / BUNDLE_FILE).is_file():
            known = ", ".join(bundle.bundle_id for bundle in self.list()) or "none"
            raise UnknownBundle(f"there is no bundle {bundle_id!r} in {self.root} (bundles: {known})")
        return self.root / bundle_id

    def get(self, bundle_id: str) -> Bundle:
        """Raises: UnknownBundle, DamagedBundle."""
        return read_bundle(self.folder(bundle_id))

    def manifest(self, bundle_id: str) -> Manifest:
        """Raises: UnknownBundle, DamagedBundle."""
        return read_manifest(self.folder(bundle_id))

    def list(self) -> tuple[Bundle, ...]:
        """Every readable bundle, oldest first. Damaged ones are in `damaged()`."""
        found = [bundle for bundle in self._scan().values() if isinstance(bundle, Bundle)]
        return tuple(sorted(found, key=lambda bundle: (bundle.created_s, bundle.bundle_id)))

    def damaged(self) -> Mapping[str, str]:
        """Folder -> what is wrong, of those whose two JSON files cannot be read. Hashes are not checked here."""
        return {name: str(problem) for name, problem in self._scan().items() if isinstance(problem, DamagedBundle)}

    def pointer(self) -> Pointer | None:
        """None before the first promotion. Raises: RegistryError."""
        return read_pointer(self.root)

    def current(self) -> Bundle | None:
        """What is to be served. Raises: RegistryError."""
        pointer = self.pointer()
        return self.get(pointer.bundle_id) if pointer else None

    def previous(self) -> Bundle | None:
        """What a rollback would go back to. Raises: RegistryError."""
        pointer = self.pointer()
        return self.get(pointer.earlier[0]) if pointer and pointer.earlier else None

    def verified(self, bundle_id: str, *, stop: threading.Event | None = None) -> Bundle:
        """A bundle whose files are what its manifest says: they are hashed unless they were before and have not changed
        since.

        Args:
            stop: gives up when it is set.
        Raises:
            UnknownBundle, DamagedBundle.
            OSError: a file cannot be read.
            Stopped.
        """
        if is_known(self.root, bundle_id, fingerprints(self.folder(bundle_id))):
            return self.get(bundle_id)
        bundle, _ = self._verify(bundle_id, stoppable_sha256(stop or threading.Event()))
        return bundle

    def history(self) -> tuple[Change, ...]:
        """Every change of the pointer, oldest first. Raises: RegistryError."""
        return read_history(self.root)

    def add(self, folder: Path) -> Bundle:
        """Verify a finished bundle (`write_bundle`) and move it in.

        Adding a bundle that is there already is no error: the one there stays and the folder goes away, so that an
        interrupted run can simply be repeated. On another file system the folder is copied first.

        Raises:
            DamagedBundle: its files are not what its manifest says; nothing was moved.
            OSError: for example a full disk; nothing was added.
        """
        bundle, _ = verify_bundle(folder)
        target = self.root / bundle.bundle_id
        if folder.resolve() == target.resolve():
            return bundle
        with self._incoming() as incoming:
            source = folder
            if folder.stat().st_dev != incoming.stat().st_dev:
                source = incoming / bundle.bundle_id
                shutil.copytree(folder, source)
                verify_bundle(source)
            _sync_tree(source)
            if not self._take(source, bundle):
                verify_bundle(target)  # before its twin goes away
            remove(folder)
        return bundle

    def derive(
        self, bundle_id: str, *, calibrator: Path | None, cascade_threshold: float, certificate: Path | None = None
    ) -> Bundle:
        """A bundle with the same model (hard links, no copy) and another calibrator and threshold.

        Args:
            calibrator: None keeps the one that the bundle has.
            cascade_threshold: P(the student is wrong) above which the teacher answers, in [0, 1].
            certificate: of this threshold; that of another one is not kept.
        Raises:
            UnknownBundle, DamagedBundle, OSError (the calibrator or the certificate cannot be read).
        """
        bundle, base, manifest = self.verified(bundle_id), self.folder(bundle_id), self.manifest(bundle_id)
        name = DERIVED_CALIBRATOR if calibrator is not None else bundle.calibrator
        kept = {
            path: digest
            for path, digest in manifest.files.items()
            if path not in (BUNDLE_FILE, bundle.certificate)
            and (calibrator is None or path not in (bundle.calibrator, DERIVED_CALIBRATOR))
        }
        with self._incoming() as incoming:
            folder = incoming / "bundle"
            for path in kept:
                (folder / path).parent.mkdir(parents=True, exist_ok=True)
                os.link(base / path, folder / path)
            if calibrator is not None:
                shutil.copyfile(calibrator, folder / DERIVED_CALIBRATOR)
                kept[DERIVED_CALIBRATOR] = sha256_of(folder / DERIVED_CALIBRATOR)
            if certificate is not None:
                shutil.copyfile(certificate, folder / DERIVED_CERTIFICATE)
                kept[DERIVED_CERTIFICATE] = sha256_of(folder / DERIVED_CERTIFICATE)
            changes = {
                "calibrator": name,
                "cascade_threshold": cascade_threshold,
                "certificate": None if certificate is None else DERIVED_CERTIFICATE,
                "created_s": self._clock(),
            }
            derived = seal(
                folder,
                msgspec.structs.replace(bundle, **changes),
                msgspec.structs.replace(manifest, derived_from=bundle_id),
                kept,
            )
            self._take(folder, derived)
        return derived

    def promote(self, bundle_id: str, *, force: bool = False, reason: str | None = None) -> Pointer:
        """Make a bundle the current one, after verifying every hash. Promoting the current one tries it again.

        Args:
            force: take it whatever its verdict; `reason` says why and is kept in the history.
        Raises:
            UnknownBundle, DamagedBundle.
            PromotionRefused: its verdict is not `pass`, or force without a reason.
        """
        if force and not (reason or "").strip():
            raise PromotionRefused("promoting by force needs a reason; it is kept in the history")
        _, manifest = self._verify(bundle_id)
        if manifest.verdict != "pass" and not force:
            why = "; ".join(manifest.verdict_reasons) or "the manifest gives no reasons"
            raise PromotionRefused(
                f"the verdict of {bundle_id} is {manifest.verdict}, not pass: {why}. To promote it all the same, "
                "use --force and say why with --reason"
            )
        with self._locked():
            before = self.pointer()
            earlier: tuple[str, ...] = before.earlier if before else ()
            if before and before.bundle_id != bundle_id:
                earlier = (before.bundle_id, *earlier)[:ROLLBACK_DEPTH]
            forced = force and manifest.verdict != "pass"
            return self._point(
                bundle_id, earlier, before, action="promote", verdict=manifest.verdict, forced=forced, reason=reason
            )

    def rollback(self, *, reason: str | None = None) -> Pointer:
        """Go back to the bundle before the current one; a second time, to the one before that.

        Raises:
            PromotionRefused: there is none.
            UnknownBundle, DamagedBundle: it has been removed or changed since; the current one stays.
        """
        while True:
            seen = self.pointer()
            if seen is None or not seen.earlier:
                raise PromotionRefused(f"{self.root} has no earlier bundle to go back to")
            _, manifest = self._verify(seen.earlier[0])
            with self._locked():
                before = self.pointer()
                if before == seen:
                    target, *earlier = seen.earlier
                    return self._point(
                        target, tuple(earlier), seen, action="rollback", verdict=manifest.verdict, reason=reason
                    )

    def _verify(self, bundle_id: str, sha256: Sha256 = sha256_of) -> tuple[Bundle, Manifest]:
        """Hash every file, and remember that they are sound."""
        folder = self.folder(bundle_id)
        seen = fingerprints(folder)
        bundle, manifest = verify_bundle(folder, sha256=sha256)
        if bundle.bundle_id != bundle_id:
            raise DamagedBundle(f"{folder} is the bundle {bundle.bundle_id}; rename the folder back")
        try:
            with self._locked():
                remember(self.root, bundle_id, seen)
        except (RegistryError, OSError) as exc:  # the next one hashes it again
            logger.warning("%s: the verdict is not kept: %s", folder, exc)
        return bundle, manifest

    def _point(
        self,
        bundle_id: str,
        earlier: tuple[str, ...],
        before: Pointer | None,
        *,
        action: Literal["promote", "rollback"],
        verdict: str,
        reason: str | None,
        forced: bool = False,
    ) -> Pointer:
        """Replace the pointer; the caller has the lock."""
        change = Change(
            sequence=1 + (before.sequence if before else last_sequence(self.root)),
            time_s=self._clock(),
            action=action,
            bundle_id=bundle_id,
            before=before.bundle_id if before else None,
            verdict=verdict,
            forced=forced,
            reason=reason,
        )
        pointer = Pointer(schema=POINTER_SCHEMA, bundle_id=bundle_id, earlier=earlier, change=change)
        write_pointer(self.root, pointer)
        return pointer

    def _scan(self) -> dict[str, Bundle | DamagedBundle]:
        """Folder name -> its bundle, or why it cannot be read."""
        found: dict[str, Bundle | DamagedBundle] = {}
        for path in sorted(self.root.glob("*/")) if self.root.is_dir() else ():
            if path.name.startswith(".") or not BUNDLE_ID.fullmatch(path.name):
                continue
            try:
                bundle = read_bundle(path)
                read_manifest(path)
                found[path.name] = bundle
            except DamagedBundle as exc:
                found[path.name] = exc
        return found

    def _take(self, source: Path, bundle: Bundle) -> bool:
        """One rename makes it visible; False when a bundle of that id is there already, which stays."""
        target = self.root / bundle.bundle_id
        with self._locked():
            if target.exists():
                return False
            source.rename(target)
            sync(self.root)
            return True

    @contextlib.contextmanager
    def _incoming(self) -> Iterator[Path]:
        """A hidden folder for work in progress, locked while its owner lives; those of dead owners are removed."""
        with self._locked():
            remove_leftovers(self.root)
            folder, own = new_workspace(self.root)
        try:
            yield folder
        finally:
            remove(folder)
            if own is not None:
                os.close(own)

    def tidy(self) -> None:
        """Remove what killed processes have left. Raises: RegistryError, OSError."""
        with self._locked():
            remove_leftovers(self.root)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """One writer at a time, over processes and threads."""
        self.root.mkdir(parents=True, exist_ok=True)
        try:
            with locked(self.root / LOCK_FILE, timeout_s=LOCK_TIMEOUT_S):
                yield
        except LockHeld as exc:
            raise RegistryError(f"{exc}; the registry is unchanged") from exc


def _sync_tree(folder: Path) -> None:
    for path in sorted(folder.rglob("*")):
        sync(path)
    sync(folder)
