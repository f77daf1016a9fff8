"""Stage `quantize`: the trained student in fewer bits, checked by serving it and by agreement with its twin.

The twin is the unquantized model; the quantized one answers as it will in production, from vLLM.
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import msgspec

from policies.durable import write_atomically
from trainer.calls import all_or_first_error
from trainer.environments import run_job
from trainer.evaluation.endpoint import ModelClient
from trainer.evaluation.served import Serve, folder_bytes, serve
from trainer.jobs.spec import PredictSpec, QuantizeSpec
from trainer.recipe import Recipe
from trainer.stage import Json, Progress, StageContext, StageError, Summary
from trainer.tables import count_rows

COMPARED_EXAMPLES = 200
REPORT = "quantize.json"


class RunJob(Protocol):
    def __call__(
        self, environment: Any, module: str, spec: msgspec.Struct, *, python: str | None, progress: Progress
    ) -> dict[str, Any]: ...


@dataclass(frozen=True)
class Agreement:
    """How often both models find the same token most likely, over the tokens of answers in the validation set."""

    tokens: int
    same: int

    @property
    def share(self) -> float:
        return self.same / self.tokens if self.tokens else 0.0


class QuantizeStage:
    name = "quantize"
    needs: tuple[str, ...] = ("logprobs", "train")
    version = 1

    def __init__(self, serve: Serve = serve, run_job: RunJob = run_job) -> None:
        """Tests pass their own."""
        self._serve = serve
        self._run_job = run_job

    def key(self, recipe: Recipe) -> Json:
        """All options, `min_agreement` too, though it changes no weight: a finished stage is not looked at again, and a
        recipe that asks for more agreement must not take a model that was let through with less."""
        key: Json = recipe.quantize.model_dump(mode="json")
        return key

    def run(self, context: StageContext) -> Summary:
        recipe, twin = context.recipe, context.inputs["train"] / "model"
        model = context.folder / "model"
        report: dict[str, Any] = {"scheme": recipe.quantize.scheme, "bytes_before": folder_bytes(twin)}
        if recipe.quantize.scheme == "none":
            shutil.rmtree(model, ignore_errors=True)
            shutil.copytree(twin, model)
        else:
            if not (model / "config.json").is_file():
                report |= self._quantize(context, twin, model)
            report |= self._check(context, twin, model)
        report["bytes_after"] = folder_bytes(model)
        write_atomically(context.folder / REPORT, msgspec.json.format(msgspec.json.encode(report), indent=1) + b"\n")
        return {name: value for name, value in report.items() if name != "versions"}

    def _quantize(self, context: StageContext, twin: Path, model: Path) -> dict[str, Any]:
        options = context.recipe.quantize
        spec = QuantizeSpec(
            model=str(twin.resolve()),
            out=str(model.resolve()),
            scheme=options.scheme,  # type: ignore[arg-type] # "none" is handled by the caller
            group_size=options.group_size,
            calibration=str((context.inputs["logprobs"] / "train.parquet").resolve()),
            calibration_samples=options.calibration_samples,
            threads=context.recipe.train.threads,
        )
        python = context.recipe.environments.quantize_python
        return self._run_job("quantize", "trainer.jobs.quantize", spec, python=python, progress=context.progress)

    def _check(self, context: StageContext, twin: Path, model: Path) -> dict[str, Any]:
        recipe = context.recipe
        held_out = context.inputs["logprobs"] / "validation.parquet"
        rows = held_out if count_rows(held_out) else held_out.with_name("train.parquet")
        spec = PredictSpec(
            model=str(twin.resolve()), rows=str(rows.resolve()), max_tokens=recipe.train.max_tokens,
            max_examples=COMPARED_EXAMPLES,
        )  # fmt: skip
        python = recipe.environments.train_python
        found = self._run_job("train", "trainer.jobs.predict", spec, python=python, progress=context.progress)
        agreement = asyncio.run(self._agreement(model, recipe, found["examples"], context.progress))
        if agreement.share < recipe.quantize.min_agreement:
            raise StageError(
                f"quantize.min_agreement: the quantized model agrees with its twin on {agreement.share:.3f} of "
                f"{agreement.tokens} tokens, less than {recipe.quantize.min_agreement}; choose another "
                "scheme, or lower it"
            )
        return {
            "agreement": round(agreement.share, 4), "compared_tokens": agreement.tokens,
            "compared_examples": len(found["examples"]), "compared_on": rows.stem,
        }  # fmt: skip

    async def _agreement(
        self, model: Path, recipe: Recipe, examples: Sequence[Mapping[str, Any]], progress: Progress
    ) -> Agreement:
        """Serve the model and ask for its most likely token at every token of the answers."""
        who = "the quantized student"
        async with self._serve(model, recipe, who, progress) as endpoint, ModelClient(endpoint, who) as client:
            return await compare(client, examples, progress)


async def compare(client: ModelClient, examples: Sequence[Mapping[str, Any]], progress: Progress) -> Agreement:
    """Raises: StageError: the endpoint gives no prompt_logprobs."""
    waiting = iter(examples)
    tokens = same = done = 0

    async def work() -> None:
        nonlocal tokens, same, done
        for example in waiting:
            prompt, completion = example["prompt_ids"], example["completion_ids"]
            entries = await client.prompt_logprobs([*prompt, *completion], 1)
            if entries is None:
                raise StageError(
                    "quantize: the served model gives no prompt_logprobs; raise evaluate.vllm.max_logprobs"
                )
            for entry, best in zip(entries[len(prompt) :], example["best"], strict=True):
                # The actual token is listed as well; the most likely one comes out on top.
                same += entry is not None and max(entry, key=lambda token: entry[token]) == best
                tokens += 1
            done += 1
            progress(done, len(examples), "answers compared")

    await all_or_first_error([work() for _ in range(client.endpoint.concurrency)])
    return Agreement(tokens, same)


STAGE = QuantizeStage()
