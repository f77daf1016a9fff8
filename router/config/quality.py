"""How the quality of answers is measured: who else is asked, who grades, and what that may cost."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import Field, StrictInt, field_validator, model_validator

from policies.quality.regression import RegressionError, load_items
from router.addresses import plain_http_url
from router.config.backends import StudentConfig, TeacherConfig
from router.config.base import EnvName, ModelName, Price, Seconds, Table, TokenPrices, WrongKey
from router.config.drift import DriftConfig, RegressionConfig
from router.config.tls import BackendTlsConfig

Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False, strict=True)]
GraderType = Literal["exact", "numeric", "contains", "regex", "json_schema", "embedding", "judge"]
KEYS_OF_GRADERS: dict[str, GraderType] = {"tolerance": "numeric", "pattern": "regex", "schema_file": "json_schema"}
"""Which type each option belongs to."""


class ShadowStratumConfig(Table):
    """Requests with a share of their own; the first stratum whose conditions all hold counts."""

    tags: dict[str, str] = Field(default_factory=dict, description="All of these tags are on the request.")
    min_score: Share | None = Field(None, description="P(the student is inadequate), by the policies, from here on.")
    max_score: Share | None = Field(None, description="... and up to here.")
    near_threshold: Share | None = Field(
        None, description="The score is this near to the threshold that decided: where the policies are uncertain."
    )
    student_share: Share = Field(0.0, description="As `quality.shadow.student_share`, in this stratum.")
    teacher_share: Share = Field(0.0, description="As `quality.shadow.teacher_share`, in this stratum.")

    @model_validator(mode="after")
    def _has_condition(self) -> Self:
        if not self.tags and self.min_score is None and self.max_score is None and self.near_threshold is None:
            raise WrongKey("tags", "is missing: without a condition use quality.shadow.student_share and teacher_share")
        return self


class ShadowConfig(Table):
    """Which answered requests are put to the other model as well. Off while all shares are 0."""

    student_share: Share = Field(0.0, description="Of the student's answers: put to the teacher as well.")
    teacher_share: Share = Field(0.0, description="Of the teacher's answers: put to the student as well.")
    strata: tuple[ShadowStratumConfig, ...] = Field(
        (), description="Shares of single tags or bands of the score, in order; the first that fits counts."
    )
    salt: str = Field("", description="Which requests are drawn follows from their ids and this text.")
    budget_usd_per_day: Price | None = Field(
        5.0, description="Of the other models' answers together, over all workers and replicas; days are UTC."
    )
    max_concurrency: StrictInt = Field(2, ge=1, le=1024, description="Requests at once in each worker.")
    max_queue: StrictInt = Field(
        64, ge=0, description="Drawn requests that wait in each worker; more are skipped, and counted as that."
    )
    deadline_s: Seconds = Field(120.0, description="From the draw to the other model's whole answer.")
    drain_timeout_s: Seconds = Field(5.0, description="At shutdown, what is under way has this long to end.")
    max_student_inflight_requests: StrictInt | None = Field(
        16,
        ge=1,
        description="The student gets no shadow while each of its replicas has as many live requests of this worker. "
        "The limits of `resilience.spill` hold as well.",
    )

    @property
    def enabled(self) -> bool:
        shares = [(self.student_share, self.teacher_share), *((s.student_share, s.teacher_share) for s in self.strata)]
        return any(map(any, shares))


class GraderConfig(Table):
    """What grades two answers to one request. All graders whose tags fit grade; the first score is the metrics'."""

    type: GraderType = Field(
        description="`exact`, `numeric` (the last number), `contains` and `embedding` compare with a label that came "
        "by feedback, else with the teacher's answer; `regex` and `json_schema` look at each answer by itself; `judge` "
        "asks the model of `quality.judge`."
    )
    tags: dict[str, str] = Field(default_factory=dict, description="Only requests with all of these tags.")
    name: str | None = Field(None, pattern=r"^[a-z][a-z0-9_.-]{0,63}$", description="In records; default: the type.")
    tolerance: Annotated[float, Field(ge=0, allow_inf_nan=False, strict=True)] = Field(
        1e-6, description="`numeric`: relative difference that is none."
    )
    pattern: str | None = Field(None, min_length=1, description="`regex`: found somewhere in a good answer.")
    schema_file: str | None = Field(
        None, min_length=1, description="`json_schema`: JSON Schema of good answers; default: the request's own."
    )

    @field_validator("pattern")
    @classmethod
    def _compiles(cls, value: str | None) -> str | None:
        try:
            re.compile(value or "")
        except re.error as exc:
            raise ValueError(f"is no regular expression: {exc}") from exc
        return value

    @model_validator(mode="before")
    @classmethod
    def _fits(cls, data: Any) -> Any:
        """A key without an effect is a mistake."""
        if isinstance(data, dict) and data.get("type") in get_args(GraderType):
            for key, kind in KEYS_OF_GRADERS.items():
                if key in data and data["type"] != kind:
                    raise WrongKey(key, f"has no effect on {data['type']}; it belongs to {kind}")
            if data["type"] == "regex" and not data.get("pattern"):
                raise WrongKey("pattern", "is missing: the regular expression that good answers match")
        return data


class JudgeConfig(TokenPrices):
    """A model that grades both answers from 1 to 5, in both orders."""

    base_url: str = Field(description="OpenAI-compatible endpoint, up to and including `/v1`.")
    model: ModelName = Field(description="The name that the endpoint knows the model by.")
    api_key_env: EnvName | None = Field(None, description="Environment variable that holds the endpoint's key.")
    timeout_s: Seconds = Field(60.0, description="One call.")
    max_concurrency: StrictInt = Field(2, ge=1, le=1024, description="Calls at once in each worker.")
    max_output_tokens: StrictInt = Field(
        32, ge=1, description="Two grades take about 10; a model that reasons needs more."
    )
    budget_usd_per_day: Price | None = Field(
        5.0, description="Over all workers and replicas; days are UTC. When it is spent answers stay ungraded."
    )
    tls: BackendTlsConfig = BackendTlsConfig()

    @field_validator("base_url")
    @classmethod
    def _usable(cls, value: str) -> str:
        return plain_http_url(value)


class QualityConfig(Table):
    """Measuring quality on live traffic; see docs/quality.md."""

    shadow: ShadowConfig = ShadowConfig()
    graders: tuple[GraderConfig, ...] = Field((), description="Who grades; none: answers are kept ungraded.")
    judge: JudgeConfig | None = None
    drift: DriftConfig = DriftConfig()
    regression: RegressionConfig | None = None

    @model_validator(mode="after")
    def _judge_is_there(self) -> Self:
        for index, grader in enumerate(self.graders):
            if grader.type == "judge" and self.judge is None:
                raise WrongKey(
                    f"graders.{index}.type", "the judge needs a [quality.judge] table with base_url and model"
                )
        if self.judge is not None and not any(grader.type == "judge" for grader in self.graders):
            raise WrongKey("judge", 'has no effect: add [[quality.graders]] with type = "judge"')
        return self

    def warnings(self, student: StudentConfig, teacher: TeacherConfig) -> tuple[str, ...]:
        """What is valid and may mislead."""
        found = []
        if self.regression is not None:
            try:
                load_items(Path(self.regression.file), self.regression.max_items)
            except RegressionError as exc:
                found.append(f"quality.regression.file: {exc}")
        if self.graders and not self.shadow.enabled:
            found.append("quality.graders: nothing is graded while all shares of quality.shadow are 0")
        if self.shadow.enabled and not self.graders:
            found.append("quality.graders: there are none, so shadow answers are kept ungraded")
        priced = teacher.price_usd_per_1m_input_tokens is not None
        if self.shadow.enabled and self.shadow.budget_usd_per_day is not None and not priced:
            found.append(
                "quality.shadow.budget_usd_per_day: the teacher's price is unknown, so its answers are charged nothing"
            )
        judge = self.judge
        if judge is None:
            return tuple(found)
        if judge.budget_usd_per_day is not None and judge.price_usd_per_1m_input_tokens is None:
            found.append("quality.judge.budget_usd_per_day: the judge's price is unknown, so it is charged nothing")
        for route, model in (("student", student), ("teacher", teacher)):
            if (judge.base_url, judge.model) == (model.base_url, model.model):
                found.append(
                    f"quality.judge: the judge is the {route} itself, and models prefer their own answers; "
                    "compare its verdicts with people's before you trust them"
                )
        return tuple(found)
