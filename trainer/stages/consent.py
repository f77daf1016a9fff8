"""Consent: only answers whose teacher's licence allows distillation. Unknown means no.

The flag stood in the gateway's configuration when the answer was given, and is part of every record. A teacher that
answers under another fingerprint than before is another teacher: what was learned from it needs another look.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from policies.bundle import Manifest
from serving.errors import RegistryError
from serving.registry import Registry
from trainer.recipe import ConsentOptions, Recipe
from trainer.stage import Json, StageContext, StageError, Summary
from trainer.tables import EXAMPLES, Example, Filter, count_rows, read_examples

PROGRESS_ROWS = 1000
MAX_FINGERPRINTS = 50
ALLOW = 'set distillation = "allowed" under [teacher] of the gateway before the traffic, if the licence allows it'
FIXES = {
    "conditional": "consent.accept_conditional and consent.reason, when the licence's conditions are met",
    "denied": ALLOW,
    "unknown": ALLOW,
}


class Consent:
    name = "consent"
    needs = ("export",)
    version = 1

    def key(self, recipe: Recipe) -> Json:
        options = recipe.consent
        if options.accept_conditional and not options.reason.strip():
            raise StageError("consent.reason: say why conditional answers may be used (it goes into the manifest)")
        return {"accept_conditional": options.accept_conditional, "reason": options.reason}

    def run(self, context: StageContext) -> Summary:
        options = context.recipe.consent
        source = context.inputs["export"] / EXAMPLES
        total = count_rows(source)
        sources: Counter[tuple[str, str, str]] = Counter()
        fingerprints: dict[str, Counter[str]] = {}
        with Filter(context.folder) as table:
            for done, example in enumerate(read_examples(source)):
                if done % PROGRESS_ROWS == 0:
                    context.progress(done, total, "rows")
                sources[_source(example), example.distillation, example.route] += 1
                if (cause := _refusal(example, options)) is not None:
                    table.drop(example.decision_id, cause, _source(example))
                    continue
                table.keep(example)
                if example.route == "teacher":
                    fingerprints.setdefault(example.teacher, Counter())[example.fingerprint or ""] += 1
        alarms = _changes(fingerprints) + _changes_since(fingerprints, context.recipe)
        return table.summary(
            FIXES,
            licences={
                "sources": [_licence(*source, count, options) for source, count in sorted(sources.items())],
                "fingerprints": {
                    teacher: {name: count for name, count in counts.most_common(MAX_FINGERPRINTS)}
                    for teacher, counts in sorted(fingerprints.items())
                },
            },
            alarms=list(alarms),
        )


def _source(example: Example) -> str:
    return example.teacher if example.route == "teacher" else "student, corrected by a human"


def _refusal(example: Example, options: ConsentOptions) -> str | None:
    """Why an example may not be used, as a cause; None: it may."""
    if example.route == "student":
        return None  # the text that is learned is a human's own
    if example.distillation == "allowed" or (example.distillation == "conditional" and options.accept_conditional):
        return None
    return example.distillation if example.distillation in ("conditional", "denied") else "unknown"


def _licence(source: str, flag: str, route: str, count: int, options: ConsentOptions) -> dict[str, Json]:
    """The decision on one source, for the manifest."""
    if route == "student":
        decision, reason = "used", "own model; only the human's correction is learned"
    elif flag == "allowed":
        decision, reason = "used", "the teacher's licence allows distillation"
    elif flag == "conditional" and options.accept_conditional:
        decision, reason = "used", options.reason
    elif flag == "conditional":
        decision, reason = "dropped", "conditional, and the conditions were not accepted (consent.accept_conditional)"
    else:
        decision, reason = "dropped", "not allowed by the teacher's licence, or unknown"
    return {"source": source, "flag": flag, "rows": count, "decision": decision, "reason": reason}


def _changes(fingerprints: dict[str, Counter[str]]) -> list[str]:
    found = []
    for teacher, counts in sorted(fingerprints.items()):
        if len(counts) > 1:
            named = ", ".join(f"{name or 'none'} ({count} rows)" for name, count in counts.most_common(5))
            found.append(
                f"the teacher {teacher} answered under {len(counts)} fingerprints: {named}; it changed while the data "
                "was collected. Choose one version by export.where"
            )
    return found


def _changes_since(fingerprints: dict[str, Counter[str]], recipe: Recipe) -> list[str]:
    """Against the bundle that is served now. A bundle without a manifest says nothing."""
    manifest = _current_manifest(Path(recipe.bundle.registry))
    if manifest is None:
        return []
    before = manifest.teacher
    alarms = []
    if fingerprints and before.name not in fingerprints:
        names = ", ".join(sorted(fingerprints))
        alarms.append(f"the bundle {manifest.bundle_id} learned from {before.name}, this data is by {names}")
    known = manifest.licences.get("fingerprints")
    for teacher, counts in sorted(fingerprints.items()):
        earlier = known.get(teacher) if isinstance(known, dict) else None
        if not isinstance(earlier, dict):
            continue
        if new := sorted(name or "none" for name in counts if name not in earlier):
            alarms.append(
                f"the teacher {teacher} answers under {', '.join(new)}, which the bundle {manifest.bundle_id} has not "
                "seen: another version of the teacher"
            )
    return alarms


def _current_manifest(registry: Path) -> Manifest | None:
    """The manifest of the bundle that is served; None when there is none yet."""
    try:
        known = Registry(registry)
        pointer = known.pointer()
        return None if pointer is None else known.manifest(pointer.bundle_id)
    except RegistryError as exc:
        raise StageError(f"bundle.registry: {exc}") from exc


STAGE = Consent()
