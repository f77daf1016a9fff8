"""The recipe of the run: what a user would write for this task."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from trainer.claim.client import MAX_OUTPUT_TOKENS
from trainer.claim.settings import Settings

RECIPE_NAME = "intents"


@dataclass(frozen=True)
class RecipeParts:
    """What the recipe points at."""

    evaluation: Path
    evaluation_sha256: str
    tuning: Path
    teacher_url: str
    teacher_model: Path
    base_model: Path
    labels: tuple[str, ...]
    judge_url: str | None


def recipe_toml(settings: Settings, parts: RecipeParts) -> str:
    """The recipe's text; strings are written as JSON, which TOML reads the same way."""
    size, work, q = settings.size, settings.work, json.dumps
    judge = [
        f"judge_sample = {size.judge_sample}",
        "[quality.judge]",
        f"base_url = {q(parts.judge_url)}",
        'model = "judge"',
        "concurrency = 2",
        "timeout_s = 600",
    ]
    lines = [
        "# Written by `make claim`.",
        f"name = {q(RECIPE_NAME)}",
        f"work_dir = {q(str(work / 'runs'))}",
        "[export]",
        f"log_dir = {q(str(work / 'traffic'))}",
        "[teacher]",
        f"base_url = {q(parts.teacher_url)}",
        'model = "teacher"',
        f"tokenizer = {q(str(parts.teacher_model))}",
        f"top_k = {size.top_k}",
        'version = "SmolLM2-135M-Instruct fine-tuned on BANKING77 labels"',
        'licence = "Apache-2.0 weights, CC BY 4.0 labels"',
        "[student]",
        f"base_model = {q(str(parts.base_model))}",
        f"layers = {list(size.student_layers)}",
        "[train]",
        'method = "topk"',
        f"epochs = {size.student_epochs}",
        f"learning_rate = {size.student_learning_rate}",
        f"temperature = {size.temperature}",
        f"hard_loss_weight = {size.hard_loss_weight}",
        f"threads = {len(settings.cores)}",
        f"seed = {settings.seed}",
        "[quantize]",
        'scheme = "W8A8"',
        f"min_agreement = {0.9 if size.safety else 0.0}",
        "[evaluate]",
        f"dataset = {q(str(parts.evaluation))}",
        f"sha256 = {q(parts.evaluation_sha256)}",
        'provenance = "human"',
        f"max_output_tokens = {MAX_OUTPUT_TOKENS}",
        f"safety = {q(size.safety)}",
        f"general_cases = {100 if size.safety else 0}",
        f"speed_requests = {size.speed_requests}",
        "[evaluate.vllm]",
        "context_window_tokens = 512",
        f"cpu_omp_threads_bind = {q(','.join(map(str, settings.student_cores)))}",
        "[gate]",
        f"margin = {size.gate_margin}",
        f"category_margin = {size.gate_category_margin}",
        "max_general_drop = 1.0",
        "[recalibrate]",
        f"labels = {q(str(parts.tuning))}",
        f"max_teacher_share = {size.tuning_share}",
        "[bundle]",
        f"registry = {q(str(work / 'students'))}",
        "[quality]",
        'grader = "one_of"',
        f"choices = {q(list(parts.labels))}",
        *(judge if parts.judge_url else []),
        *(["[environments]", f"serving_python = {q(settings.serving_python)}"] if settings.serving_python else []),
    ]
    return "\n".join(lines) + "\n"
