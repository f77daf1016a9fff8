"""Whether the certificate of a policy holds now, and what the policy does when it does not."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
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
from policies.certificate import Around, Certificate, Event, Serving, causes_of, events_of, load

OnVoid = Literal["keep", "teacher"]
"""What a policy does whose certificate is void: go on by the same threshold, or leave everything to the teacher."""


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
        self.sha256 = artefact.encoded(certificate)[1]
        """Which certificate it is: another one that is tuned for the same policy has another."""
        self.on_void: OnVoid = on_void
        self._serving = built
        self.causes = causes_of(certificate, built)

    def judge(self, around: Around) -> bool:
        """Look at what has changed around the policy. Returns: whether the standing has changed."""
        before = self.causes
        self._serving = replace(self._serving, around=around)
        self.causes = causes_of(self.certificate, self._serving)
        return self.causes != before

    @property
    def events(self) -> tuple[Event, ...]:
        """What has happened and is not acknowledged."""
        return events_of(self.certificate, self._serving.around)

    @property
    def lasting_causes(self) -> tuple[str, ...]:
        """What voids it that nobody can acknowledge: something else serves than was proven."""
        without = Around(teachers=self._serving.around.teachers)
        return causes_of(self.certificate, replace(self._serving, around=without))

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
            "first_s": certificate.first_s,
            "sha256": self.sha256,
            "events": [{"cause": event.cause, "what": event.what, "at_s": event.at_s} for event in self.events],
            "acknowledged": msgspec.to_builtins(self._serving.around.acknowledged),
        }

    def describe(self) -> str:
        """One line for people."""
        certificate = self.certificate
        promise = (
            f"at most {100 * certificate.max_quality_loss:.3g} points lost with {certificate.confidence:.4g} "
            f"confidence, by {certificate.n} labels"
        )
        if self.valid:
            known = self._serving.around.acknowledged
            by = f", drift acknowledged by {known.by} at {_utc(known.at_s)}" if known is not None else ""
            return f"{self.policy}: certificate valid{by}: {promise}"
        what = "".join(f"; {event.what[:80]} at {_utc(event.at_s)}" for event in self.events)
        return (
            f"{self.policy}: certificate void ({', '.join(self.causes)}{what}): nothing is promised; it was: {promise}"
        )


def _utc(at_s: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(at_s))


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
        tag=by_tag.tag if by_tag is not None else None,
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
