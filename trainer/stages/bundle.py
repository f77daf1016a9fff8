"""Stage `bundle`: model, calibrator, reports and provenance as one immutable folder in the registry.

A candidate that failed is bundled as well, with its verdict: what was built stays inspectable, and `locum student
promote` refuses it.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

import msgspec

from policies import corpus
from policies.bundle import BUNDLE_SCHEMA_VERSION, Bundle, Manifest, TeacherIdentity, Verdict
from serving.bundles import write_bundle
from serving.errors import RegistryError
from serving.registry import Registry
from serving.store import remove
from trainer import funnel, run_folder
from trainer.evaluation.closeness import tokenizer_sha256
from trainer.evaluation.served import context_window_tokens
from trainer.recipe import Recipe
from trainer.stage import Json, StageContext, StageError, Summary
from trainer.stages import STAGE_NAMES
from trainer.stages.split import TRAIN
from trainer.tables import read_examples

ADDED = "added.json"
FUNNEL_STAGES = STAGE_NAMES[: STAGE_NAMES.index("split") + 1]
REPORTS = ("report.html", "report.json")


class BundleStage:
    """The last stage."""

    name = "bundle"
    needs: tuple[str, ...] = STAGE_NAMES[:-1]
    version = 1

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock

    def key(self, recipe: Recipe) -> Json:
        """What goes into the bundle that no stage before it depends on.

        The recipe in the manifest is the one that built it: where something is served or how many requests run at once
        is stated there, and makes no other bundle.
        """
        return {
            "name": recipe.name,
            "bundle": recipe.bundle.model_dump(mode="json"),
            "teacher": [recipe.teacher.model, recipe.teacher.version, recipe.teacher.licence, recipe.teacher.top_k],
            "tokenizer": tokenizer_sha256(recipe),
        }

    def run(self, context: StageContext) -> Summary:
        recipe, folder = context.recipe, context.folder / "bundle"
        remove(folder)  # what an interrupted run left
        folder.mkdir()
        try:
            registry = Registry(Path(recipe.bundle.registry))
            before = _current_manifest(registry)
            _link_tree(context.inputs["quantize"] / "model", folder / "model")
            calibrated = _copy(context.inputs["recalibrate"] / "calibrator.json", folder)
            for name in REPORTS:
                _copy(context.inputs["gate"] / name, folder)
            _write_funnel(context, folder)
            _write_prompts(context, folder)
            manifest = _manifest(context, before)
            written = write_bundle(folder, _bundle(context, calibrated, self._clock()), manifest)
            registry.root.mkdir(parents=True, exist_ok=True)
            added = registry.add(folder)
        except RegistryError as exc:
            raise StageError(f"bundle.registry: {exc}") from exc
        summary: Summary = {
            "bundle_id": added.bundle_id,
            "registry": str(registry.root),
            "verdict": manifest.verdict,
            "model_bytes": written.model_bytes,
            "cascade_threshold": written.cascade_threshold,
            "alarms": list(manifest.alarms),
        }
        (context.folder / ADDED).write_bytes(msgspec.json.format(msgspec.json.encode(summary), indent=1) + b"\n")
        return summary


def _bundle(context: StageContext, calibrated: bool, created_s: float) -> Bundle:
    recipe = context.recipe
    threshold = context.summaries["recalibrate"].get("threshold")
    scheme = recipe.quantize.scheme
    return Bundle(
        schema=BUNDLE_SCHEMA_VERSION,
        bundle_id="",
        name=recipe.name,
        created_s=created_s,
        model_sha256="",
        model_bytes=0,
        quantization=None if scheme == "none" else scheme,
        context_window_tokens=context_window_tokens(context.inputs["quantize"] / "model"),
        calibrator="calibrator.json" if calibrated else None,
        cascade_threshold=threshold if calibrated and isinstance(threshold, float) else None,
        price_usd_per_1m_input_tokens=recipe.bundle.price_usd_per_1m_input_tokens,
        price_usd_per_1m_output_tokens=recipe.bundle.price_usd_per_1m_output_tokens,
    )


def _manifest(context: StageContext, before: Manifest | None) -> Manifest:
    recipe, gate = context.recipe, context.summaries["gate"]
    teacher = teacher_identity(recipe, context.summaries)
    report = msgspec.json.decode((context.inputs["gate"] / "report.json").read_bytes(), type=dict[str, Any])
    licences = context.summaries["consent"].get("licences")
    return Manifest(
        schema=BUNDLE_SCHEMA_VERSION,
        bundle_id="",
        recipe=recipe.model_dump(mode="json"),
        stages=_addresses(context.inputs),
        teacher=teacher,
        filters={name: cast(object, dict(context.summaries[name])) for name in FUNNEL_STAGES},
        licences=dict(licences) if isinstance(licences, dict) else {},
        evaluation_set_sha256=recipe.evaluate.sha256,
        evaluation=report,
        verdict=cast(Verdict, gate["verdict"]),
        verdict_reasons=tuple(str(each) for each in _list(gate.get("reasons"))),
        files={},
        alarms=(*_alarms(context.summaries), *teacher_changes(teacher, before)),
    )


def teacher_identity(recipe: Recipe, summaries: Mapping[str, Summary]) -> TeacherIdentity:
    """Who answered the traffic, as the records say, and what the recipe states about it.

    The fingerprint is what the endpoint stated and answered to fixed probes during the evaluation.
    """
    licences = summaries["consent"].get("licences")
    seen = licences.get("fingerprints") if isinstance(licences, dict) else None
    name, recorded = _most_frequent(seen if isinstance(seen, dict) else {})
    probed = summaries["evaluate"].get("teacher_fingerprint")
    return TeacherIdentity(
        name=name or recipe.teacher.model,
        version=recipe.teacher.version,
        fingerprint=probed if isinstance(probed, str) and probed else recorded,
        tokenizer_sha256=tokenizer_sha256(recipe) or "",
        distillation=_flag(licences if isinstance(licences, dict) else {}),
        licence=recipe.teacher.licence,
        decoding={
            "training": "as each client asked; the requests are in the traffic log",
            "rescoring_temperature": 1.0,
            "rescoring_top_k": recipe.teacher.top_k,
            "evaluation_temperature": 0.0,
            "evaluation_max_tokens": recipe.evaluate.max_output_tokens,
        },
    )


def _most_frequent(seen: Mapping[str, Json]) -> tuple[str, str]:
    """Teacher and fingerprint with most rows; empty when no row was a teacher's."""
    rows = [
        (count, teacher, fingerprint)
        for teacher, counts in seen.items()
        if isinstance(counts, dict)
        for fingerprint, count in counts.items()
        if isinstance(count, int)
    ]
    _, teacher, fingerprint = max(rows, default=(0, "", ""))
    return teacher, fingerprint


def _flag(licences: Mapping[str, Json]) -> Any:
    """The strictest licence flag among the sources that were used."""
    sources = licences.get("sources")
    flags = {
        str(each.get("flag"))
        for each in (sources if isinstance(sources, list) else [])
        if isinstance(each, dict) and each.get("decision") == "used"
    }
    return next((flag for flag in ("conditional", "allowed") if flag in flags), "denied")


def teacher_changes(teacher: TeacherIdentity, before: Manifest | None) -> tuple[str, ...]:
    """An alarm for everything about the teacher that is not as the current bundle knew it."""
    if before is None:
        return ()
    old = before.teacher
    pairs = (
        ("name", old.name, teacher.name),
        ("version", old.version, teacher.version),
        ("fingerprint", old.fingerprint, teacher.fingerprint),
        ("tokenizer", old.tokenizer_sha256, teacher.tokenizer_sha256),
        ("licence", old.licence, teacher.licence),
    )
    return tuple(
        f"the teacher's {what} has changed since {before.bundle_id}: {was or 'none'} -> {now or 'none'}"
        for what, was, now in pairs
        if was != now
    )


def _alarms(summaries: Mapping[str, Summary]) -> list[str]:
    return [f"{name}: {each}" for name, summary in summaries.items() for each in _list(summary.get("alarms"))]


def _list(value: Json) -> list[Json]:
    return value if isinstance(value, list) else []


def _addresses(inputs: Mapping[str, Path]) -> dict[str, str]:
    records = {name: run_folder.read_record(folder) for name, folder in inputs.items()}
    return {name: record.address for name, record in records.items() if record is not None}


def _write_funnel(context: StageContext, folder: Path) -> None:
    """The report of what was dropped, from the very stages that this bundle was made of."""
    records = [(run_folder.read_record(each), each) for each in context.inputs.values()]
    finished = [(record, each) for record, each in records if record is not None]
    if finished:
        funnel.write(funnel.build(context.recipe.name, finished), folder)


def _write_prompts(context: StageContext, folder: Path) -> None:
    """Hashes of what was trained on, so that a gateway can tell whether a regression set is apart from it."""
    table = context.inputs["split"] / TRAIN
    if table.is_file():
        rows = read_examples(table)
        corpus.write(folder / corpus.FILE, (corpus.prompt_digest(msgspec.json.decode(row.messages)) for row in rows))


def _current_manifest(registry: Registry) -> Manifest | None:
    current = registry.current()
    return registry.manifest(current.bundle_id) if current else None


def _link_tree(source: Path, target: Path) -> None:
    """The files of a folder, hard-linked where the file system allows it, links in it followed."""
    for path in sorted(source.rglob("*")):
        if path.is_file():
            to = target / path.relative_to(source)
            to.parent.mkdir(parents=True, exist_ok=True)
            try:
                os.link(path.resolve(), to)
            except OSError:
                shutil.copyfile(path, to)


def _copy(source: Path, folder: Path) -> bool:
    if not source.is_file():
        return False
    shutil.copyfile(source, folder / source.name)
    return True


STAGE = BundleStage()
