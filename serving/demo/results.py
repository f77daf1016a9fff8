"""What the client saw of one request, and what it cost."""

from __future__ import annotations

import msgspec

from serving.demo.questions import Kind


class Prices(msgspec.Struct, frozen=True, kw_only=True):
    """USD per million tokens. None = unknown: then cost is unreported, not 0."""

    student_input_usd: float | None = 0.02
    student_output_usd: float | None = 0.04
    teacher_input_usd: float | None = 2.5
    teacher_output_usd: float | None = 10.0

    def cost_usd(self, route: str, prompt_tokens: int, completion_tokens: int) -> float | None:
        """What `route`, student or teacher, charges for these tokens."""
        student = route == "student"
        price_in = self.student_input_usd if student else self.teacher_input_usd
        price_out = self.student_output_usd if student else self.teacher_output_usd
        if price_in is None or price_out is None:
            return None
        return (prompt_tokens * price_in + completion_tokens * price_out) / 1e6


class Result(msgspec.Struct, kw_only=True):
    """One request after its end; a row of the table and an object in `demo.json`."""

    id: str
    kind: Kind
    model: str
    stream: bool
    question: str
    expected: tuple[str, ...]
    carrier: str | None = None
    reasoning_effort: str | None = None
    ok: bool = False
    error: str | None = None
    route: str | None = None
    """The backend that answered, by the header `x-router-route`."""
    policy: str | None = None
    reason: str | None = None
    degraded: str | None = None
    decision_id: str | None = None
    policy_version: str | None = None
    ttft_s: float | None = None
    """Streams: from the call to the first piece of text. None for plain answers."""
    latency_s: float
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    finish_reason: str | None = None
    cost_usd: float | None = None
    counterfactual_cost_usd: float | None = None
    """The same tokens at the teacher's price."""
    answer: str = ""
    correct: bool | None = None
    """None: not checked."""
