"""One run of `locum tune --confidence`: from the log to proven thresholds, with their certificate."""

from __future__ import annotations

import dataclasses
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from policies import artefact
from policies.calibration import CalibratorArtefact
from policies.certificate import Certificate
from policies.prefix_calibration import with_prefixes
from serving.registry import Registry
from trainer.tune import report
from trainer.tune.document import changed_document, model_sha256, policy_table
from trainer.tune.guarantee import NotCertified, Promise
from trainer.tune.guaranteed import Guaranteed, Identity, Limits, calibrated, certificate_of, guaranteed
from trainer.tune.labelled import Filter, collect
from trainer.tune.rows import Collected, Grading
from trainer.tune.run import (
    CALIBRATOR_FILE,
    POLICY_FILE,
    Chosen,
    Student,
    Target,
    TuneInputError,
    only_student,
    student_of,
)
from trainer.tune.sealed import load_sealed
from trainer.tune.threshold import Wish, tune
from trainer.tune.traffic import MEAN_LOGPROB, Score

CERTIFICATE_FILE, DOCUMENT_FILE = "certificate.json", "policy.json"
CASCADE = "cascade"


@dataclass(frozen=True)
class Asked:
    """What shall be proven."""

    confidence: float
    max_quality_loss: float | None
    max_teacher_share: float | None
    budget_usd_per_day: float | None
    score: Score
    seed: int
    min_propensity: float | None = None
    """With which any request could be drawn for a shadow answer; None = the lowest of those that were."""
    document: Path | None = None
    """A policy document to change, as `locum policy get` writes it."""


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """The result of `locum tune --confidence --json`."""

    certificate: Certificate
    teacher_share: tuple[float, float, float]
    """Expected of all traffic, with its 95 % interval."""
    n_traffic: int
    n_assumed_wrong: int = 0
    """Pairs of different answers without a label: taken for lost."""
    propensities: tuple[float, float] | None = None
    """Lowest and highest with which shadow answers were drawn, where they differ and no lowest was stated."""
    n_teacher_assumed: int = 0
    """Pairs of which the teacher's answer was not judged: taken for right."""
    affordable_share: float | None = None
    """By the budget."""
    bundle_id: str | None = None
    files: tuple[str, ...] = ()


def certify_from_log(log_dir: Path, target: Target, chosen: Chosen, asked: Asked) -> Found:
    """Collect the labels, prove the thresholds, and write them with their certificate.

    Raises: run.WRONG_INPUT, run.NEGATIVE, NotCertified, run.FAILED; nothing is written then.
    """
    student = student_of(target)
    sealed = load_sealed(chosen.exclude, student.manifest)
    collected = collect(
        log_dir,
        Filter(purposes=chosen.purposes, tags=chosen.tags, where=chosen.where, students=student.names),
        Grading(chosen.grader, chosen.min_score),
        sealed,
        asked.score,
    )
    name = only_student(collected, student, sealed)
    teacher = _only_teacher(collected)
    pairs, assumed = collected.pairs(_min_propensity(collected, asked))
    if not asked.score.tag:
        pairs = dataclasses.replace(pairs, tag=())
    affordable = _affordable(collected, asked)
    limits = _limits(asked, affordable)
    result = guaranteed(pairs, collected.traffic, limits, asked.seed)
    fitted = None if asked.score.policy else _fitted(collected, result, student, name, asked.seed)
    thresholds = [part.found.threshold for part in result.parts]
    if fitted is not None:
        thresholds = [calibrated(threshold, fitted.calibrator) for threshold in thresholds]
    identity = Identity(
        policy=asked.score.policy or CASCADE,
        score="vote" if asked.score.policy else MEAN_LOGPROB,
        score_sha256=artefact.encoded(fitted)[1] if fitted is not None else _model_of_votes(collected, asked),
        student=name,
        student_model_sha256=student.bundle.model_sha256 if student.bundle else "",
        teacher=teacher,
        teacher_fingerprints=tuple(sorted(collected.traffic.fingerprints)),
        labels="shadow" if collected.use_drawn else "feedback",
        teacher_assumed_right=assumed,
        tag=asked.score.tag,
        where=_where(chosen),
    )
    certificate = certificate_of(
        result, identity, collected.traffic, thresholds=thresholds, now_s=time.time(), seed=asked.seed
    )
    share = result.teacher_share
    found = Found(
        certificate=certificate,
        teacher_share=(share.estimate, share.low, share.high),
        n_traffic=result.n_traffic,
        n_assumed_wrong=collected.counts["assumed_wrong"],
        propensities=_propensities(collected, asked),
        n_teacher_assumed=collected.counts["teacher_assumed"],
        affordable_share=affordable,
    )
    return _written(found, target, student, fitted, asked)


def _min_propensity(collected: Collected, asked: Asked) -> float:
    """Raises: TuneInputError."""
    if asked.min_propensity is None:
        return 1.0
    lowest = min((1.0 / row.weight for row in collected.drawn), default=1.0)
    if lowest < asked.min_propensity * (1.0 - 1e-9):
        raise TuneInputError(f"--min-propensity: some were drawn with a probability of {lowest:g}; give that or less")
    return asked.min_propensity


def _limits(asked: Asked, affordable: float | None) -> Limits:
    """Raises: NotCertified: the budget does not even pay the student."""
    if affordable is not None and affordable < 0:
        raise NotCertified(
            f"INFEASIBLE: {asked.budget_usd_per_day:g} USD a day are less than the student alone costs", None
        )
    shares = [share for share in (asked.max_teacher_share, affordable) if share is not None]
    promise = Promise(asked.max_quality_loss, asked.confidence) if asked.max_quality_loss is not None else None
    return Limits(promise, asked.confidence, min(shares, default=None))


def _propensities(collected: Collected, asked: Asked) -> tuple[float, float] | None:
    drawn = [1.0 / row.weight for row in collected.drawn] if collected.use_drawn else []
    if not drawn or asked.min_propensity is not None or min(drawn) == max(drawn):
        return None
    return min(drawn), max(drawn)


def _affordable(collected: Collected, asked: Asked) -> float | None:
    """Raises: TuneInputError."""
    if asked.budget_usd_per_day is None:
        return None
    share = collected.traffic.affordable_share(asked.budget_usd_per_day)
    if share is None:
        raise TuneInputError(
            "--budget-usd-per-day: the records do not tell what answers cost, or span no time; set the prices of "
            "student and teacher, or give --max-teacher-share"
        )
    return min(1.0, share)


def _only_teacher(collected: Collected) -> str:
    """Raises: TuneInputError: a promise is made against one teacher."""
    names = collected.traffic.teachers
    if len(names) > 1:
        counted = ", ".join(f"{name} ({names[name]})" for name in sorted(names))
        raise TuneInputError(
            f"--where: the records are of several teachers, choose those of one: {counted}; for example "
            f"--where \"teacher = '{min(names, key=lambda name: (-names[name], name))}'\""
        )
    return next(iter(names), "")


def _model_of_votes(collected: Collected, asked: Asked) -> str:
    """Hash of the model that gave the scores, where the records or the document tell it.

    Raises: TuneInputError: several did; DocumentError.
    """
    hashes = collected.traffic.scored_by if asked.score.policy == CASCADE else set()
    if len(hashes) > 1:
        raise TuneInputError(
            f"--where: the records were scored by {len(hashes)} models; choose those of one, by their time for example"
        )
    if hashes:
        return next(iter(hashes))
    return model_sha256(asked.document, asked.score.policy or "") if asked.document is not None else ""


def _fitted(collected: Collected, result: Guaranteed, student: Student, name: str, seed: int) -> CalibratorArtefact:
    """A strictly rising calibrator: it names the cut and does not move it, so the rows of the proof may fit it."""
    answers = collected.answers(drawn=collected.use_drawn)
    tuned = tune(answers, Wish(max_teacher_share=result.teacher_share.estimate), method="platt", seed=seed)
    of_student = student.bundle.model_sha256 if student.bundle else ""
    fitted = report.artefact_of(tuned, student=name, model_sha256=of_student)
    return with_prefixes(fitted, collected.prefixes())


def _where(chosen: Chosen) -> str:
    parts = [f"purpose {', '.join(sorted(chosen.purposes))}"]
    parts += [f"tag {key}={value}" for key, value in sorted(chosen.tags.items())]
    return "; ".join([*parts, *([f"where {chosen.where}"] if chosen.where else [])])


def _written(found: Found, target: Target, student: Student, fitted: CalibratorArtefact | None, asked: Asked) -> Found:
    if target.registry is not None and student.bundle is not None and fitted is not None:
        with tempfile.TemporaryDirectory(prefix="locum-tune-") as folder:
            calibrator, certificate = Path(folder) / CALIBRATOR_FILE, Path(folder) / CERTIFICATE_FILE
            artefact.write(calibrator, fitted)
            artefact.write(certificate, found.certificate)
            derived = Registry(target.registry).derive(
                student.bundle.bundle_id,
                calibrator=calibrator,
                cascade_threshold=found.certificate.threshold,
                certificate=certificate,
            )
        return msgspec.structs.replace(found, bundle_id=derived.bundle_id)
    out = target.out or Path()
    contents = {out / CERTIFICATE_FILE: artefact.encoded(found.certificate)[0]}
    if fitted is not None:
        contents[out / CALIBRATOR_FILE] = artefact.encoded(fitted)[0]
    changes = _changes(found.certificate, out, fitted is not None)
    contents[out / POLICY_FILE] = policy_table(found.certificate.policy, changes).encode()
    if asked.document is not None:
        contents[out / DOCUMENT_FILE] = changed_document(asked.document, found.certificate.policy, changes)
    artefact.replace_files(contents)
    return msgspec.structs.replace(found, files=tuple(map(str, contents)))


def _changes(certificate: Certificate, out: Path, calibrated_here: bool) -> dict[str, Any]:
    """What the table of the policy is to say."""
    changes: dict[str, Any] = {"threshold": certificate.threshold, "certificate": str(out / CERTIFICATE_FILE)}
    if calibrated_here:
        changes["calibrator"] = str(out / CALIBRATOR_FILE)
    by_value = {value: group.threshold for group in certificate.groups for value in group.values}
    if certificate.tag is not None and by_value:
        changes["threshold_by_tag"] = {"tag": certificate.tag, "thresholds": by_value}
    return changes


def as_json(found: Found) -> str:
    return msgspec.json.encode(found).decode()


def lines(found: Found) -> Iterator[str]:
    """The report for people."""
    certificate = found.certificate
    loss, confidence = 100 * certificate.max_quality_loss, certificate.confidence
    against = "a teacher that is always right" if certificate.teacher_assumed_right else f"all to {certificate.teacher}"
    yield f"student {certificate.student}, policy {certificate.policy}, score {certificate.score}"
    yield (
        f"{certificate.n} labelled pairs by {certificate.labels} (as good as {certificate.effective_n:.0f} of equal "
        f"weight); the models differ in {certificate.n_differing}"
    )
    if not certificate.score_sha256:
        yield "  which model gave the scores is not known: give --document, so that another one voids the certificate"
    if found.n_assumed_wrong:
        yield (
            f"  in {found.n_assumed_wrong} the answers differ and nobody has said which is right: each counts as lost. "
            "Label these, and the\n  threshold rises; equal answers need no label"
        )
    if found.propensities is not None:
        low, high = found.propensities
        yield (
            f"  drawn with probabilities from {low:.4g} to {high:.4g}: the promise takes it that no request had a "
            "lower one; else\n  state it by --min-propensity"
        )
    if found.n_teacher_assumed and not certificate.teacher_assumed_right:
        yield f"  in {found.n_teacher_assumed} nobody has judged the teacher's answer: it counts as right"
    if certificate.labels == "feedback":
        yield "  labels by people: the promise is about requests like those, so they must be a random sample"
    yield ""
    yield f"CERTIFIED: at most {loss:.4g} points are lost against {against}, with {confidence:.4g} confidence"
    share = found.teacher_share
    yield f"to the teacher       {100 * share[0]:.1f} % [{100 * share[1]:.1f}, {100 * share[2]:.1f}]"
    if found.affordable_share is not None:
        yield f"the budget pays for  {100 * found.affordable_share:.1f} %"
    header = certificate.tag or "traffic"
    yield f"{header:20} {'threshold':>10} {'labels':>7} {'to the teacher':>15}  points lost on the labels (95 %)"
    for group in certificate.groups:
        lost = group.quality_loss
        name = ", ".join(group.values) or ("all others" if certificate.tag else "all")
        interval = f"{100 * lost.estimate:.1f} [{100 * lost.low:.1f}, {100 * lost.high:.1f}]"
        sent = f"{100 * group.teacher_share.estimate:.1f} %"
        yield f"{name:20} {group.threshold:10.6f} {group.n:7} {sent:>15}  {interval}"
    yield ""
    if found.bundle_id is not None:
        yield f"bundle {found.bundle_id}; activate it: locum student promote {found.bundle_id}"
    else:
        yield f"wrote {', '.join(found.files)}"
