"""`bundle.json` and `manifest.json`: what the trainer writes and what serving promotes. One definition for both.

A bundle is a folder `<registry>/<bundle id>/`:

    bundle.json         what is served: model, quantization, calibrator, thresholds
    manifest.json       where it comes from: teacher, data, filters, licences, evaluation, verdict
    model/              Hugging Face layout, quantized
    calibrator.json     P(the student is wrong) from its mean logprob (policies/calibration.py)
    certificate.json    what is proven of the threshold (policies/certificate.py), where it was tuned with a guarantee
    report.html, report.json, funnel.html, funnel.json

`<registry>/current.json` is the one pointer (serving/registry.py).
"""

from __future__ import annotations

from typing import Literal

import msgspec

BUNDLE_SCHEMA_VERSION = 1

Verdict = Literal["pass", "fail", "inconclusive"]


class Bundle(msgspec.Struct, frozen=True, kw_only=True):
    """What the gateway needs to know to serve one student. Immutable once written."""

    schema: int
    bundle_id: str
    """`<name>-<12 hex digits of the content>`; labels metrics, records and the header `x-router-student`."""
    name: str
    created_s: float
    model: str = "model"
    """Folder of the model, relative to the bundle."""
    model_sha256: str
    """Over the names and hashes of the model's files (`content_hash`)."""
    model_bytes: int
    quantization: str | None = None
    """`W8A8`, `W4A16`, ...; None = as trained."""
    context_window_tokens: int | None = None
    calibrator: str | None = None
    """File relative to the bundle; None = no cascade."""
    cascade_threshold: float | None = None
    """P(the student is wrong) above which the teacher answers; set by recalibration or `locum tune`."""
    certificate: str | None = None
    """File relative to the bundle: what is proven of the threshold (policies/certificate.py); None = nothing."""
    price_usd_per_1m_input_tokens: float | None = None
    price_usd_per_1m_output_tokens: float | None = None


class TeacherIdentity(msgspec.Struct, frozen=True, kw_only=True):
    """Who the student learned from."""

    name: str
    version: str = ""
    fingerprint: str = ""
    """What the endpoint states about itself and how it answers fixed probes; a change raises an alarm."""
    tokenizer_sha256: str = ""
    distillation: Literal["allowed", "conditional", "denied"]
    licence: str = ""
    decoding: dict[str, float | int | str | bool] = {}


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """The provenance of one bundle."""

    schema: int
    bundle_id: str
    recipe: dict[str, object]
    """The recipe with every default, as JSON."""
    stages: dict[str, str]
    """Stage -> content address of its output."""
    teacher: TeacherIdentity
    filters: dict[str, object]
    """The funnel: rows in and out by stage and cause."""
    licences: dict[str, object]
    """The decision for each source of data."""
    evaluation_set_sha256: str
    evaluation: dict[str, object]
    """The figures of report.json that the gate judged."""
    verdict: Verdict
    verdict_reasons: tuple[str, ...] = ()
    files: dict[str, str]
    """Path relative to the bundle -> sha256, of every file but the manifest."""
    alarms: tuple[str, ...] = ()
    derived_from: str | None = None
    """The bundle whose model this one shares; only calibrator and threshold differ (`locum tune`)."""
