"""Whether traffic and answers change: drift alarms, and a fixed set that is asked again and again."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, StrictBool, StrictInt

from router.config.base import Seconds, Table

Days = Annotated[float, Field(ge=0, le=30 * 86_400, allow_inf_nan=False, strict=True)]


class DriftConfig(Table):
    """Comparing the last requests with a reference; see docs/quality.md. It keeps counts, no texts."""

    enabled: StrictBool = Field(True, description="Whether requests are compared with a reference.")
    tag: str | None = Field(
        None,
        min_length=1,
        max_length=64,
        description="Key of a tag whose values are also compared by themselves, the 12 first ones.",
    )
    interval_s: Seconds = Field(
        30.0, description="How often a worker counts its sample, of 20 requests a second at most, and shares it."
    )
    reference_requests: StrictInt = Field(
        4000, ge=200, le=10**7, description="Requests that become the reference, after the start or a promotion."
    )
    reference_s: Days = Field(
        3600.0, description="Time that the reference spans at least; a day where traffic differs between day and night."
    )
    window_requests: StrictInt = Field(
        2000, ge=400, le=10**7, description="Last requests that are compared with the reference."
    )
    window_labels: StrictInt = Field(
        2000, ge=200, le=10**7, description="Last graded answers over which calibration is judged."
    )


class RegressionConfig(Table):
    """A labelled set outside the distilled corpus that the student is asked regularly; see docs/quality.md."""

    file: str = Field(
        min_length=1,
        description='JSON Lines: `{"messages": [...], "label": "...", "grader": "exact"}` an item; `grader` is exact '
        "(default), numeric or contains.",
    )
    every_s: Seconds = Field(21_600.0, description="Between two rounds of the student, over all replicas.")
    teacher_every_rounds: StrictInt = Field(
        10, ge=0, description="The teacher is asked in the first round and then every so many; 0: never."
    )
    max_items: StrictInt = Field(200, ge=10, le=10_000, description="The first ones of the file.")
    max_output_tokens: StrictInt = Field(512, ge=1, le=32_768, description="Of one answer.")
    max_concurrency: StrictInt = Field(
        1, ge=1, le=64, description="Items at once; they wait while the student is busy with requests of clients."
    )
