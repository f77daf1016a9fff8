"""The whole run: teacher, story, baselines, speed, and the figures out of what they left on disk."""

from __future__ import annotations

import asyncio
import json
from dataclasses import asdict
from pathlib import Path
from statistics import mean

import msgspec

from policies.traffic.reader import decisions
from serving.models import prepare_student
from trainer.claim import results
from trainer.claim.baselines import TEACHER_QUANTIZED, Baselines, Distilled, Variant
from trainer.claim.client import Answered, read_answers
from trainer.claim.data import Division, fingerprint, repeated
from trainer.claim.fitting import fitted_teacher
from trainer.claim.settings import Settings
from trainer.claim.speed import measure_speed
from trainer.claim.steps import Ledger, Result
from trainer.claim.story import Story, stage_folder, summary_of


def run(settings: Settings, division: Division, ledger: Ledger) -> Result:
    """Raises: OtherRun, StageError, ServingError, SendingFailed, CommandFailed."""
    ledger.pin({"size": asdict(settings.size), "seed": settings.seed, "data": fingerprint(settings.data)})
    base = prepare_student(lambda message: ledger.progress("prepare the base model")(0, None, message)).path
    teacher = fitted_teacher(settings, base, division.teacher, ledger.progress("train the teacher"))
    asyncio.run(Story(settings, ledger, division, teacher, base).run())
    main_run = ledger.found("train run") or {}
    tokens = stage_folder(main_run["status"], "logprobs")
    distilled = Distilled(tokens / "train.parquet", tokens / "validation.parquet", base)
    student = settings.work / "students" / str(main_run["bundle_id"]) / "model"
    baselines = Baselines(settings, ledger, division)
    variants: list[Variant] = []
    if settings.size.baselines:
        variants = baselines.variants(distilled, teacher, ledger.progress("encode the labels"))
    baselines.train(variants)
    answers = asyncio.run(_ask_all(baselines, variants, division))
    models = {"student": student, "teacher": teacher}
    models |= {each.name: baselines.quantize(each) for each in variants if each.name == TEACHER_QUANTIZED}
    speed = asyncio.run(measure_speed(settings, ledger, models, division.test))
    figures = _figures(settings, ledger, division, speed, {variant.name: answers[variant.name] for variant in variants})
    depth = results.depth_cost(speed, len(settings.size.student_layers), layers_of(base))
    return figures if depth is None else figures | {"depth": depth}


def layers_of(model: Path) -> int:
    """How many transformer layers a Hugging Face model has."""
    return int(json.loads((model / "config.json").read_text(encoding="utf-8"))["num_hidden_layers"])


async def _ask_all(baselines: Baselines, variants: list[Variant], division: Division) -> dict[str, dict[str, Answered]]:
    return {variant.name: await baselines.ask(variant, division.test) for variant in variants}


def _figures(
    settings: Settings,
    ledger: Ledger,
    division: Division,
    speed: Result,
    variants: dict[str, dict[str, Answered]],
) -> Result:
    cases, folder = division.test, settings.work / "answers"
    student, teacher, routed = (
        read_answers(folder / f"test-{name}.jsonl") for name in ("student", "teacher", "routed")
    )
    student = _with_logprobs(student, settings.work / "traffic")
    figures: Result = {"routing": results.routing(cases, student, teacher, routed), "speed": speed}
    teacher_usd = mean(results.teacher_price(teacher[case.id]) for case in cases)
    figures["costs"] = results.costs(figures["routing"]["escalated"]["price"], speed, teacher_usd)
    compared = {name: results.variant(cases, each, teacher) for name, each in variants.items()}
    figures["student"] = results.variant(cases, student, teacher)
    figures["variants"] = {name: row for name, row in compared.items() if "-seed" not in name}
    figures["losses"] = _losses(settings, ledger, figures["student"], compared)
    figures["targets"] = results.targets(figures)
    figures["data"] = fingerprint(settings.data)
    trained = ledger.found("train run") or {}
    figures["gate"] = trained.get("verdict")
    figures["gate_reasons"] = summary_of(trained["status"], "gate").get("reasons", []) if "status" in trained else []
    figures["tune"] = (ledger.found("tune") or {}).get("tuned")
    figures["notes"] = _notes(settings, division, figures)
    return figures


def _with_logprobs(answers: dict[str, Answered], traffic: Path) -> dict[str, Answered]:
    """The answers with the mean logprob that the gateway logged."""
    logged = {record.decision_id: record.mean_logprob for record in decisions(traffic)}
    return {
        key: msgspec.structs.replace(each, mean_logprob=logged.get(each.decision_id)) for key, each in answers.items()
    }


def _losses(settings: Settings, ledger: Ledger, main: Result, compared: dict[str, Result]) -> dict[str, Result]:
    """Losses and seeds side by side; KL and agreement on the validation rows, the rest on the test set."""
    rows = {name: row for name, row in compared.items() if "-seed" in name}
    if not rows:
        return {}
    kl = {name: _kl(ledger.found(f"train {name}") or {}) for name in rows}
    main_kl = _kl(summary_of((ledger.found("train run") or {})["status"], "train"))
    named = {f"decoupled-seed{settings.seed}": main | {"kl": main_kl}}
    return named | {name: row | {"kl": kl[name]} for name, row in rows.items()}


def _kl(trained: Result) -> float | None:
    """KL to the teacher on the validation rows, nats per token, where the training reported one."""
    value = (trained.get("validation") or {}).get("kl")
    return None if value is None else float(value)


def _listed(reasons: list[str]) -> str:
    return "; ".join(reasons) or "the gate gave no reason"


def _notes(settings: Settings, division: Division, figures: Result) -> list[str]:
    size = settings.size
    layers = ", ".join(map(str, size.student_layers))
    return [
        f"Teacher: SmolLM2-135M-Instruct fine-tuned on {size.teacher_labels:,} labels of all {len(division.labels)} "
        "intents (the lowest 6 layers and the embeddings frozen), served by vLLM in bfloat16 as an OpenAI API.",
        f"Traffic: {size.traffic:,} requests without labels through the gateway; the task's grader (an answer must be "
        f"one of the intents) is the quality filter, with a judge on a sample of {size.judge_sample}.",
        f"Student: layers {layers} of the base model, {size.student_epochs:g} epochs of the decoupled "
        f"top-{size.top_k} loss (T = {size.temperature:g}, hard_loss_weight = {size.hard_loss_weight:g}), W8A8.",
        f"Gate: {figures['gate']}, with a margin of {100 * size.gate_margin:g} points on {size.evaluation} sealed "
        "labelled cases; a student of one task is not judged on general suites."
        + (
            "" if figures["gate"] == "pass" else f" Promoted by force all the same: {_listed(figures['gate_reasons'])}."
        ),
        f"Threshold: `locum tune` on {size.tuning} other labelled cases, asked for {100 * size.tuning_share:g} % (less "
        "than 20 % for the sampling error of that many labels, fixed before the test). Nothing was tuned on the "
        "test set.",
        f"{repeated(division)} of the {len(division.test):,} test questions also stand in the training rows word by "
        "word, and BANKING77's own train and test sets contain near-paraphrases of each other; none was taken out.",
    ]
