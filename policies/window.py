"""The commit window of a stream: how much of the answer is held back, how far it may grow, and what watches behind it.

A reviewer says what it wants of a window by its attribute `commit_window`; what the gateway did is in the record.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import msgspec

OnEscalation = Literal["cancel", "reserve"]
"""What becomes of a stream that was rejected. `cancel`: it is given up at once, and should no teacher answer, the
student is asked once more. `reserve`: it is left unread until a teacher's stream has begun; when none does it is the
answer."""
LateAction = Literal["mark", "continue"]
"""What a late alarm does. `mark`: the stream ends there, and its last chunk says so. `continue`: a teacher goes on from
the text so far."""
WindowAction = Literal["commit", "extend", "escalate"]
MAX_WINDOW_REVIEWS = 12
"""A window that doubles each time is reviewed no more often, from one token to thousands."""


class LateAlarm(msgspec.Struct, frozen=True, kw_only=True):
    """A stream that the client reads already is watched on, by the tokens that came last."""

    action: LateAction
    tokens: int
    """How many of the last tokens are looked at; the first look is so many tokens behind the window."""
    finish_reason: str = "length"
    """`mark`: of the last chunk."""


class CommitWindow(msgspec.Struct, frozen=True, kw_only=True):
    """How much of a student's stream is held back until it is reviewed: to whichever bound it comes first, or its end.

    A reviewer that can judge the beginning of an answer has an attribute `commit_window`. Without one it is never asked
    about a prefix, and where no reviewer has one, streams are passed on as the student writes them. Of several windows
    the widest holds, and the review is one: all are asked about the same draft.
    """

    tokens: int
    time_s: float
    """Since the first event of the answer."""
    max_tokens: int = 0
    """How far it grows while a reviewer answers `Extend`; not above `tokens`: it does not."""
    max_time_s: float = 0.0
    on_escalation: OnEscalation = "cancel"
    late_alarm: LateAlarm | None = None

    def grown(self) -> CommitWindow | None:
        """Twice as wide, up to the bounds; None: it has its full width."""
        tokens = max(self.tokens, min(2 * self.tokens, self.max_tokens))
        time_s = max(self.time_s, min(2 * self.time_s, self.max_time_s))
        if tokens == self.tokens:  # more time alone would ask about the same tokens again
            return None
        return msgspec.structs.replace(self, tokens=tokens, time_s=time_s)

    def sizes(self) -> tuple[int, ...]:
        """The numbers of tokens at which it is reviewed, as long as it grows and time does not close it."""
        sizes, window = [self.tokens], self.grown()
        while window is not None:
            sizes.append(window.tokens)
            window = window.grown()
        return tuple(sizes)


class Progress(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of a stream behind its window when a reviewer's `alarm` is asked."""

    tokens: int
    """That came, the client has all but the last few of them."""
    recent_tokens: int
    recent_mean_logprob: float
    """Over the last `recent_tokens`, nats."""


class WindowReview(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One review of a stream's beginning, as the record keeps it."""

    tokens: int
    held_s: float
    """Since the first event of the student's answer."""
    action: WindowAction
    policy: str = ""
    reason: str = ""
    score: float | None = None
    threshold: float | None = None


def widest(windows: Sequence[CommitWindow]) -> CommitWindow | None:
    """Of several windows: every bound is the largest, a reserve is kept if one wants it, and the first alarm holds."""
    if not windows:
        return None
    return CommitWindow(
        tokens=max(each.tokens for each in windows),
        time_s=max(each.time_s for each in windows),
        max_tokens=max(each.max_tokens for each in windows),
        max_time_s=max(each.max_time_s for each in windows),
        on_escalation="reserve" if any(each.on_escalation == "reserve" for each in windows) else "cancel",
        late_alarm=next((each.late_alarm for each in windows if each.late_alarm is not None), None),
    )
