"""The policy document and its versions: what may change while the gateway serves, as one validated JSON value.

    {"routing": {"default_route": "student", "policies": [{"type": "long_context"}, ...]},
     "server": {"max_inflight_requests": 1024, ...},
     "limits": {"requests_per_minute": 600}, "tenants": {"acme": {"budget_usd_per_day": 5.0}}}

Its tables are those of the configuration file, as far as they may change at run time. Version 0 is that file. Every
later version is immutable and carries who made it, when and from what.
"""

from __future__ import annotations

import hashlib
from typing import Any, Literal

import msgspec
from pydantic import Field, StrictInt, ValidationError, field_validator

from router.config import Config, LimitsConfig, RoutingConfig, TenantConfig
from router.config.base import Table
from router.config_file import describe_problem

MAX_POLICIES = 64
MAX_COMMENT_CHARS = 1_000

Source = Literal["file", "api", "rollback"]


class DocumentRejected(ValueError):
    """A document that cannot be used here. Each problem names its key; what is in force stays in force."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("; ".join(problems))
        self.problems = problems


class ServerBounds(Table):
    """The bounds of `[server]` that may change while requests run: none of them needs a new socket or process."""

    max_inflight_requests: StrictInt = Field(ge=1)
    max_body_bytes: StrictInt = Field(ge=1024)
    retry_after_s: StrictInt = Field(ge=1, le=3600)


class PolicyDocument(Table):
    """What one version says."""

    routing: RoutingConfig
    server: ServerBounds
    limits: LimitsConfig = LimitsConfig()
    tenants: dict[str, TenantConfig] = Field(default_factory=dict)

    @field_validator("tenants", mode="before")
    @classmethod
    def _without_nulls(cls, value: Any) -> Any:
        """JSON can spell out what is left out; it means the same: as in `limits`."""
        if not isinstance(value, dict):
            return value
        return {
            name: {key: each for key, each in table.items() if each is not None} if isinstance(table, dict) else table
            for name, table in value.items()
        }

    @classmethod
    def of_config(cls, config: Config) -> PolicyDocument:
        """What a configuration file says about it."""
        bounds = {name: getattr(config.server, name) for name in ServerBounds.model_fields}
        return cls(routing=config.routing, server=ServerBounds(**bounds), limits=config.limits, tenants=config.tenants)

    def encoded(self) -> bytes:
        """Canonical: equal documents have equal bytes."""
        return msgspec.json.encode(self.model_dump(mode="json"), order="sorted")

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.encoded()).hexdigest()


class Version(Table):
    """A document with its history. The number is the gateway's own; the store counts for itself."""

    version: int = Field(ge=0)
    """0 is the file that this process started with; it is in no store."""
    created_s: float
    source: Source
    author: str
    comment: str = ""
    restores: int | None = None
    """The version whose content a rollback took."""
    file_sha256: str
    """Of what the configuration file said when this version was made: tells an edited file from an old one."""
    document: PolicyDocument

    def encoded(self) -> bytes:
        return msgspec.json.encode(self.model_dump(mode="json"), order="sorted")

    @classmethod
    def decoded(cls, content: bytes) -> Version:
        """Raises: DocumentRejected: damaged, or written by another release with keys that this one does not know."""
        try:
            return cls.model_validate(msgspec.json.decode(content))
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
            raise DocumentRejected([f"not JSON: {exc}"]) from exc
        except ValidationError as exc:
            raise DocumentRejected([describe_problem(error) for error in exc.errors(include_url=False)]) from exc

    def summary(self) -> dict[str, Any]:
        """Everything but the document."""
        return {**self.model_dump(mode="json", exclude={"document"}), "sha256": self.document.sha256}


def seed_of(config: Config, *, now_s: float) -> Version:
    """Version 0: the configuration file as this process has read it."""
    document = PolicyDocument.of_config(config)
    return Version(
        version=0, created_s=now_s, source="file", author="file", file_sha256=document.sha256, document=document
    )


def parse_document(value: object, *, defaults: PolicyDocument) -> PolicyDocument:
    """A document that somebody sent. A table but `routing` that it leaves out is as in `defaults`, and so is a key of
    `server`.

    Raises:
        DocumentRejected.
    """
    if not isinstance(value, dict):
        raise DocumentRejected(["document: must be an object with the keys routing, server, limits and tenants"])
    bounds = value.get("server", {})
    if isinstance(bounds, dict):
        value = {
            "limits": defaults.limits,
            "tenants": defaults.tenants,
            **value,
            "server": {**defaults.server.model_dump(), **bounds},
        }
    try:
        document = PolicyDocument.model_validate(value)
    except ValidationError as exc:
        raise DocumentRejected([describe_problem(error) for error in exc.errors(include_url=False)]) from exc
    except RecursionError as exc:
        raise DocumentRejected(["document: is nested too deeply"]) from exc
    if len(document.routing.policies) > MAX_POLICIES:
        raise DocumentRejected([f"routing.policies: has more than {MAX_POLICIES} policies"])
    return document


def foreign_types(document: PolicyDocument, trusted: PolicyDocument) -> list[str]:
    """Problems: policies named as `module:Class` that the configuration file does not name.

    Such a type makes the gateway import and call whatever it names. Whoever writes the file may do that; a key of the
    admin API, or the store, must not amount to a shell.
    """
    known = {table["type"] for table in trusted.routing.policies}
    return [
        f"routing.policies.{index}.type: {table['type']!r} is not installed under a name, and the configuration file "
        "does not name it; add it to the file's [[routing.policies]] and restart, or send the process SIGHUP"
        for index, table in enumerate(document.routing.policies)
        if ":" in table["type"] and table["type"] not in known
    ]
