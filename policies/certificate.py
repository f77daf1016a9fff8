"""The certificate of a threshold: what it promises, from which data, and whether that still holds.

`locum tune --confidence` proves on labelled requests that a threshold loses at most so much quality. The proof is about
one student, one teacher, one score and traffic like that of the labels. When one of them changes, nothing has become
worse for certain; but nothing is promised any more, and the certificate is void until the threshold is tuned again.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, get_args

import msgspec

from policies import artefact
from policies.base import (
    Abstain,
    PolicyConfigError,
    PolicyModel,
    RequestFeatures,
    RouteDecision,
    StudentDefaults,
    escalate,
)

SCHEMA = 1

Cause = Literal["student_changed", "teacher_changed", "score_changed", "threshold_changed", "drift"]
CAUSES: tuple[Cause, ...] = get_args(Cause)
NO_STUDENT = frozenset({"", "none"})
"""Names of a student that is not there yet: whether it will be the right one is not known."""
OnVoid = Literal["keep", "teacher"]
"""What a policy does whose certificate is void: go on by the same threshold, or leave everything to the teacher."""


class Stated(msgspec.Struct, frozen=True):
    """A number that was estimated, with its 95 % interval."""

    estimate: float
    low: float
    high: float


class Group(msgspec.Struct, frozen=True, kw_only=True):
    """Traffic with a threshold of its own; the promise holds for each group, and for all of them at once."""

    values: tuple[str, ...] = ()
    """Of the tag; empty: everything that no other group names."""
    threshold: float
    n: int
    effective_n: float
    quality_loss: Stated
    """Estimated on the labels; the promise is `Certificate.max_quality_loss`."""
    teacher_share: Stated
    """Expected at this threshold."""


class Certificate(msgspec.Struct, frozen=True, kw_only=True):
    """With probability `confidence` over the draw of the labels, the policy with this threshold loses at most
    `max_quality_loss` of the outcome (1 = an answer) against sending everything it sees to the teacher."""

    schema: int = SCHEMA
    policy: str
    """Name of the policy whose threshold it is about."""
    score: str
    """What the threshold is compared with: `mean_logprob`, calibrated, or `vote`: the policy's own score."""
    method: str
    max_quality_loss: float
    confidence: float
    threshold: float
    """Of requests that no group names."""
    tag: str | None = None
    groups: tuple[Group, ...]
    """By descending number of labels; one without values stands for the rest. Without `tag` it is the only one."""
    n: int
    n_differing: int
    """Of them rows in which one model did better than the other."""
    effective_n: float
    labels: Literal["feedback", "shadow"]
    teacher_assumed_right: bool
    """No answer of the teacher was judged: the loss is that against a teacher without errors, an upper bound."""
    data_sha256: str
    """Of the sorted decision ids with score, loss and weight."""
    seed: int
    """Of the order in which the rows were tested."""
    score_sha256: str = ""
    """Of the artefact that makes the score a probability; empty: the policy's own."""
    student: str
    """As in `DecisionRecord.student`."""
    student_model_sha256: str = ""
    """Of its model, where it comes from a bundle: the same model in another bundle is the same student."""
    teacher: str
    """As in `DecisionRecord.teacher`."""
    teacher_fingerprints: tuple[str, ...] = ()
    """That the teacher's answers stated, where it states any."""
    created_s: float
    first_s: float
    """When the first labelled request arrived, and the last: the promise is about traffic like theirs."""
    last_s: float
    where: str = ""
    """Which records were taken, as options of `locum tune`."""


@dataclass(frozen=True)
class Serving:
    """What serves now, as far as it is known."""

    student: str = ""
    student_model_sha256: str | None = None
    teachers: Collection[str] = ()
    """Names of the models that may answer as teacher; empty = not known."""
    threshold: float | None = None
    """Of the policy, with those by tag."""
    thresholds_by_tag: Mapping[str, float] = field(default_factory=dict)
    score_sha256: str | None = None
    """Of the artefact that the policy's score comes from; None = not known."""
    new_fingerprints: Collection[str] = ()
    """That the teacher states and drift detection did not know."""
    alarms: Collection[str] = ()
    """Detectors of drift whose alarm rings."""
    drift_accepted_s: float = 0.0
    """When somebody last told drift detection to take the traffic for normal as it is."""


def load(path: Path) -> Certificate:
    """Raises: ArtefactError: also when it is of another schema version."""
    loaded = artefact.read(path, Certificate)
    if loaded.schema != SCHEMA:
        raise artefact.ArtefactError(f"{path}: schema {loaded.schema}, this version reads {SCHEMA}; tune again")
    return loaded


def causes_of(certificate: Certificate, serving: Serving) -> tuple[Cause, ...]:
    """Why the certificate is void; empty: it is valid."""
    fingerprints = set(serving.new_fingerprints) - set(certificate.teacher_fingerprints)
    found: dict[Cause, bool] = {
        "student_changed": not _same_student(certificate, serving),
        "teacher_changed": bool(fingerprints) or bool(set(serving.teachers) - {certificate.teacher}),
        "score_changed": bool(certificate.score_sha256)
        and serving.score_sha256 is not None
        and serving.score_sha256 != certificate.score_sha256,
        "threshold_changed": not _same_thresholds(certificate, serving),
        "drift": bool(set(serving.alarms) - {"teacher_fingerprint"})
        or serving.drift_accepted_s > certificate.created_s,
    }
    return tuple(cause for cause in CAUSES if found[cause])


def _same_student(certificate: Certificate, serving: Serving) -> bool:
    if serving.student in NO_STUDENT or serving.student == certificate.student:
        return True
    return bool(certificate.student_model_sha256) and serving.student_model_sha256 == certificate.student_model_sha256


def _same_thresholds(certificate: Certificate, serving: Serving) -> bool:
    """A lower threshold sends more to the teacher; that was proven as well, on the way to this one."""
    if serving.threshold is None:
        return False
    if serving.threshold > certificate.threshold:
        return False
    proven = {value: group.threshold for group in certificate.groups for value in group.values}
    by_tag = serving.thresholds_by_tag
    return all(
        by_tag.get(value, serving.threshold) <= proven.get(value, certificate.threshold)
        for value in proven.keys() | by_tag.keys()
    )


class Standing:
    """Whether the certificate of a policy is valid now. The gateway keeps it up to date; offline nothing voids it but
    what the policy itself is built from."""

    def __init__(self, policy: str, certificate: Certificate, on_void: OnVoid, built: Serving) -> None:
        """
        Args:
            built: student, thresholds and score, which stay what they are for as long as the policy does.
        """
        self.policy = policy
        self.certificate = certificate
        self.on_void: OnVoid = on_void
        self._built = built
        self.causes = causes_of(certificate, built)

    def judge(
        self,
        *,
        teachers: Collection[str] = (),
        new_fingerprints: Collection[str] = (),
        alarms: Collection[str] = (),
        drift_accepted_s: float = 0.0,
    ) -> bool:
        """Look at what has changed around the policy; as in `Serving`. Returns: whether the standing has changed."""
        before = self.causes
        self.causes = causes_of(
            self.certificate,
            replace(
                self._built,
                teachers=teachers,
                new_fingerprints=new_fingerprints,
                alarms=alarms,
                drift_accepted_s=drift_accepted_s,
            ),
        )
        return self.causes != before

    @property
    def valid(self) -> bool:
        return not self.causes

    def as_json(self) -> dict[str, Any]:
        """For the admin API and `/readyz`."""
        certificate = self.certificate
        return {
            "policy": self.policy,
            "status": "valid" if self.valid else "void",
            "causes": list(self.causes),
            "on_void": self.on_void,
            "max_quality_loss": certificate.max_quality_loss,
            "confidence": certificate.confidence,
            "n": certificate.n,
            "teacher_share": msgspec.to_builtins(certificate.groups[-1].teacher_share),
            "created_s": certificate.created_s,
        }

    def describe(self) -> str:
        """One line for people."""
        certificate = self.certificate
        promise = (
            f"at most {100 * certificate.max_quality_loss:.3g} points lost with {certificate.confidence:.4g} "
            f"confidence, by {certificate.n} labels"
        )
        if self.valid:
            return f"{self.policy}: certificate valid: {promise}"
        return f"{self.policy}: certificate void ({', '.join(self.causes)}): nothing is promised; it was: {promise}"


def standing_of(
    table: Mapping[str, Any], policy: object, name: str, student: StudentDefaults | None
) -> Standing | None:
    """The standing of a policy that was built from a table; None: it has no certificate.

    A bundle's certificate is about the bundle's threshold: it counts where the table has none of its own.

    Raises: PolicyConfigError.
    """
    on_void = table.get("on_void", "keep")
    if on_void not in get_args(OnVoid):
        raise PolicyConfigError(f"on_void: must be 'keep' or 'teacher', not {on_void!r}")
    path = table.get("certificate")
    if path is not None and not isinstance(path, str):
        raise PolicyConfigError(f"certificate: must be the path of a file, not {path!r}")
    if path is None and name == "cascade" and table.get("threshold") is None and student is not None:
        path = student.certificate
    if path is None:
        return None
    try:
        certificate = load(Path(path))
    except artefact.ArtefactError as exc:
        raise PolicyConfigError(f"certificate: {exc}") from exc
    if certificate.policy != name:
        raise PolicyConfigError(f"certificate: {path} is about the policy {certificate.policy!r}, not {name!r}")
    by_tag = getattr(policy, "threshold_by_tag", None)
    built = Serving(
        student=student.bundle_id if student is not None else "",
        student_model_sha256=student.model_sha256 if student is not None else None,
        threshold=table.get("threshold", getattr(policy, "used_threshold", None)),
        thresholds_by_tag=by_tag.thresholds if by_tag is not None else {},
        score_sha256=getattr(policy, "score_sha256", None) or getattr(policy, "artefact_sha256", None),
    )
    return Standing(name, certificate, on_void, built)


class CertificateGuard(PolicyModel):
    """Stands before a policy with `on_void = "teacher"`: sends all to the teacher while its certificate is void."""

    def __init__(self, standing: Standing) -> None:
        super().__init__()
        self._standing = standing

    @property
    def name(self) -> str:
        return f"{self._standing.policy}_certificate"

    @property
    def reasons(self) -> frozenset[str]:
        return frozenset({"certificate_void", "certificate_valid"})

    def decide(self, features: RequestFeatures) -> RouteDecision | Abstain | None:
        if self._standing.valid:
            return Abstain(reason="certificate_valid")
        return escalate("certificate_void")
