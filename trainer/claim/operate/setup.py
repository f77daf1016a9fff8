"""What a run needs: the models and questions of a claim folder, and a gateway in front of them."""

from __future__ import annotations

import json
import random
import shutil
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from serving.demo.settings import free_port
from serving.demo.stack import CHILD_STOP_TIMEOUT_S
from serving.registry import Registry
from trainer.claim.client import Answered, read_answers
from trainer.claim.data import Case
from trainer.claim.servers import WINDOW_TOKENS
from trainer.claim.settings import TEACHER_USD_PER_1M_INPUT, TEACHER_USD_PER_1M_OUTPUT, Settings

CAUTIOUS_SHARE = 0.75
"""Of the requests, that the teacher answers to begin with, as `locum tune` predicted it."""
STUDENT_USD_PER_1M_INPUT = 0.02
STUDENT_USD_PER_1M_OUTPUT = 0.04
"""Stated prices, so that the bill does not depend on how busy this machine is; by machine time the student cost the
claim about half of that."""
STUDENT_SAMPLE = 0.5
"""Of the student's answers, put to the teacher as well: much, since this traffic is small."""
TEACHER_SAMPLE = 1.0
"""Of the teacher's: the cascade's draft is the student's answer, so it costs nothing."""
TENANT = "bank"
KEYS_ENV, ADMIN_KEY_ENV = "LOCUM_API_KEYS", "LOCUM_ADMIN_KEY"


class NoClaim(ValueError):
    """The folder holds no finished claim, or too small a one."""


@dataclass(frozen=True)
class Claim:
    """What a finished claim leaves."""

    work: Path
    teacher: Path
    """Folder of the model."""
    bundle_id: str
    cautious_threshold: float
    cases: tuple[Case, ...]
    """Test questions: nothing was trained or tuned on them."""

    def teacher_answers(self) -> dict[str, Answered]:
        """What the teacher alone answered to the test questions; empty where that is not there."""
        return read_answers(self.work / "answers" / "test-teacher.jsonl")

    def halves(self, count: int) -> tuple[tuple[Case, ...], tuple[Case, ...]]:
        """So many questions at random, the same for each run. Raises: NoClaim: there are fewer."""
        if count > len(self.cases):
            raise NoClaim(f"{self.work} has {len(self.cases):,} test questions, fewer than --questions {count:,}")
        drawn = random.Random(0).sample(self.cases, count)  # noqa: S311 - a reproducible draw, no secret
        return tuple(drawn[: count // 2]), tuple(drawn[count // 2 :])


def read_claim(work: Path) -> Claim:
    """Raises: NoClaim; RegistryError."""
    try:
        recipe = tomllib.loads((work / "recipe.toml").read_text(encoding="utf-8"))
        tuned = json.loads((work / "steps" / "tune.json").read_bytes())["tuned"]
        lines = (work / "test.jsonl").read_text(encoding="utf-8").splitlines()
    except FileNotFoundError as exc:
        raise NoClaim(f"{exc.filename} is missing: --work must name the folder of a finished `make claim`") from exc
    bundle = Registry(work / "students").current()
    if bundle is None:
        raise NoClaim(f"{work / 'students'} has no current bundle: `make claim` has not promoted a student yet")
    return Claim(
        work=work,
        teacher=Path(recipe["teacher"]["tokenizer"]),
        bundle_id=bundle.bundle_id,
        cautious_threshold=cautious(tuned["curve"]),
        cases=tuple(_case(json.loads(line)) for line in lines),
    )


def _case(row: dict[str, object]) -> Case:
    messages = row["messages"]
    assert isinstance(messages, list)  # noqa: S101 - `write_cases` wrote it
    return Case(str(row["id"]), str(messages[-1]["content"]), str(row["label"]))


def cautious(curve: Sequence[dict[str, float]]) -> float:
    """The threshold of `locum tune`'s curve that leaves about CAUTIOUS_SHARE with the teacher."""
    return min(curve, key=lambda point: abs(point["teacher_share"] - CAUTIOUS_SHARE))["threshold"]


def own_registry(claim: Claim, folder: Path) -> Path:
    """A copy of the current bundle: a gateway writes into its registry, and the claim's stays as it is."""
    source, copy = claim.work / "students", folder / "students"
    shutil.copytree(source / claim.bundle_id, copy / claim.bundle_id)
    for name in ("current.json", "history.jsonl"):
        shutil.copy2(source / name, copy / name)
    pointer = json.loads((copy / "current.json").read_bytes())
    (copy / "current.json").write_text(json.dumps(pointer | {"earlier": []}), encoding="utf-8")
    return copy


def student_of(registry: Path, settings: Settings) -> str:
    """Tables of the registry's student, on the claim's cores."""
    python = [f"python = {json.dumps(settings.serving_python)}"] if settings.serving_python else []
    lines = [
        "[student]",
        f"registry = {json.dumps(str(registry))}",
        "first_token_timeout_s = 60.0",
        *STUDENT_PRICES,
        "",
        "[student.vllm]",
        f"port = {free_port()}",
        *python,
        f"context_window_tokens = {WINDOW_TOKENS}",
        "max_num_seqs = 32",
        "enable_prefix_caching = false",
        f"cpu_omp_threads_bind = {json.dumps(','.join(map(str, settings.student_cores)))}",
        f"shutdown_timeout_s = {CHILD_STOP_TIMEOUT_S}",
        f"log_file = {json.dumps(str(settings.work / 'student.log'))}",
    ]
    return "\n".join(lines)


STUDENT_PRICES = (
    f"price_usd_per_1m_input_tokens = {STUDENT_USD_PER_1M_INPUT}",
    f"price_usd_per_1m_output_tokens = {STUDENT_USD_PER_1M_OUTPUT}",
)


def gateway_toml(folder: Path, port: int, *, student: str, teacher_url: str, cascade: str) -> str:
    """The configuration of the guide, with a student and a first threshold.

    Args:
        student: its tables.
        cascade: options of the policy, one a line.
    """
    return f"""\
# Written by `make guide`.
[server]
port = {port}

{student}

[teacher]
base_url = {json.dumps(teacher_url)}
model = "teacher"
distillation = "allowed"
context_window_tokens = {WINDOW_TOKENS}
first_token_timeout_s = 120.0
price_usd_per_1m_input_tokens = {TEACHER_USD_PER_1M_INPUT}
price_usd_per_1m_output_tokens = {TEACHER_USD_PER_1M_OUTPUT}

[[routing.policies]]
type = "cascade"
{cascade}

[log]
dir = {json.dumps(str(folder / "traffic"))}

[quality.shadow]
student_share = {STUDENT_SAMPLE}
teacher_share = {TEACHER_SAMPLE}
max_concurrency = 8
max_queue = 10000
deadline_s = 600.0

[[quality.graders]]
type = "exact"

[admin]
dir = {json.dumps(str(folder / "admin"))}

[auth]
keys_env = "{KEYS_ENV}"
admin_key_env = "{ADMIN_KEY_ENV}"
"""
