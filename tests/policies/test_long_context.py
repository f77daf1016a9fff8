"""What fits into the student's window, and what is measured to know it."""

from __future__ import annotations

from typing import Any

import pytest

from policies.base import Abstain, RequestFeatures, RouteDecision, Signal, Signals
from policies.long_context import LongContext


def features(**changes: Any) -> RequestFeatures:
    values: dict[str, Any] = {
        "prompt_bytes": 100, "message_count": 1, "approx_prompt_tokens": 25, "requested_output_tokens": 100,
        "student_window_tokens": 1_000,
    }  # fmt: skip
    return RequestFeatures(**{**values, **changes})


EXACT = LongContext(template_tokens_per_message=0, margin_tokens=0, estimate_factor=1.0)


def reason(policy: LongContext, seen: RequestFeatures) -> str:
    answer = policy.decide(seen)
    assert isinstance(answer, RouteDecision | Abstain)
    return answer.reason


def test_policy_abstains_when_the_window_is_unknown() -> None:
    answer = EXACT.decide(features(student_window_tokens=None, prompt_bytes=10**9))
    assert answer == Abstain(reason="window_unknown")
    assert EXACT.needs(features(student_window_tokens=None)) is None


@pytest.mark.parametrize(
    ("prompt_bytes", "needed", "expected"),
    [
        (900, None, "fits"),  # at most one token a byte
        (901, Signal.PROMPT_TOKENS, "fits_estimated"),
        (7_200, Signal.PROMPT_TOKENS, "exceeds_window_estimated"),
        (7_201, None, "exceeds_window"),
    ],
)
def test_tokens_are_only_measured_between_the_bounds(prompt_bytes: int, needed: Signal | None, expected: str) -> None:
    seen = features(prompt_bytes=prompt_bytes, approx_prompt_tokens=prompt_bytes // 4)
    assert EXACT.needs(seen) is needed
    assert reason(EXACT, seen) == expected


@pytest.mark.parametrize(("tokens", "expected"), [(900, "fits"), (901, "exceeds_window")])
def test_exact_count_decides_to_the_token_when_it_was_measured(tokens: int, expected: str) -> None:
    seen = features(prompt_bytes=2_000, approx_prompt_tokens=1, signals=Signals(prompt_tokens=tokens))
    assert EXACT.needs(seen) is None
    assert reason(EXACT, seen) == expected


def test_unavailable_tokenizer_is_not_asked_again() -> None:
    signals = Signals(unavailable=(Signal.PROMPT_TOKENS,))
    assert EXACT.needs(features(prompt_bytes=2_000, signals=signals)) is None


def test_estimate_is_raised_by_its_factor_when_nothing_was_measured() -> None:
    seen = features(prompt_bytes=3_200, approx_prompt_tokens=800)
    assert reason(EXACT, seen) == "fits_estimated"
    assert reason(EXACT.model_copy(update={"estimate_factor": 1.2}), seen) == "exceeds_window_estimated"


@pytest.mark.parametrize("requested", [1_000, 5_000])
def test_requested_output_beyond_the_window_escalates_however_short_the_prompt(requested: int) -> None:
    answer = EXACT.decide(features(requested_output_tokens=requested, prompt_bytes=1))
    assert isinstance(answer, RouteDecision)
    assert (answer.route, answer.reason, answer.student_capable) == ("teacher", "output_exceeds_window", False)


def test_template_and_margin_are_kept_free() -> None:
    policy = LongContext(template_tokens_per_message=10, margin_tokens=50)
    seen = features(message_count=85, prompt_bytes=1)
    assert reason(policy, seen) == "exceeds_window"  # 1000 - 100 - 50 - 850 = 0 tokens are left
    assert reason(policy, features(message_count=84, prompt_bytes=10)) == "fits"


def test_requests_with_images_fit_by_estimate_at_best() -> None:
    assert reason(EXACT, features(has_images=True)) == "fits_estimated"
    counted = features(has_images=True, prompt_bytes=2_000, signals=Signals(prompt_tokens=10))
    assert reason(EXACT, counted) == "fits_estimated"
    assert reason(EXACT, features(has_images=True, prompt_bytes=10**6)) == "exceeds_window"
