"""Thresholds that differ by the value of a tag, for policies whose score means something else for each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Threshold = Annotated[float, Field(ge=0.0, le=1.0, allow_inf_nan=False)]


class ThresholdByTag(BaseModel):
    """As `locum tune --per-tag` sets them."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    tag: str = Field(min_length=1, description="Key of the tag.")
    thresholds: dict[str, Threshold] = Field(
        min_length=1, description="By its value; requests with another value, or without, have the policy's own."
    )

    def of(self, tags: Mapping[str, str], otherwise: float | None) -> float | None:
        return self.thresholds.get(tags.get(self.tag, ""), otherwise)
