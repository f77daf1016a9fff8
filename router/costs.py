"""What a request cost, from its state at its end: the answer, and what was thrown away for it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from policies.record import Draft, LateEnding, Outcome, Usage

if TYPE_CHECKING:
    from router.request_state import RequestState

UNPAID: frozenset[Outcome] = frozenset({"backend_error", "client_error"})
"""Nobody charges for a call that was refused or failed before its first byte; a draft before it is paid for."""


def cost_usd(state: RequestState) -> float | None:
    """Of the answer, and of the draft that was paid for before it; None when a part is unknown."""
    if state.cached is not None:
        return 0.0
    if state.machine_priced and state.route == "student" and _continued(state) is None:
        return state.machine_usd
    student_usd, answer_usd = _students_part_usd(state), _answer_usd(state, state.usage)
    return None if student_usd is None or answer_usd is None else answer_usd + student_usd


def used(state: RequestState) -> tuple[int | None, float | None]:
    """Tokens and USD of all calls that were made for the request, as far as they are known; None: nobody knows."""
    if state.called_s is None:
        return 0, 0.0
    usage, beside = state.usage or _usage_so_far(state), _beside(state)
    tokens = 0 if beside is None else beside.prompt_tokens + beside.completion_tokens
    if usage is None:
        return (tokens, _students_part_usd(state)) if state.outcome in UNPAID else (None, None)
    tokens, cost_usd = tokens + usage.prompt_tokens + usage.completion_tokens, _answer_usd(state, usage)
    student_usd = _students_part_usd(state) if state.machine_priced or beside is not None else None
    if student_usd is not None:
        cost_usd = student_usd + (cost_usd or 0.0)
    return tokens, cost_usd


def _thrown_away(state: RequestState) -> Draft | None:
    """The draft that was paid for beside the answer."""
    draft = state.draft
    return draft if state.route != "student" or (draft is not None and draft.thrown_away) else None


def _continued(state: RequestState) -> LateEnding | None:
    """How a teacher went on from the student's answer, where one did."""
    return state.draft.continued if state.draft is not None else None


def _beside(state: RequestState) -> Usage | None:
    """What the student used beside the answer: for a draft that was thrown away, or for a second sample."""
    if state.draft is None:
        return None
    return state.draft.usage if _thrown_away(state) is not None else state.draft.sample_usage


def _students_part_usd(state: RequestState) -> float | None:
    """What the student's work cost beside the answer; None: unknown."""
    if state.machine_priced:
        return state.machine_usd
    if state.draft is None:
        return 0.0
    if _thrown_away(state) is not None:
        return state.draft.cost_usd
    return 0.0 if state.draft.sample_usage is None else state.draft.sample_cost_usd


def _answer_usd(state: RequestState, usage: Usage | None) -> float | None:
    late = _continued(state)
    if late is not None and state.draft is not None:  # two models wrote it, each at its own price
        own_usd = 0.0 if state.machine_priced else state.draft.cost_usd
        return None if own_usd is None or late.cost_usd is None else own_usd + late.cost_usd
    price = state.backend.price if state.backend is not None else None
    return None if price is None or usage is None else price.cost_usd(usage)


def _usage_so_far(state: RequestState) -> Usage | None:
    """Of a stream that ended before it told its usage: an event is a token, as backends send them."""
    if state.first_event_s is None or state.evaluation is None:
        return None
    late, draft = _continued(state), state.draft
    if late is not None and late.usage is not None and draft is not None and draft.usage is not None:
        return Usage(
            prompt_tokens=draft.usage.prompt_tokens + late.usage.prompt_tokens,
            completion_tokens=draft.usage.completion_tokens + late.usage.completion_tokens,
        )
    return Usage(prompt_tokens=state.evaluation.features.approx_prompt_tokens, completion_tokens=state.streamed_events)
