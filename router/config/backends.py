"""The models: where the student and the teacher answer, and what they cost."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, StrictBool, StrictInt, ValidationError, ValidationInfo, field_validator, model_validator

from router.addresses import plain_http_url
from router.config.base import (
    EnvName,
    ModelName,
    NativeApi,
    Price,
    Seconds,
    TokenPrices,
    WrongKey,
    env_name,
    model_name,
)
from router.config.resilience import Continuation, FallbackTeacherConfig, ReplicaConfig, Spread
from router.config.tls import BackendTlsConfig
from serving.options import VllmOptions, VllmSettings


class BackendConfig(TokenPrices):
    """One model behind an OpenAI-compatible endpoint."""

    base_url: str = Field(description="Up to and including `/v1`; http or https.")
    model: ModelName = Field(description="The name that the backend knows the model by.")
    api_key_env: EnvName | None = Field(None, description="Environment variable that holds the backend's key.")
    context_window_tokens: StrictInt | None = Field(
        None, ge=1, description="Context window; default: asked from the backend's `/v1/models`."
    )
    connect_timeout_s: Seconds = Field(2.0, description="Time to open a connection.")
    first_token_timeout_s: Seconds = Field(30.0, description="Streams: time from the call to the first event.")
    idle_timeout_s: Seconds = Field(30.0, description="Streams: longest gap between two events.")
    request_timeout_s: Seconds = Field(
        300.0, description="The whole call; for plain answers the only limit after connecting."
    )
    max_connections: StrictInt = Field(1024, ge=1, description="Open connections to the backend.")
    native_apis: tuple[NativeApi, ...] = Field(
        (),
        description="What the backend speaks beside chat and completions. `responses`, `messages`: requests of "
        "`/v1/responses`, `/v1/messages` are forwarded untouched; without it they are translated to chat.",
    )
    tls: BackendTlsConfig = BackendTlsConfig()
    capture_token_ids: StrictBool = Field(
        False,
        description="Plain answers at capture level `full`: have the backend tell the token ids (vLLM's "
        "`return_token_ids`), record them and cut them out of the answer. Training needs the teacher's.",
    )

    @field_validator("base_url")
    @classmethod
    def _usable(cls, value: str) -> str:
        return plain_http_url(value)


PLACEHOLDER_URL = "http://127.0.0.1/v1"
"""Stands for what cannot be derived from wrong options; a configuration with it is never returned."""


def _check_derived(options: VllmSettings) -> None:
    """Complain about an option under its own name, not the one of the key that it becomes."""
    for key, check, value in (
        ("host", plain_http_url, options.base_url),
        ("api_key_env", env_name, options.api_key_env),
        ("served_model_name", model_name, options.served_model_name),
    ):
        if value is not None:
            try:
                check(value)
            except ValueError as exc:
                raise WrongKey(f"vllm.{key}", str(exc)) from exc


def _vllm(value: Any, registry: object) -> VllmSettings:
    """The model comes from the registry, where there is one. Raises: ValidationError."""
    return (VllmSettings if registry else VllmOptions).model_validate(value)


def _check_registry(student: dict[str, Any], vllm: Any) -> None:
    """What a bundle brings along cannot be configured as well. Raises: WrongKey."""
    if isinstance(vllm, VllmOptions) or (isinstance(vllm, dict) and "model" in vllm):
        raise WrongKey("vllm.model", "excludes student.registry: the promoted bundle is the model; remove one of them")
    if student.get("tokenizer"):
        raise WrongKey("tokenizer", "excludes student.registry: every bundle has its own; remove one of them")


def _check_replicas(student: dict[str, Any]) -> None:
    """Raises: WrongKey."""
    for key, table in (("base_url", "base_url"), ("vllm", "[student.vllm]"), ("registry", "registry")):
        if student.get(key):
            raise WrongKey(key, f"excludes [[student.replicas]]: remove {table}, or the replicas")


def _check_names(names: list[str], key: str) -> None:
    """Raises: WrongKey."""
    for index, name in enumerate(names):
        if name in names[:index]:
            raise WrongKey(f"{key}.name", f"{name!r} names two of them; give each its own")


class StudentConfig(BackendConfig):
    """The student: one or several URLs, or vLLM launched and supervised with `[student.vllm]`, there with a model of
    its own or with the promoted bundle of a registry."""

    base_url: str = Field(
        "", description="The student's endpoint; leave out with `[student.vllm]` or `[[student.replicas]]`."
    )
    replicas: tuple[ReplicaConfig, ...] = Field(
        (), description="Several endpoints that serve the same student; requests are spread over them."
    )
    spread: Spread = Field(
        "session",
        description="Which replica gets a request: `least_loaded`; `session`, the one that has the conversation "
        "(`router.session`) already; `prefix`, the one that has seen the beginning of the prompt. A replica with "
        "more than its share of the load is passed over; without a session the less loaded of two is taken.",
    )
    registry: str | None = Field(
        None,
        min_length=1,
        description="Folder of the bundles (`locum student`): the promoted one is served by `[student.vllm]`, which "
        "then names no model, and replaced without a restart.",
    )
    model: ModelName = Field("student", description="The name that the backend knows the model by.")
    machine_usd_per_hour: Price | None = Field(
        None,
        description="What the machine of one endpoint costs, busy or not: its time is measured and shared out among "
        "the requests in flight. Without token prices it is what the student's answers cost.",
    )
    first_token_timeout_s: Seconds = Field(10.0, description="Streams: time from the call to the first event.")
    tokenizer: str | None = Field(
        None,
        description="The student's `tokenizer.json` (or its folder) for exact prompt lengths; without it the "
        "length estimate stands. Default: that of `[student.vllm]`'s model.",
    )
    capture_logprobs: StrictBool = Field(
        False,
        description="Have the student tell its tokens' logprobs, record their mean and cut them out of the answer; "
        "the policy `cascade` implies it.",
    )
    vllm: VllmOptions | VllmSettings | None = Field(None, description="Launch vLLM as a supervised child.")

    @model_validator(mode="before")
    @classmethod
    def _endpoint_of_the_child(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        if data.get("replicas"):
            _check_replicas(data)
            first = data["replicas"][0] if isinstance(data["replicas"], list | tuple) else None
            return {**data, "base_url": first.get("base_url") if isinstance(first, dict) else PLACEHOLDER_URL}
        vllm = data.get("vllm")
        if vllm is None:
            if data.get("registry"):
                raise WrongKey("registry", "needs a [student.vllm] table, which says how its bundles are served")
            if not data.get("base_url"):
                raise WrongKey(
                    "base_url",
                    "is missing: give the student's endpoint, a [student.vllm] table, or [[student.replicas]]",
                )
            return data
        if data.get("base_url"):
            raise WrongKey("base_url", "excludes [student.vllm]: remove one of them")
        if data.get("registry"):
            _check_registry(data, vllm)
        try:
            options = _vllm(vllm, data.get("registry"))
        except ValidationError:  # reported once more, at its place, when the field `vllm` is validated
            return {**data, "base_url": PLACEHOLDER_URL}
        _check_derived(options)
        return {
            **data,
            "vllm": options,
            "base_url": options.base_url,
            "model": data.get("model", options.served_model_name),
            "api_key_env": data.get("api_key_env", options.api_key_env),
            "context_window_tokens": data.get("context_window_tokens", options.context_window_tokens),
        }

    @model_validator(mode="after")
    def _distinct_replicas(self) -> StudentConfig:
        _check_names([name for name, _ in self.endpoints()], "replicas")
        return self

    def endpoints(self) -> list[tuple[str, StudentConfig]]:
        """(name, configuration) of each endpoint that serves this student."""
        if not self.replicas:
            return [("student", self)]
        return [
            (
                replica.name or f"student-{number}",
                self.model_copy(
                    update={
                        "base_url": replica.base_url,
                        "api_key_env": replica.api_key_env or self.api_key_env,
                        "machine_usd_per_hour": self.machine_usd_per_hour
                        if replica.machine_usd_per_hour is None
                        else replica.machine_usd_per_hour,
                    }
                ),
            )
            for number, replica in enumerate(self.replicas, 1)
        ]

    @property
    def model_folder(self) -> Path | None:
        """Of the model that `[student.vllm]` names."""
        return Path(self.vllm.model) if isinstance(self.vllm, VllmOptions) else None

    @field_validator("vllm", mode="before")
    @classmethod
    def _with_or_without_model(cls, value: Any, info: ValidationInfo) -> Any:
        return value if value is None or isinstance(value, VllmSettings) else _vllm(value, info.data.get("registry"))


class TeacherConfig(BackendConfig):
    """The teacher's API."""

    model: ModelName = Field("teacher", description="The name that the backend knows the model by.")
    distillation: Literal["allowed", "conditional", "denied"] = Field(
        "denied", description="Whether the teacher's licence allows training on its answers."
    )
    continuation: Continuation = Field(
        "instruction",
        description="How it is asked to go on from an answer that a late alarm of the cascade stopped. "
        "`final_message`: the text so far is the last message, and vLLM's `continue_final_message` is set; "
        "`instruction`: a message behind it asks to continue, which any chat model understands.",
    )
    fallbacks: tuple[FallbackTeacherConfig, ...] = Field(
        (), description="Further teachers in order; each is asked when those before it cannot answer."
    )

    @model_validator(mode="after")
    def _distinct_teachers(self) -> TeacherConfig:
        _check_names([name for name, _ in self.in_order()], "fallbacks")
        return self

    def in_order(self) -> list[tuple[str, TeacherConfig]]:
        """(name, configuration) of each teacher, the first one first."""
        teachers = [("teacher", self)]
        for number, fallback in enumerate(self.fallbacks, 2):
            own = {key: getattr(fallback, key) for key in FallbackTeacherConfig.model_fields if key != "name"}
            changes = {**own, "context_window_tokens": None, "fallbacks": ()}
            teachers.append((fallback.name or f"teacher-{number}", self.model_copy(update=changes)))
        return teachers
