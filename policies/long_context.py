"""`long_context`: prompt plus requested output against the student's real window."""

from __future__ import annotations

from pydantic import Field

from policies.base import Abstain, PolicyModel, RequestFeatures, RouteDecision, Signal, escalate

MIN_BYTES_PER_TOKEN = 1
"""A byte-level vocabulary never spends more than one token on a byte: this bound cannot be wrong."""
MAX_BYTES_PER_TOKEN = 8
"""Prose and code stay below 5 bytes a token; only long runs of blanks exceed 8, and those cost a teacher call,
not a wrong answer."""


class LongContext(PolicyModel):
    """Escalates what does not fit into the student's window.

    Length bounds decide the clear cases for free; only between them is the prompt tokenized. Without the
    student's tokenizer the estimate stands, and the reason says so.
    """

    template_tokens_per_message: int = Field(
        8, ge=0, description="Tokens that the chat template adds to each message."
    )
    margin_tokens: int = Field(
        32, ge=0, description="Kept free for what the template adds once, such as a default system prompt."
    )

    @property
    def name(self) -> str:
        return "long_context"

    @property
    def reasons(self) -> frozenset[str]:
        return frozenset({"exceeds_window", "exceeds_window_estimated", "fits", "fits_estimated", "window_unknown"})

    def optional_signals(self) -> frozenset[Signal]:
        return frozenset()  # without a tokenizer the estimate stands: nothing is required

    def needs(self, features: RequestFeatures) -> Signal | None:
        room = self._room_tokens(features)
        if room is None or features.signals.prompt_tokens is not None:
            return None
        if Signal.PROMPT_TOKENS in features.signals.unavailable:
            return None
        clear = features.prompt_bytes <= room * MIN_BYTES_PER_TOKEN or room <= 0 or (
            features.prompt_bytes > room * MAX_BYTES_PER_TOKEN
        )
        return None if clear else Signal.PROMPT_TOKENS

    def decide(self, features: RequestFeatures) -> RouteDecision | Abstain | None:
        room = self._room_tokens(features)
        if room is None:
            return Abstain(reason="window_unknown")
        if features.prompt_bytes <= room * MIN_BYTES_PER_TOKEN:
            return Abstain(reason="fits", score=0.0, threshold=1.0)
        if room <= 0 or features.prompt_bytes > room * MAX_BYTES_PER_TOKEN:
            return escalate("exceeds_window", score=1.0, threshold=1.0, student_capable=False)
        counted = features.signals.prompt_tokens
        tokens = counted if counted is not None else features.approx_prompt_tokens
        fits = tokens <= room
        reason = ("fits" if fits else "exceeds_window") + ("" if counted is not None else "_estimated")
        if fits:
            return Abstain(reason=reason, score=0.0, threshold=1.0)
        return escalate(reason, score=1.0, threshold=1.0, student_capable=False)

    def _room_tokens(self, features: RequestFeatures) -> int | None:
        """Tokens left for message text, or None when the window is unknown; can be negative."""
        if features.student_window_tokens is None:
            return None
        overhead = self.margin_tokens + self.template_tokens_per_message * features.message_count
        return features.student_window_tokens - features.requested_output_tokens - overhead
