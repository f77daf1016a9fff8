"""`[log.scrub]`: what is taken out of records before they reach the disk."""

from __future__ import annotations

import re
from typing import Annotated, Literal, get_args

from pydantic import Field, StrictStr, field_validator

from router.config.base import Seconds, Table, WrongKey
from router.scrub.patterns import Kind

KINDS: tuple[Kind, ...] = get_args(Kind)


class PresidioConfig(Table):
    """What Microsoft Presidio looks for, beside the built-in kinds."""

    entities: tuple[Annotated[StrictStr, Field(pattern=r"^[A-Z][A-Z0-9_]{0,39}$")], ...] = Field(
        ("PERSON", "LOCATION"), min_length=1, description="Presidio's names of what is replaced."
    )
    language: Annotated[StrictStr, Field(pattern=r"^[a-z]{2}$")] = Field("en", description="Of the texts.")
    spacy_model: StrictStr = Field(
        "en_core_web_sm",
        description='An installed spaCy model; "" does without one: recognisers by pattern only, no names.',
    )
    min_score: float = Field(0.5, ge=0, le=1, allow_inf_nan=False, description="Findings below it stay.")


class ScrubConfig(Table):
    """Personal data and secrets, replaced by placeholders such as `[EMAIL_1]` before a record is written."""

    enabled: tuple[Kind, ...] = Field((), description="Kinds that are replaced: " + ", ".join(KINDS) + ".")
    patterns: dict[str, StrictStr] = Field(
        default_factory=dict,
        description="Own kinds by name, as RE2 patterns whose repetitions are bounded.",
    )
    engine: Literal["builtin", "presidio"] = Field(
        "builtin", description="`presidio` finds more, and names; it needs the extra `scrub` and tens of milliseconds."
    )
    timeout_s: Seconds = Field(
        0.025,
        description="Part of `log.write_timeout_s`: a record that is not scrubbed by then is written without texts.",
    )
    presidio: PresidioConfig = PresidioConfig()

    @property
    def is_on(self) -> bool:
        return bool(self.enabled or self.patterns or self.engine == "presidio")

    @field_validator("patterns")
    @classmethod
    def _names(cls, value: dict[str, str]) -> dict[str, str]:
        for name in value:
            if not re.fullmatch(r"[a-z][a-z0-9_]{0,31}", name, re.ASCII) or name in KINDS:
                raise WrongKey(name[:40], "must be a new name of a-z, 0-9 and _, e.g. `employee_id`")
        return value
