"""The recipe of `locum train run`: every key, its default and what it means."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
EnvName = Annotated[str, Field(pattern=r"^[A-Z_][A-Z0-9_]{0,127}$")]


class RecipeError(ValueError):
    """The recipe cannot be used. Each problem names its key and the fix."""

    def __init__(self, source: str, problems: list[str]) -> None:
        super().__init__("\n".join(f"{source}: {problem}" for problem in problems))
        self.problems = problems


class Table(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


class Endpoint(Table):
    """An OpenAI-compatible endpoint that is already running."""

    base_url: str = Field(description="Up to and including `/v1`.")
    model: str = Field(description="The name that the endpoint knows the model by.")
    api_key_env: EnvName | None = Field(None, description="Environment variable that holds its key.")
    concurrency: int = Field(8, ge=1, le=256, description="Requests in flight at once.")
    timeout_s: Positive = Field(120.0, description="For one request.")


class ExportOptions(Table):
    log_dir: str = Field(description="Folder of the traffic log.")
    where: str | None = Field(None, description="SQL condition over the records, as in `locum log query`.")
    routes: tuple[Literal["teacher", "student"], ...] = Field(
        ("teacher",), description="Whose answers to learn from; the student's own only where a correction exists."
    )
    max_records: int | None = Field(None, ge=1, description="At most this many, the newest.")


class ConsentOptions(Table):
    accept_conditional: bool = Field(False, description="Also take answers whose licence flag is `conditional`.")
    reason: str = Field("", description="Why conditional answers may be used; required with accept_conditional.")


class QualityOptions(Table):
    judge: Endpoint | None = Field(None, description="The judge; without one answers stay unscored.")
    judge_sample: int | None = Field(None, ge=0, description="Judge only this many, at random; default: all.")
    min_score: int = Field(4, ge=1, le=5, description="Judged answers below this are dropped.")
    keep_unscored: bool = Field(True, description="Keep answers that the judge did not score or was not asked about.")
    grader: Literal["none", "one_of"] = Field(
        "none", description="The task's own check: `one_of` keeps answers out of `choices`."
    )
    choices: tuple[str, ...] = Field((), description="The answers that `one_of` accepts.")
    max_prompt_chars: int = Field(200_000, ge=1, description="Longer requests are dropped.")
    max_completion_chars: int = Field(50_000, ge=1, description="Longer answers are dropped.")


class DedupeOptions(Table):
    minhash_threshold: Share = Field(0.9, description="Jaccard similarity of 5-character shingles; 1 = off.")
    cosine: Share = Field(0.95, description="Cosine of the prompts' embeddings, equal numerals required; 1 = off.")
    encoder: str | None = Field(None, description="Folder of a sentence-transformers model; default: the pinned one.")


class DecontaminateOptions(Table):
    ngram: int = Field(13, ge=3, description="Shared word n-grams that make a leak (shorter texts: the whole text).")
    cosine: Share = Field(0.92, description="Cosine against an evaluation prompt that makes a leak; 1 = off.")


class SplitOptions(Table):
    validation_share: Share = Field(0.05, description="Share of sessions held out for the validation loss, the newest.")
    seed: int = Field(0, ge=0, description="Breaks ties among sessions of the same time.")


class TeacherOptions(Endpoint):
    tokenizer: str | None = Field(None, description="Folder with the teacher's tokenizer; needed for `topk`.")
    top_k: int = Field(20, ge=1, le=256, description="Logprobs kept for each token (16-64 is usual).")
    version: str = Field("", description="Stated in the manifest.")
    licence: str = Field("", description="Stated in the manifest.")


class StudentOptions(Table):
    base_model: str = Field(description="Folder of the Hugging Face model to start from.")
    layers: tuple[int, ...] | None = Field(None, description="Layers to keep (depth pruning), ascending; default: all.")
    init: Literal["pretrained", "random"] = Field("pretrained", description="`random` is for baselines.")


class TrainOptions(Table):
    method: Literal["topk", "sft"] = Field("topk", description="`topk`: decoupled top-K loss; `sft`: cross entropy.")
    loss: Literal["decoupled", "renormalised"] = Field(
        "decoupled", description="`renormalised` top-K is ill-posed at temperatures above 1 and here for comparison."
    )
    adapter: Literal["full", "lora"] = Field("full", description="LoRA is merged into the base before quantizing.")
    lora_rank: int = Field(16, ge=1, le=512, description="Rank of LoRA's matrices.")
    lora_scale: Positive = Field(32.0, description="LoRA's numerator: updates are scaled by lora_scale / lora_rank.")
    epochs: Positive = Field(3.0, le=100, description="Passes over the training rows.")
    max_steps: int | None = Field(None, ge=1, description="Ends training early.")
    learning_rate: Positive = Field(5e-4, description="Highest one; it warms up and falls to zero.")
    warmup_share: Share = Field(0.05, description="Share of the steps in which the learning rate rises.")
    batch_size: int = Field(16, ge=1, description="Examples in one optimizer step.")
    micro_batch_size: int | None = Field(None, ge=1, description="Examples at once; default: batch_size.")
    temperature: Positive = Field(2.0, description="T of the top-K loss.")
    hard_loss_weight: Share = Field(0.3, description="h: weight of the cross entropy.")
    freeze_layers: int = Field(0, ge=0, description="Lowest layers that are not trained.")
    freeze_embeddings: bool = Field(False, description="Leave the embeddings, and a tied head, as they are.")
    max_tokens: int = Field(1024, ge=8, description="Examples longer than this are dropped, never cut.")
    precision: Literal["float32", "bfloat16"] = Field("bfloat16", description="Of the matrix products (autocast).")
    threads: int | None = Field(None, ge=1, description="CPU threads; default: torch's own.")
    checkpoint_interval_s: Positive = Field(60.0, description="What a crash can cost.")
    seed: int = Field(0, ge=0, description="Of the order of examples and of random weights.")

    @model_validator(mode="before")
    @classmethod
    def _explain_refusals(cls, values: Any) -> Any:
        if isinstance(values, dict):
            if "alpha" in values:
                raise ValueError(
                    "alpha: this name means the weight of the soft loss in some papers and of the hard one in others; "
                    "write hard_loss_weight (the weight of the cross entropy), or lora_scale for LoRA's numerator"
                )
            if values.get("method") in ("cot", "multi_stage"):
                raise ValueError(f"method: {values['method']!r} is not built yet; use 'topk' or 'sft'")
        return values


class QuantizeOptions(Table):
    scheme: Literal["none", "W8A8", "W4A16", "AWQ", "FP8"] = Field("W8A8", description="llm-compressor's scheme.")
    group_size: int | None = Field(None, ge=16, description="W4A16: must divide the hidden size; default: 128 or 64.")
    calibration_samples: int = Field(128, ge=1, description="Training prompts that calibrate W4A16 and AWQ.")
    min_agreement: Share = Field(0.9, description="Least agreement with the unquantized twin; less fails.")


class EvaluateOptions(Table):
    dataset: str = Field(description="JSONL of human-labelled cases: id, messages, label, category.")
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$", description="Of the data set; pinned before anything is exported.")
    provenance: Literal["human"] = Field(description="Who labelled it: `human`. Nothing else may decide a promotion.")
    grader: Literal["exact", "numeric", "contains"] = Field("exact", description="How an answer is compared.")
    max_output_tokens: int = Field(64, ge=1, description="Of each answer.")
    previous_student: str | None = Field(None, description="Bundle folder to compare with; default: the current one.")
    general_cases: int = Field(100, ge=0, description="Cases of each general suite; 0 = off.")
    safety: bool = Field(True, description="Run the refusal, jailbreak, bias and out-of-distribution sets.")
    speed_requests: int = Field(128, ge=1, description="Requests of the speed measurement.")
    machine_usd_per_hour: Positive = Field(0.10, description="Prices the measured cost of student and teacher alike.")
    vllm: dict[str, Any] = Field(default_factory=dict, description="Options of [student.vllm] for serving candidates.")


class GateOptions(Table):
    margin: Share = Field(0.02, description="Accuracy that the student may lose against the teacher, overall.")
    category_margin: Share = Field(0.10, description="... and in each category (Holm over the categories).")
    min_category_cases: int = Field(30, ge=2, description="Smaller categories are pooled into `other`.")
    confidence: float = Field(0.95, gt=0.5, lt=1, description="Of each one-sided test with its bound.")
    max_general_drop: Share | None = Field(
        0.05, description="Largest drop on a general suite against the previous student, or the base model; "
        "`none` is written as max_general_drop = 1 for a student of a single task.",
    )  # fmt: skip
    max_safety_drop: Share = Field(0.05, description="Largest loss on each safety set against previous and teacher.")


class RecalibrateOptions(Table):
    labels: str | None = Field(None, description="JSONL like the evaluation set, disjoint from it; default: none.")
    max_teacher_share: Share | None = Field(0.2, description="Sets the cascade's threshold; default: 20 % escalate.")


class BundleOptions(Table):
    registry: str = Field("students", description="Folder of the registry.")
    price_usd_per_1m_input_tokens: float | None = Field(None, ge=0, description="The student's price.")
    price_usd_per_1m_output_tokens: float | None = Field(None, ge=0, description="The student's price.")


class Environments(Table):
    """Interpreters; each default is an environment that the command creates and keeps."""

    train_python: str | None = Field(None, description="Default: LOCUM_TRAIN_PYTHON, then .venv-train.")
    quantize_python: str | None = Field(None, description="Default: LOCUM_QUANTIZE_PYTHON, then .venv-quantize.")
    serving_python: str | None = Field(None, description="Interpreter with vLLM; default: .venv-serving.")


class Recipe(Table):
    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,47}$", description="Names the run and its bundles.")
    work_dir: str = Field("runs", description="Stages keep their output in <work_dir>/<name>/.")
    export: ExportOptions
    consent: ConsentOptions = ConsentOptions()
    quality: QualityOptions = QualityOptions()
    dedupe: DedupeOptions = DedupeOptions()
    decontaminate: DecontaminateOptions = DecontaminateOptions()
    split: SplitOptions = SplitOptions()
    teacher: TeacherOptions
    student: StudentOptions
    train: TrainOptions = TrainOptions()
    quantize: QuantizeOptions = QuantizeOptions()
    evaluate: EvaluateOptions
    gate: GateOptions = GateOptions()
    recalibrate: RecalibrateOptions = RecalibrateOptions()
    bundle: BundleOptions = BundleOptions()
    environments: Environments = Environments()


def load(path: Path) -> Recipe:
    """Read a recipe; relative paths in it are relative to the current folder. Raises: RecipeError."""
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as exc:
        raise RecipeError(str(path), [str(exc)]) from exc
    try:
        return Recipe.model_validate(values)
    except ValidationError as exc:
        problems = [f"{'.'.join(map(str, error['loc']))}: {error['msg']}" for error in exc.errors(include_url=False)]
        raise RecipeError(str(path), problems) from exc
