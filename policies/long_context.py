"""`long_context`: prompt plus requested output against the student's real window."""

from __future__ import annotations

from pydantic import Field

from policies.base import Abstain, PolicyModel, RequestFeatures, RouteDecision, Signal, escalate

MIN_BYTES_PER_TOKEN = 1
"""A byte-level vocabulary never spends more than one token on a byte: this bound cannot be wrong."""
MAX_BYTES_PER_TOKEN = 8
"""Prose and code stay below 5 bytes a token; only long runs of blanks exceed 8, and those cost a teacher call,
not a wrong answer. It also bounds the text that is ever tokenized for this policy."""
THRESHOLD = 0.5
"""The score is 0 or 1: a request fits, or the student cannot serve it."""

EXCEEDS = frozenset(
    {
        "exceeds_window",
        "exceeds_window_estimated",
        "output_exceeds_window",  # the requested output alone leaves no room for a prompt
    }
)
REASONS = EXCEEDS | {"fits", "fits_estimated", "window_unknown"}


class LongContext(PolicyModel):
    """Escalates what does not fit into the student's window.

    Length bounds decide the clear cases for free; only between them is the prompt tokenized. Without the student's
    tokenizer the estimate stands, and the reason says so. Images are not counted: their tokens depend on the model,
    so a request that has some fits by estimate at best.
    """

    template_tokens_per_message: int = Field(
        8, ge=0, le=1_000, description="Tokens that the chat template adds to each message."
    )
    margin_tokens: int = Field(
        32, ge=0, description="Kept free for what the template adds once, such as a default system prompt."
    )
    estimate_factor: float = Field(
        1.15,
        ge=0.1,
        le=10.0,
        description="Multiplies the length estimate where the student's tokenizer is not known: a prompt that is "
        "wrongly sent to the student costs a failed call.",
    )

    @property
    def name(self) -> str:
        return "long_context"

    @property
    def reasons(self) -> frozenset[str]:
        return REASONS

    def needs(self, features: RequestFeatures) -> Signal | None:
        signals = features.signals
        if signals.prompt_tokens is not None or Signal.PROMPT_TOKENS in signals.unavailable:
            return None
        room = self._room_tokens(features)
        if room is None or room <= 0 or _surely_fits(features, room) or _surely_exceeds(features, room):
            return None
        return Signal.PROMPT_TOKENS

    def decide(self, features: RequestFeatures) -> RouteDecision | Abstain | None:
        room = self._room_tokens(features)
        if room is None:
            return Abstain(reason="window_unknown")
        reason = self._impossible(features, room) or self._measured(features, room)
        if reason in EXCEEDS:
            return escalate(reason, score=1.0, threshold=THRESHOLD, student_capable=False)
        return Abstain(reason=reason, score=0.0, threshold=THRESHOLD)

    def _impossible(self, features: RequestFeatures, room: int) -> str | None:
        """The reason why the request cannot fit whatever its exact length, or None."""
        if features.requested_output_tokens >= (features.student_window_tokens or 0):
            return "output_exceeds_window"
        return "exceeds_window" if room <= 0 or _surely_exceeds(features, room) else None

    def _measured(self, features: RequestFeatures, room: int) -> str:
        counted = features.signals.prompt_tokens
        if counted is None and not _surely_fits(features, room):
            exceeds = features.approx_prompt_tokens * self.estimate_factor > room
            return "exceeds_window_estimated" if exceeds else "fits_estimated"
        if counted is not None and counted > room:
            return "exceeds_window"
        return "fits_estimated" if features.has_images else "fits"

    def _room_tokens(self, features: RequestFeatures) -> int | None:
        """Tokens left for message text, or None when the window is unknown; can be negative."""
        if features.student_window_tokens is None:
            return None
        overhead = self.margin_tokens + self.template_tokens_per_message * features.message_count
        return features.student_window_tokens - features.requested_output_tokens - overhead


def _surely_fits(features: RequestFeatures, room_tokens: int) -> bool:
    return features.prompt_bytes <= room_tokens * MIN_BYTES_PER_TOKEN


def _surely_exceeds(features: RequestFeatures, room_tokens: int) -> bool:
    return features.prompt_bytes > room_tokens * MAX_BYTES_PER_TOKEN
