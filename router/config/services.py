"""What stands beside routing: the traffic log."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, StrictInt, model_validator

from router.config.base import Seconds, WrongKey
from router.config.scrub import ScrubConfig
from router.config.storage import LogStorageConfig


class LogConfig(LogStorageConfig):
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
    scrub: ScrubConfig = ScrubConfig()

    @model_validator(mode="after")
    def _time_to_write(self) -> LogConfig:
        if self.scrub.is_on and self.scrub.timeout_s >= self.write_timeout_s:
            raise WrongKey("scrub.timeout_s", f"must be below log.write_timeout_s ({self.write_timeout_s:g})")
        return self
