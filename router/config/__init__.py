"""The configuration file: one table a module, each key with its meaning, its default and what it accepts."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from router.addresses import is_loopback
from router.config.backends import BackendConfig, StudentConfig, TeacherConfig
from router.config.base import (
    RESERVED_MODEL_NAMES,
    ConfigError,
    RouteName,
    Table,
    WrongKey,
    model_name,
)
from router.config.documents import AdminConfig
from router.config.embeddings import EmbeddingsConfig
from router.config.limits import AuthConfig, LimitsConfig, TenantConfig
from router.config.quality import QualityConfig
from router.config.resilience import ResilienceConfig
from router.config.routing import DEFAULT_OUTPUT_FRACTION, DEFAULT_OUTPUT_TOKENS, EncoderConfig, RoutingConfig
from router.config.server import ServerConfig
from router.config.services import LogConfig
from router.config.state import CacheConfig, StateConfig
from router.config.telemetry import TelemetryConfig

__all__ = [
    "DEFAULT_OUTPUT_FRACTION",
    "DEFAULT_OUTPUT_TOKENS",
    "AdminConfig",
    "AuthConfig",
    "BackendConfig",
    "CacheConfig",
    "Config",
    "ConfigError",
    "EmbeddingsConfig",
    "EncoderConfig",
    "LimitsConfig",
    "LogConfig",
    "QualityConfig",
    "ResilienceConfig",
    "RouteName",
    "RoutingConfig",
    "ServerConfig",
    "StateConfig",
    "StudentConfig",
    "TeacherConfig",
    "TelemetryConfig",
    "TenantConfig",
    "WrongKey",
]


class Config(Table):
    """The whole file."""

    server: ServerConfig = ServerConfig()
    student: StudentConfig
    teacher: TeacherConfig
    routing: RoutingConfig = RoutingConfig()
    encoder: EncoderConfig = EncoderConfig()
    embeddings: EmbeddingsConfig | None = None
    resilience: ResilienceConfig = ResilienceConfig()
    aliases: dict[str, Literal["auto", "student", "teacher"]] = Field(
        default_factory=dict,
        description='Further model names that clients may use, e.g. `gpt-4o-mini = "auto"`.',
    )
    state: StateConfig = StateConfig()
    cache: CacheConfig = CacheConfig()
    log: LogConfig = LogConfig()
    quality: QualityConfig = QualityConfig()
    telemetry: TelemetryConfig | None = None
    auth: AuthConfig | None = None
    limits: LimitsConfig = LimitsConfig()
    admin: AdminConfig = AdminConfig()
    tenants: dict[str, TenantConfig] = Field(default_factory=dict, description="Limits of single tenants, by name.")

    @field_validator("aliases")
    @classmethod
    def _new_names(cls, value: dict[str, Any]) -> dict[str, Any]:
        for name in value:
            key = name if re.fullmatch(r"[A-Za-z0-9_-]+", name, re.ASCII) else json.dumps(name)
            if name in RESERVED_MODEL_NAMES:
                raise WrongKey(key, "this name has its meaning already; choose another")
            try:
                model_name(name)
            except ValueError as exc:
                raise WrongKey(key, f"the name {exc}") from exc
        return value

    @model_validator(mode="after")
    def _known_models(self) -> Config:
        for key, table in (("limits", self.limits), *((f"tenants.{name}", it) for name, it in self.tenants.items())):
            for model in table.allowed_models or ():
                if model not in RESERVED_MODEL_NAMES and model not in self.aliases:
                    raise WrongKey(
                        f"{key}.allowed_models", f"{model[:80]!r} is none of auto, student, teacher and the aliases"
                    )
        return self

    @model_validator(mode="after")
    def _guarded(self) -> Config:
        if self.auth is None and not is_loopback(self.server.host):
            raise WrongKey(
                "server.host",
                f"{self.server.host!r} is reachable from outside; add an [auth] table, or listen on 127.0.0.1",
            )
        return self

    @model_validator(mode="after")
    def _shadows_are_kept(self) -> Config:
        if self.quality.shadow.enabled and not (self.log.dir and self.log.capture == "full"):
            raise WrongKey(
                "quality.shadow",
                'needs the traffic log: set log.dir, and log.capture = "full", or remove the shares',
            )
        return self

    def warnings(self) -> tuple[str, ...]:
        """What is valid and may do less, or other, than was meant. Raises: PolicyConfigError."""
        return (
            *self.routing.warnings(),
            *self._price_warnings(),
            *self.quality.warnings(self.student, self.teacher),
        )

    def _price_warnings(self) -> tuple[str, ...]:
        """Of one half of a bill."""
        unpriced = [
            name
            for name, endpoint in self.student.endpoints()
            if not endpoint.has_token_prices and endpoint.machine_usd_per_hour is None
        ]
        if not unpriced or not self.teacher.has_token_prices:
            return ()
        which = "" if unpriced == ["student"] else f" ({', '.join(unpriced)})"
        return (
            f"student: the teacher has prices and the student{which} has none, so what its answers cost, and what they "
            "save, is unreported; set machine_usd_per_hour, or price_usd_per_1m_input_tokens and ..._output_tokens",
        )

    def secret_env_names(self) -> list[tuple[str, str]]:
        """(key, variable) of every environment variable that the file names."""
        named = [
            ("student.api_key_env", self.student.api_key_env),
            ("teacher.api_key_env", self.teacher.api_key_env),
            ("embeddings.api_key_env", self.embeddings.api_key_env if self.embeddings else None),
            ("student.vllm.api_key_env", self.student.vllm.api_key_env if self.student.vllm else None),
            *((f"student.replicas.{n}.api_key_env", r.api_key_env) for n, r in enumerate(self.student.replicas)),
            *((f"teacher.fallbacks.{n}.api_key_env", t.api_key_env) for n, t in enumerate(self.teacher.fallbacks)),
            ("quality.judge.api_key_env", self.quality.judge.api_key_env if self.quality.judge else None),
            ("auth.keys_env", self.auth.keys_env if self.auth else None),
            ("auth.admin_key_env", self.auth.admin_key_env if self.auth else None),
            ("state.password_env", self.state.password_env),
            ("telemetry.headers_env", self.telemetry.headers_env if self.telemetry else None),
            *self.log.storage_env_names(),
        ]
        return [(key, name) for key, name in named if name is not None]

    def unset_secrets(self, environ: Mapping[str, str] = os.environ) -> list[str]:
        """A sentence for each named variable that is unset or empty."""
        return [
            f"{key}: the environment variable {name} is not set"
            for key, name in self.secret_env_names()
            if not environ.get(name)
        ]
