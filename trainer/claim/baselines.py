"""What the result is compared with: models trained otherwise, served and asked in the same way."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import msgspec

from trainer.claim.client import Answered, Plan, send
from trainer.claim.data import Case, Division, accuracy
from trainer.claim.fitting import encoded
from trainer.claim.servers import running_model
from trainer.claim.settings import Settings
from trainer.claim.steps import Ledger, Result
from trainer.environments import run_job
from trainer.jobs.spec import QuantizeSpec, TrainSpec
from trainer.stage import Progress

TEACHER_QUANTIZED = "teacher-quantized"
"""The baseline that is also measured for speed."""


@dataclass(frozen=True)
class Variant:
    """One model beside the main student."""

    name: str
    what: str
    """For the table."""
    spec: TrainSpec | None
    """How it is trained; None: `model` as it is."""
    model: Path | None = None


@dataclass(frozen=True)
class Distilled:
    """What the main run left that the variants are trained on."""

    train: Path
    validation: Path
    base: Path


class Baselines:
    """Trains, quantizes, serves and asks every variant; each step is done once."""

    def __init__(self, settings: Settings, ledger: Ledger, division: Division) -> None:
        self._settings = settings
        self._ledger = ledger
        self._division = division

    def variants(self, distilled: Distilled, teacher: Path, progress: Progress) -> list[Variant]:
        """The baselines, and with `compare` and `seeds` the losses and repetitions."""
        settings, size = self._settings, self._settings.size
        folder = settings.work / "variants"
        labels = encoded(self._division.teacher, distilled.base, folder / "labels", progress)
        main = self._spec(distilled, distilled.train, "main")
        change = msgspec.structs.replace
        found = [
            Variant(TEACHER_QUANTIZED, "the teacher quantized, not distilled", None, teacher),
            Variant(
                "student-labels",
                f"the same pruned student on the teacher's {size.teacher_labels:,} human labels only",
                change(self._spec(distilled, labels, "student-labels"), method="sft", epochs=size.label_epochs),
            ),
            Variant(
                "student-random",
                "the same student distilled from random weights",
                change(main, init="random", out=str(folder / "student-random")),
            ),
        ]
        if settings.compare:
            for loss in ("ce", "renormalised"):
                name = f"{loss}-seed{settings.seed}"
                spec = self._seeded(main, name, settings.seed)
                spec = change(spec, hard_loss_weight=1.0) if loss == "ce" else change(spec, loss="renormalised")
                found.append(Variant(name, f"loss {loss}, seed {settings.seed}", spec))
        for seed in range(settings.seed + 1, settings.seed + settings.seeds):
            name = f"decoupled-seed{seed}"
            found.append(Variant(name, f"the student, seed {seed}", self._seeded(main, name, seed)))
        return found

    def _seeded(self, spec: TrainSpec, name: str, seed: int) -> TrainSpec:
        return msgspec.structs.replace(spec, seed=seed, out=str(self._settings.work / "variants" / name))

    def _spec(self, distilled: Distilled, tokens: Path, name: str) -> TrainSpec:
        size = self._settings.size
        return TrainSpec(
            base_model=str(distilled.base),
            train=str(tokens),
            validation=str(distilled.validation),
            out=str(self._settings.work / "variants" / name),
            layers=size.student_layers,
            method="topk",
            temperature=size.temperature,
            hard_loss_weight=size.hard_loss_weight,
            epochs=size.student_epochs,
            learning_rate=size.student_learning_rate,
            threads=1,
            seed=self._settings.seed,
        )

    def train(self, variants: Sequence[Variant]) -> None:
        """Train what is not trained yet, one on each core. Raises: StageError."""
        with ThreadPoolExecutor(max_workers=len(self._settings.cores)) as pool:
            for done in [pool.submit(self._train_one, variant) for variant in variants if variant.spec]:
                done.result()

    def _train_one(self, variant: Variant) -> None:
        name = f"train {variant.name}"
        if variant.spec is None or self._ledger.found(name):
            return
        self._ledger.keep(
            name, run_job("train", "trainer.jobs.train", variant.spec, progress=self._ledger.progress(name))
        )

    def quantize(self, variant: Variant) -> Path:
        """The variant's quantized folder. Raises: StageError."""
        out = self._settings.work / "variants" / variant.name / "quantized"
        source = Path(variant.spec.out) / "model" if variant.spec else variant.model
        if not self._ledger.found(f"quantize {variant.name}"):
            progress = self._ledger.progress(f"quantize {variant.name}")
            spec = QuantizeSpec(model=str(source), out=str(out), scheme="W8A8")
            self._ledger.keep(
                f"quantize {variant.name}", run_job("quantize", "trainer.jobs.quantize", spec, progress=progress)
            )
        return out

    async def ask(self, variant: Variant, cases: Sequence[Case]) -> dict[str, Answered]:
        """The answers of the quantized variant to the test cases; served on all cores, since this measures no speed."""
        settings = self._settings
        path = settings.work / "answers" / f"{variant.name}.jsonl"
        if not self._ledger.found(f"test {variant.name}"):
            model = self.quantize(variant)
            show = self._ledger.progress(f"test {variant.name}")
            async with running_model(model, variant.name, settings.cores, settings, show) as url:
                answers = await send(cases, Plan(url, variant.name, logprobs=True), path, show)
            result: Result = {"accuracy": accuracy(cases, {key: a.text for key, a in answers.items()})}
            self._ledger.keep(f"test {variant.name}", result)
        return await send(cases, Plan("", variant.name), path, self._ledger.progress(variant.name))
