"""The options of a cascade that are about streams: how much is held back, how long, and what happens behind it."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from policies.base import PolicyConfigError, ReviewerModel
from policies.window import CommitWindow, LateAlarm, OnEscalation

LATE_ALARM_THRESHOLD = 0.9


class WindowOptions(ReviewerModel):
    """What a cascade wants of a commit window."""

    commit_window_tokens: int = Field(
        32,
        ge=0,
        le=1024,
        description="Streams: tokens of the draft that are held back until it is judged by them; an answer that ends "
        "within them is judged as a whole. 0: streams are not reviewed.",
    )
    commit_window_s: float = Field(
        2.0,
        gt=0.0,
        le=60.0,
        description="Streams: the draft is judged by what there is of it so long after its first token at the latest.",
    )
    extend_band: float = Field(
        0.0,
        ge=0.0,
        le=1.0,
        description="Streams: a score that is no further than this from the threshold decides nothing yet: the window "
        "doubles, up to its maximum, and the draft is judged again. 0: the first review decides.",
    )
    commit_window_max_tokens: int = Field(128, ge=0, le=4096, description="Streams: as far as the window grows.")
    commit_window_max_s: float = Field(8.0, gt=0.0, le=300.0, description="Streams: the same as time.")
    on_escalation: OnEscalation = Field(
        "cancel",
        description="Streams: what becomes of the student's when the teacher is called in. `cancel`: it stops at once; "
        "when no teacher answers, the student is asked once more. `reserve`: it goes on being written until a teacher "
        "has begun, and is the answer when none does.",
    )
    late_alarm: Literal["off", "mark", "continue"] = Field(
        "off",
        description="Streams, behind the window: what happens when the last tokens are so uncertain that P(the answer "
        "is wrong) is above `late_alarm_threshold`. `mark`: the stream ends there with `late_alarm_finish_reason`; "
        "`continue`: the teacher goes on from what the client has read.",
    )
    late_alarm_threshold: float = Field(
        LATE_ALARM_THRESHOLD,
        ge=0.0,
        le=1.0,
        description="Streams: score of the last tokens above which a late alarm rings.",
    )
    late_alarm_tokens: int = Field(
        32, ge=1, le=1024, description="Streams: how many of the last tokens a late alarm looks at."
    )
    late_alarm_finish_reason: str = Field(
        "length",
        pattern=r"^[a-z_]{1,64}$",
        description="Streams: of an answer that ended by a late alarm. `length` is what every client takes for an "
        "answer that is not whole; the last chunk says more in `router.late_alarm`.",
    )

    def model_post_init(self, context: Any, /) -> None:
        super().model_post_init(context)
        if (
            self.extend_band
            and self.commit_window_tokens
            and self.commit_window_max_tokens <= self.commit_window_tokens
        ):
            raise PolicyConfigError(
                "extend_band: the window cannot grow; set commit_window_max_tokens above commit_window_tokens "
                f"({self.commit_window_tokens}), or extend_band to 0"
            )

    @property
    def commit_window(self) -> CommitWindow | None:
        """The tokens are the delay that every stream pays: 32 take 0.3 s at 100 tokens/s. What they buy is measured in
        docs/commit-window.md: with 16, two of three families of tasks lose more than half of it."""
        if not self.commit_window_tokens:
            return None
        grows = self.extend_band > 0.0
        alarm = None
        if self.late_alarm != "off":
            alarm = LateAlarm(
                action=self.late_alarm, tokens=self.late_alarm_tokens, finish_reason=self.late_alarm_finish_reason
            )
        return CommitWindow(
            tokens=self.commit_window_tokens,
            time_s=self.commit_window_s,
            max_tokens=self.commit_window_max_tokens if grows else 0,
            max_time_s=self.commit_window_max_s if grows else 0.0,
            on_escalation=self.on_escalation,
            late_alarm=alarm,
        )
