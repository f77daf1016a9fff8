"""One run of `locum tune`: from the log to a derived bundle, or to files."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec

from policies import artefact
from policies.bundle import Bundle, Manifest
from policies.grading import Grader
from policies.prefix_calibration import Answer as PrefixAnswer
from policies.prefix_calibration import with_prefixes
from policies.record import Purpose
from policies.traffic.reader import TrafficError
from policies.traffic.sql import QueryError
from serving.errors import RegistryError, UnknownBundle
from serving.registry import Registry
from trainer.tune import report
from trainer.tune.cut import WishNotMet
from trainer.tune.document import DocumentError
from trainer.tune.guarantee import NotCertified
from trainer.tune.labelled import Filter, collect
from trainer.tune.report import TuneResult
from trainer.tune.rows import Collected, Grading
from trainer.tune.sealed import Sealed, SealedSetError, load_sealed
from trainer.tune.threshold import Method, TooFewLabels, Tuned, UselessSignal, Wish, tune

MAX_NAMED = 5
CALIBRATOR_FILE, RESULT_FILE, POLICY_FILE = "calibrator.json", "tune.json", "cascade.toml"


class TuneInputError(ValueError):
    """The labelled records cannot be used for this student."""


WRONG_INPUT = (
    TuneInputError, DocumentError, SealedSetError, TrafficError, QueryError, UnknownBundle,
    NotADirectoryError, FileExistsError, PermissionError,  # of --out
)  # fmt: skip
NEGATIVE = (TooFewLabels, UselessSignal, WishNotMet, NotCertified)
FAILED = (RegistryError, OSError)
"""The input is right and the machine is not: a damaged bundle, a full disk."""

__all__ = [
    "FAILED",
    "NEGATIVE",
    "WRONG_INPUT",
    "Chosen",
    "Fitting",
    "Target",
    "Wish",
    "as_json",
    "lines",
    "negative_as_json",
    "tune_from_log",
]


@dataclass(frozen=True)
class Target:
    """What is tuned, and where the result goes: a registry or a folder."""

    registry: Path | None = None
    bundle_id: str | None = None
    """None = the current one of the registry."""
    out: Path | None = None
    student: str | None = None
    """With `out`: as the records name it; None = the only one there is."""


@dataclass(frozen=True)
class Chosen:
    """Which records count, and what makes an answer right."""

    purposes: frozenset[Purpose]
    tags: Mapping[str, str]
    where: str | None
    exclude: tuple[Path, ...]
    grader: Grader
    min_score: float


@dataclass(frozen=True)
class Fitting:
    """How the threshold is set."""

    wish: Wish
    method: Method
    folds: int
    seed: int


@dataclass(frozen=True)
class Student:
    """Whose answers count."""

    names: frozenset[str] | None
    """As in the records: the bundle and its twins with the same model. None = any."""
    bundle: Bundle | None = None
    manifest: Manifest | None = None


def tune_from_log(log_dir: Path, target: Target, chosen: Chosen, fitting: Fitting) -> TuneResult:
    """Collect the labels, tune, and write the result.

    Raises: WRONG_INPUT, NEGATIVE, FAILED; nothing is written then.
    """
    student = student_of(target)
    sealed = load_sealed(chosen.exclude, student.manifest)
    collected = collect(
        log_dir,
        Filter(purposes=chosen.purposes, tags=chosen.tags, where=chosen.where, students=student.names),
        Grading(chosen.grader, chosen.min_score),
        sealed,
    )
    name = only_student(collected, student, sealed)
    tuned = tune(collected.answers(), fitting.wish, method=fitting.method, folds=fitting.folds, seed=fitting.seed)
    result = report.result_of(tuned, collected, student=name, sealed_sets=len(sealed.files))
    if target.registry is not None and student.bundle is not None:
        return _derive(Registry(target.registry), student.bundle, tuned, collected.prefixes(), result)
    return _write(target.out or Path(), tuned, collected.prefixes(), result)


def as_json(result: TuneResult) -> str:
    return msgspec.json.encode(result).decode()


def negative_as_json(error: TooFewLabels | UselessSignal | WishNotMet | NotCertified) -> str:
    """`missing_labels` is null where more labels are not known to help."""
    missing = error.missing if isinstance(error, TooFewLabels | NotCertified) else None
    return msgspec.json.encode({"error": str(error), "missing_labels": missing}).decode()


def lines(result: TuneResult) -> Iterator[str]:
    """The report for people, and what to do next."""
    yield from report.lines(result)
    yield ""
    if result.bundle_id is not None:
        yield f"bundle {result.bundle_id}; activate it: locum student promote {result.bundle_id}"
        return
    yield f"wrote {', '.join(result.files)}; put this into the configuration:"
    yield from _policy_table(result).splitlines()


def student_of(target: Target) -> Student:
    """Raises: RegistryError, TuneInputError, OSError."""
    if target.registry is None:
        return Student(None if target.student is None else frozenset({target.student}))
    registry = Registry(target.registry)
    bundle = registry.current() if target.bundle_id is None else registry.get(target.bundle_id)
    if bundle is None:
        raise TuneInputError(f"--bundle: {target.registry} has no current bundle; say which one to tune")
    registry.verified(bundle.bundle_id)  # before any work: a bundle derived from a damaged one would be damaged too
    twins = {each.bundle_id for each in registry.list() if each.model_sha256 == bundle.model_sha256}
    return Student(frozenset(twins | {bundle.bundle_id}), bundle, registry.manifest(bundle.bundle_id))


def only_student(collected: Collected, student: Student, sealed: Sealed) -> str:
    """Whose rows these are. Raises: TuneInputError: rows of the test set, or of several students."""
    if collected.sealed_ids:
        named = ", ".join(collected.sealed_ids[:MAX_NAMED])
        more = ", ..." if len(collected.sealed_ids) > MAX_NAMED else ""
        files = ", ".join(str(path) for path in sealed.files)
        raise TuneInputError(
            f"{len(collected.sealed_ids)} labelled records have messages of the sealed evaluation set ({files}): "
            f"{named}{more}. A threshold must not be set on the cases that judge it: leave them out with --tag, "
            "--purpose or --where"
        )
    if student.bundle is not None:
        return student.bundle.bundle_id
    names = collected.students
    if len(names) > 1:
        counted = ", ".join(f"{name} ({names[name]})" for name in sorted(names))
        raise TuneInputError(f"--student: the labelled records are of several students, say which one: {counted}")
    return next(iter(names), next(iter(student.names or ()), "none"))


def _derive(
    registry: Registry, bundle: Bundle, tuned: Tuned, prefixes: list[PrefixAnswer], result: TuneResult
) -> TuneResult:
    fitted = report.artefact_of(tuned, student=bundle.bundle_id, model_sha256=bundle.model_sha256)
    fitted = with_prefixes(fitted, prefixes)
    with tempfile.TemporaryDirectory(prefix="locum-tune-") as folder:
        path = Path(folder) / CALIBRATOR_FILE
        artefact.write(path, fitted)
        derived = registry.derive(bundle.bundle_id, calibrator=path, cascade_threshold=tuned.threshold)
    return msgspec.structs.replace(result, bundle_id=derived.bundle_id)


def _write(out: Path, tuned: Tuned, prefixes: list[PrefixAnswer], result: TuneResult) -> TuneResult:
    paths = [out / name for name in (CALIBRATOR_FILE, POLICY_FILE, RESULT_FILE)]
    result = msgspec.structs.replace(result, files=tuple(map(str, paths)))
    fitted = with_prefixes(report.artefact_of(tuned, student=result.student, model_sha256=""), prefixes)
    calibrator, _ = artefact.encoded(fitted)
    table = _policy_table(result).encode()
    record = msgspec.json.format(msgspec.json.encode(result), indent=1) + b"\n"
    artefact.replace_files(dict(zip(paths, (calibrator, table, record), strict=True)))
    return result


def _policy_table(result: TuneResult) -> str:
    calibrator = msgspec.json.encode(result.files[0]).decode()  # a JSON string is a TOML string
    return f'[[routing.policies]]\ntype = "cascade"\ncalibrator = {calibrator}\nthreshold = {result.threshold!r}\n'
