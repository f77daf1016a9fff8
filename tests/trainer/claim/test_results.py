"""The figures of the claim, on answers with known outcomes."""

from __future__ import annotations

import pytest

from trainer.claim import page, results
from trainer.claim.client import Answered
from trainer.claim.data import Case

CASES = [Case(str(n), "x" * (n + 1), "yes") for n in range(10)]


def answers(right: set[int], teacher: set[int] = frozenset(), tokens: int = 10) -> dict[str, Answered]:  # type: ignore[assignment]
    return {
        str(n): Answered(
            id=str(n),
            text="yes" if n in right else "no",
            route="teacher" if n in teacher else "student",
            reason="low_confidence" if n in teacher else "default",
            prompt_tokens=tokens,
            completion_tokens=2,
        )
        for n in range(10)
    }


TEACHER = answers(set(range(9)), set(range(10)))
STUDENT = answers(set(range(7)))
ROUTED = answers({*range(7), 8}, {8, 9})


def test_routing_counts_gap_and_rest_when_the_cascade_mends_one_error() -> None:
    figures = results.routing(CASES, STUDENT, TEACHER, ROUTED)
    assert figures["gap"]["estimate"] == pytest.approx(0.2)
    assert figures["left"]["estimate"] == pytest.approx(0.1)
    assert figures["escalated"] == {"calls": 0.2, "tokens": pytest.approx(0.2), "price": pytest.approx(0.2)}
    assert figures["reasons"] == {"default": 8, "low_confidence": 2}
    assert figures["random_routing"]["estimate"] == pytest.approx(0.7 + 0.2 * 0.2)
    assert figures["gap"]["low"] <= 0.2 <= figures["gap"]["high"]


def test_length_routing_sends_the_longest_when_the_share_is_a_fifth() -> None:
    student, teacher = [False] * 10, [True] * 10
    assert results.by_length(CASES, student, teacher, 0.2) == [False] * 8 + [True] * 2


def test_costs_follow_the_arithmetic_of_a_cascade() -> None:
    speed = {"student_requests_per_s": 50.0, "cores": 1, "student_times_faster": {"teacher": 5.0}}
    costs = results.costs(0.2, speed, teacher_usd_per_request=1e-4)
    assert costs["measured"]["r"] == pytest.approx(0.2)
    assert costs["measured"]["cheaper"] == pytest.approx(2.5)
    assert costs["measured"]["q_for_5x"] == pytest.approx(0)
    assert costs["list_price"]["student_usd_per_1000_requests"] == pytest.approx(1000 * 0.02 * 0.05 / 3600)
    assert costs["list_price"]["cheaper"] == pytest.approx(1 / (0.2 + 0.02 * 0.05 / 3600 / 1e-4))


def test_tokens_and_calls_differ_when_escalated_requests_are_longer() -> None:
    routed = ROUTED | {"9": Answered(id="9", text="yes", route="teacher", prompt_tokens=118, completion_tokens=2)}
    sent = results.escalation(CASES, routed, TEACHER | {"9": routed["9"]})
    assert sent.calls == 0.2
    assert sent.tokens == pytest.approx((12 + 120) / (9 * 12 + 120))


def test_variant_tells_errors_by_the_mean_logprob() -> None:
    import msgspec

    rated = {k: msgspec.structs.replace(a, mean_logprob=-0.1 if a.text == "yes" else -2.0) for k, a in STUDENT.items()}
    row = results.variant(CASES, rated, TEACHER)
    assert row["error_auroc"] == 1.0
    assert row["agreement"] == pytest.approx(0.8)


def test_page_states_every_target_when_one_is_missed(tmp_path) -> None:  # type: ignore[no-untyped-def]
    figures = {"routing": results.routing(CASES, STUDENT, TEACHER, ROUTED)}
    figures["speed"] = {
        "student_requests_per_s": 50.0,
        "teacher_requests_per_s": 10.0,
        "teacher_quantized_requests_per_s": 20.0,
        "cores": 1,
        "student_times_faster": {"teacher": 5.0, "teacher-quantized": 2.5},
    }
    figures["costs"] = results.costs(0.2, figures["speed"], 1e-4)
    figures["variants"] = {"student-labels": results.variant(CASES, STUDENT, TEACHER)}
    figures |= {"targets": results.targets(figures), "losses": {}, "notes": ["a note"]}
    figures["machine"] = {"cpu": "c", "cores": 2, "commit": "abc", "date": "2026-01-01", "minutes": 3.0}
    figures["data"] = {"train.csv": "0" * 64, "test.csv": "1" * 64}
    path = tmp_path / "claim.md"
    page.write_page(path, figures)
    text = path.read_text()
    assert "| at most 0.6 points left | 10.0 | no |" in text
    assert "| student at least 4x cheaper on equal cores | 5.0x | yes |" in text
    assert "70.0 [" in text and "a note" in text


def test_depth_cost_splits_the_time_of_a_request_when_two_depths_were_measured() -> None:
    # 10 ms for whatever the depth, 2 ms a layer: 22 ms with 6 layers, 70 ms with 30.
    speed = {
        "student_requests_per_s": 1000 / 22,
        "teacher_quantized_requests_per_s": 1000 / 70,
        "teacher_requests_per_s": 10.0,
    }
    depth = results.depth_cost(speed, 6, 30)
    assert depth is not None
    assert depth == pytest.approx({"ms_per_layer": 2.0, "fixed_ms": 10.0, "ratio_without_layers": 10.0})


def test_depth_cost_is_unknown_when_only_one_depth_was_measured() -> None:
    assert results.depth_cost({"student_requests_per_s": 40.0, "teacher_requests_per_s": 10.0}, 6, 30) is None
