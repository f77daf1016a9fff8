"""`[log]`: where the traffic log is kept beyond its segments, how long, and under which keys."""

from __future__ import annotations

from typing import Annotated
from urllib.parse import urlsplit

from pydantic import Field, StrictBool, StrictInt, StrictStr, field_validator, model_validator

from policies.traffic.folder import Storage
from router.config.base import EnvName, Table, WrongKey


class LogStorageConfig(Table):
    """The part of `[log]` that whoever reads the log has to know as well: the gateway writes it to storage.json."""

    store: str = Field(
        "",
        description="Where compacted files go: a URL that fsspec knows (`s3://bucket/log`, `file:///srv/log`, ...); "
        '"": `compacted/` in the folder. Several gateways may share one.',
    )
    store_options: dict[str, StrictStr | StrictInt | StrictBool] = Field(
        default_factory=dict,
        description='Options of the store\'s fsspec package, e.g. `endpoint_url = "https://minio:9000"`; no secrets.',
    )
    store_secret_env: dict[str, EnvName] = Field(
        default_factory=dict,
        description='Secret options, by the environment variables that hold them: `key = "MINIO_KEY"`.',
    )
    compact_every_s: Annotated[float, Field(ge=0, le=86_400, allow_inf_nan=False, strict=True)] = Field(
        0.0,
        description="How often a child process of low priority compacts the log and applies retention_days; 0 = never. "
        "Needs the [loop] extra.",
    )
    retention_days: StrictInt = Field(
        0, ge=0, le=36_500, description="Records are removed when they are older, with their feedback; 0 = never."
    )
    subject_key_env: EnvName | None = Field(
        None,
        description="Environment variable with the key (16 characters or more; several with commas, the first one is "
        "used) that a record's `subject` is hashed with; without it a plain SHA-256.",
    )
    encryption_key_env: EnvName | None = Field(
        None,
        description="Environment variable with the key (base64 of 32 bytes; several with commas, the first one writes) "
        "that segments and compacted files are encrypted with.",
    )

    @field_validator("store")
    @classmethod
    def _url(cls, value: str) -> str:
        if not value:
            return value
        try:
            parts = urlsplit(value)
        except ValueError as exc:
            raise ValueError("is not a URL") from exc
        if parts.password is not None or parts.query or parts.fragment:
            raise ValueError("must be a URL without password and query; secrets belong in store_secret_env")
        if not parts.scheme or not (parts.netloc or parts.path.strip("/")):
            raise ValueError("must be a URL with a place in the store, for example s3://bucket/locum-log")
        if parts.scheme == "file" and (parts.netloc or not parts.path.startswith("/")):
            raise ValueError("must name the whole path: file:///srv/locum-log")
        return value.rstrip("/")

    @model_validator(mode="after")
    def _used(self) -> LogStorageConfig:
        for key in ("store_options", "store_secret_env"):
            if getattr(self, key) and not self.store:
                raise WrongKey(key, "has no effect without log.store")
        if self.retention_days and not self.compact_every_s:
            raise WrongKey(
                "retention_days", "is applied when the log is compacted; set compact_every_s, or leave it out and run "
                "`locum log prune --days`"
            )  # fmt: skip
        return self

    def storage(self) -> Storage:
        """What readers have to know."""
        return Storage(
            store=self.store,
            store_options=dict(self.store_options),
            store_secret_env=dict(self.store_secret_env),
            encryption_key_env=self.encryption_key_env,
            subject_key_env=self.subject_key_env,
        )

    def storage_env_names(self) -> list[tuple[str, str | None]]:
        """(key, variable) of the environment variables that it names."""
        return [
            ("log.encryption_key_env", self.encryption_key_env),
            ("log.subject_key_env", self.subject_key_env),
            *((f"log.store_secret_env.{option}", name) for option, name in self.store_secret_env.items()),
        ]
