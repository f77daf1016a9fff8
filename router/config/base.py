"""What every table of the configuration is made of: value types with their checks, and the errors."""

from __future__ import annotations

import re
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator


class WrongKey(ValueError):
    """A validator's complaint about a key below the one that it validates."""

    def __init__(self, key: str, message: str) -> None:
        super().__init__(message)
        self.key = key


def env_name(value: str) -> str:
    """A secret that was written here by mistake must not be repeated in an error message."""
    if not re.fullmatch(r"[A-Z_][A-Z0-9_]{0,127}", value, re.ASCII):
        raise ValueError("must be the name of an environment variable (A-Z, 0-9 and _), not the secret itself")
    return value


def model_name(value: str) -> str:
    if not 1 <= len(value) <= 256 or not value.isprintable():
        raise ValueError("must be 1 to 256 printable characters")
    return value


Seconds = Annotated[float, Field(gt=0, le=86_400, allow_inf_nan=False, strict=True)]
Price = Annotated[float, Field(ge=0, allow_inf_nan=False, strict=True)]
EnvName = Annotated[str, AfterValidator(env_name)]
ModelName = Annotated[str, AfterValidator(model_name)]
RouteName = Literal["student", "teacher"]
NativeApi = Literal["responses", "messages"]
RESERVED_MODEL_NAMES = frozenset({"auto", "student", "teacher"})


class ConfigError(ValueError):
    """The configuration cannot be used. Each problem names its key and the fix."""

    def __init__(self, source: str, problems: list[str]) -> None:
        super().__init__("\n".join(f"{source}: {problem}" for problem in problems))
        self.problems = problems


class Table(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


class TokenPrices(Table):
    """What a model's API charges."""

    price_usd_per_1m_input_tokens: Price | None = Field(None, description="Unknown: cost is unreported, not 0.")
    price_usd_per_1m_output_tokens: Price | None = Field(None, description="Unknown: cost is unreported, not 0.")
    price_usd_per_1m_cached_input_tokens: Price | None = Field(
        None, description="Input that came from the API's prompt cache; default: the price of input."
    )
    price_usd_per_1m_cache_write_tokens: Price | None = Field(
        None, description="Input that was written to its prompt cache; default: the price of input."
    )
    price_usd_per_1m_reasoning_tokens: Price | None = Field(
        None, description="Output that the model wrote to itself; default: the price of output."
    )

    @model_validator(mode="after")
    def _complete(self) -> Self:
        """A price without an effect is a mistake."""
        details = ("cached_input", "cache_write", "reasoning")
        given = [key for key in map("price_usd_per_1m_{}_tokens".format, details) if getattr(self, key) is not None]
        for key in ("price_usd_per_1m_input_tokens", "price_usd_per_1m_output_tokens"):
            if given and getattr(self, key) is None:
                raise WrongKey(key, f"is missing: without it no cost is reported, and {given[0]} has no effect")
        return self

    @property
    def has_token_prices(self) -> bool:
        """Whether the cost of an answer can be told from its tokens."""
        return self.price_usd_per_1m_input_tokens is not None and self.price_usd_per_1m_output_tokens is not None
