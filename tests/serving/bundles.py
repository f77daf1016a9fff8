"""Small bundles for tests: a model's folder that passes serving's checks, sealed like the trainer's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from policies.bundle import Bundle, Manifest, TeacherIdentity, Verdict
from serving.bundles import write_bundle
from serving.registry import Registry
from tests.serving.test_checks import configure, write_safetensors


def bundle_fields(name: str = "student", **changes: Any) -> Bundle:
    fields = {"schema": 1, "bundle_id": "", "name": name, "created_s": 1.0, "model_sha256": "", "model_bytes": 0}
    return Bundle(**{**fields, **changes})


def manifest_fields(verdict: Verdict = "pass", **changes: Any) -> Manifest:
    fields: dict[str, Any] = {
        "schema": 1,
        "bundle_id": "",
        "recipe": {},
        "stages": {},
        "teacher": TeacherIdentity(name="teacher", distillation="allowed"),
        "filters": {},
        "licences": {},
        "evaluation_set_sha256": "0" * 64,
        "evaluation": {},
        "verdict": verdict,
        "files": {},
    }
    return Manifest(**{**fields, **changes})


def build(folder: Path, weights: str = "a", *, verdict: Verdict = "pass", **changes: Any) -> Bundle:
    """A finished bundle in `folder`, not in any registry."""
    model = folder / "model"
    model.mkdir(parents=True)
    configure(model)
    (model / "tokenizer.json").write_text(f'{{"weights": "{weights}"}}')
    write_safetensors(model / "model.safetensors")
    if changes.get("calibrator"):
        (folder / changes["calibrator"]).write_text("{}")
    (folder / "report.html").write_text("<p>report</p>")
    reasons = () if verdict == "pass" else ("parity is 3 points below the margin",)
    return write_bundle(folder, bundle_fields(**changes), manifest_fields(verdict, verdict_reasons=reasons))


def added(registry: Registry, weights: str = "a", *, verdict: Verdict = "pass", **changes: Any) -> str:
    """The id of a new bundle in the registry."""
    registry.root.parent.mkdir(parents=True, exist_ok=True)
    folder = registry.root.parent / f"built-{weights}-{verdict}"
    build(folder, weights, verdict=verdict, **changes)
    return registry.add(folder).bundle_id


def pointed(registry: Registry) -> tuple[str, tuple[str, ...]] | None:
    pointer = registry.pointer()
    return (pointer.bundle_id, pointer.earlier) if pointer else None


def entries(registry: Registry) -> list[str]:
    """What is in the registry's folder beside its own notes."""
    return sorted(path.name for path in registry.root.iterdir() if path.name not in (".lock", ".verified"))
