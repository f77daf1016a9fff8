"""The certificate of a threshold: what it promises, from which data, and whether that still holds.

`locum tune --confidence` proves on labelled requests that a threshold loses at most so much quality. The proof is about
one student, one teacher, one score and traffic like that of the labels. When one of them changes, nothing has become
worse for certain; but nothing is promised any more, and the certificate is void: while another student, teacher, score
or threshold serves, and once the traffic has drifted until the threshold is tuned again or somebody answers for it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple, get_args

import msgspec

from policies import artefact

SCHEMA = 1

Cause = Literal["student_changed", "teacher_changed", "score_changed", "threshold_changed", "drift"]
CAUSES: tuple[Cause, ...] = get_args(Cause)
NO_STUDENT = frozenset({"", "none"})
"""Names of a student that is not there yet: whether it will be the right one is not known."""


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


class Acknowledged(msgspec.Struct, frozen=True, kw_only=True):
    """Somebody has looked at what had happened, and says that the promise holds all the same."""

    at_s: float
    """What happened later is not meant."""
    by: str
    comment: str
    policy: str = ""


class Event(NamedTuple):
    """Something that happened and voids a certificate until it is tuned again or the event acknowledged."""

    cause: Cause
    what: str
    """A detector of drift, `reference`, or a fingerprint of the teacher."""
    at_s: float


@dataclass(frozen=True)
class Around:
    """What goes on around a policy, as far as it is known."""

    teachers: Collection[str] = ()
    """Names of the models that may answer as teacher; empty = not known."""
    fingerprints: Mapping[str, float] = field(default_factory=dict)
    """That the teacher has stated and drift detection did not know, and when they were first seen."""
    rang: Mapping[str, float] = field(default_factory=dict)
    """When the last alarm of each detector of drift began, whether it rings still or not."""
    drift_accepted_s: float = 0.0
    """When somebody last told drift detection to take the traffic for normal as it is."""
    acknowledged: Acknowledged | None = None


@dataclass(frozen=True)
class Serving:
    """What serves now, as far as it is known."""

    student: str = ""
    student_model_sha256: str | None = None
    threshold: float | None = None
    """Of the policy, with those by tag."""
    thresholds_by_tag: Mapping[str, float] = field(default_factory=dict)
    tag: str | None = None
    """By whose values they differ."""
    score_sha256: str | None = None
    """Of the artefact that the policy's score comes from; None = not known."""
    around: Around = Around()


def load(path: Path) -> Certificate:
    """Raises: ArtefactError: also when it is of another schema version."""
    loaded = artefact.read(path, Certificate)
    if loaded.schema != SCHEMA:
        raise artefact.ArtefactError(f"{path}: schema {loaded.schema}, this version reads {SCHEMA}; tune again")
    return loaded


def causes_of(certificate: Certificate, serving: Serving) -> tuple[Cause, ...]:
    """Why the certificate is void; empty: it is valid."""
    happened = {event.cause for event in events_of(certificate, serving.around)}
    found: dict[Cause, bool] = {
        "student_changed": not _same_student(certificate, serving),
        "teacher_changed": "teacher_changed" in happened or bool(set(serving.around.teachers) - {certificate.teacher}),
        "score_changed": bool(certificate.score_sha256)
        and serving.score_sha256 is not None
        and serving.score_sha256 != certificate.score_sha256,
        "threshold_changed": not _same_thresholds(certificate, serving),
        "drift": "drift" in happened,
    }
    return tuple(cause for cause in CAUSES if found[cause])


def events_of(certificate: Certificate, around: Around) -> tuple[Event, ...]:
    """What has happened to the certificate, in order of time. An alarm that ends, and a fingerprint that is not stated
    any more, take nothing back: nobody knows what the answers were meanwhile, or whether it was only the window that
    moved on. Labels that were all made after it know it already."""
    events = [
        *(
            Event("teacher_changed", fingerprint, seen_s)
            for fingerprint, seen_s in around.fingerprints.items()
            if fingerprint not in certificate.teacher_fingerprints and seen_s > certificate.first_s
        ),
        *(
            Event("drift", detector, began_s)
            for detector, began_s in around.rang.items()
            if detector != "teacher_fingerprint" and began_s > certificate.first_s
        ),
    ]
    if around.drift_accepted_s > certificate.created_s:
        events.append(Event("drift", "reference", around.drift_accepted_s))
    known_s = around.acknowledged.at_s if around.acknowledged is not None else 0.0
    return tuple(sorted((event for event in events if event.at_s > known_s), key=lambda event: event.at_s))


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
    if by_tag and certificate.tag is not None and serving.tag != certificate.tag:
        # Which of the proven groups a request is in does not follow from its threshold.
        return max(serving.threshold, *by_tag.values()) <= min(certificate.threshold, *proven.values())
    return all(
        by_tag.get(value, serving.threshold) <= proven.get(value, certificate.threshold)
        for value in proven.keys() | by_tag.keys()
    )
