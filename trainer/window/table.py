"""The figures of a run as Markdown tables."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence

from trainer.window.analysis import ALARM_TOKENS, SHARE, Analysis


def lines(analysis: Analysis, ttft_s: Mapping[str, Sequence[float]]) -> Iterator[str]:
    """The report."""
    yield (
        f"{analysis.answers} answers, {analysis.right:.0%} right, of {analysis.tokens_p10:.0f} / "
        f"{analysis.tokens_p50:.0f} / {analysis.tokens_p90:.0f} tokens (10 %, median, 90 %)"
    )
    yield ""
    head = ("window", "AUROC (95 %)", f"wrong among the {SHARE:.0%} escalated", "end within", "ECE, whole's curve",
            "ECE, own curve")  # fmt: skip
    yield f"| {' | '.join(head)} |"
    yield "|---|---|---|---|---|---|"
    wrong = 1 - analysis.right
    for size in analysis.sizes:
        name = f"{size.tokens} tokens" if size.tokens else "whole answer"
        precision = size.wrong_found * wrong / SHARE
        ece = [f"{value:.3f}" if value is not None else "-" for value in (size.ece_whole, size.ece_prefix)]
        yield (
            f"| {name} | {size.auroc:.3f} [{size.low:.3f}, {size.high:.3f}] | {precision:.0%} | "
            f"{size.whole_share:.0%} | {ece[0]} | {ece[1]} |"
        )
    yield ""
    yield from _delays(analysis, ttft_s)
    yield ""
    yield f"A window that grows, at the threshold that escalates {SHARE:.0%} at its first size:"
    yield ""
    yield "| window | band | mean tokens held | escalated | wrong found | right escalated |"
    yield "|---|---|---|---|---|---|"
    for growth in analysis.growths:
        yield (
            f"| {growth.tokens} to {growth.max_tokens} | {growth.band:g} | {growth.mean_tokens:.0f} | "
            f"{growth.escalated:.0%} | {growth.wrong_found:.0%} | {growth.right_lost:.1%} |"
        )
    yield ""
    yield f"A late alarm on the last {ALARM_TOKENS} tokens, behind a window that escalates {SHARE:.0%}:"
    yield ""
    yield "| window | alarm above | wrong answers stopped | right answers stopped | rings at token (median) |"
    yield "|---|---|---|---|---|"
    for alarm in analysis.alarms:
        at = "-" if alarm.median_token is None else f"{alarm.median_token:.0f}"
        yield (
            f"| {alarm.window_tokens} | {alarm.threshold:g} | {alarm.wrong_stopped:.0%} | {alarm.right_stopped:.1%} | "
            f"{at} |"
        )


def _delays(analysis: Analysis, ttft_s: Mapping[str, Sequence[float]]) -> Iterator[str]:
    at_once = sorted({delay.concurrency for delay in analysis.delays})
    yield "Added time to the first token, s (median / 90 %):"
    yield ""
    yield (
        "| window | " + " | ".join(f"{number} at a time" for number in at_once) + " | TTFT through the gateway, alone |"
    )
    yield "|---|" + "---|" * (len(at_once) + 1)
    by_size = {(delay.tokens, delay.concurrency): delay for delay in analysis.delays}
    for tokens in (0, *sorted({delay.tokens for delay in analysis.delays})):
        cells = []
        for number in at_once:
            delay = by_size.get((tokens, number))
            cells.append("0" if delay is None else f"{delay.p50_s:.2f} / {delay.p90_s:.2f}")
        measured = ttft_s.get(str(tokens))
        if tokens in (1, 2, 12, 24, 48) and not measured:
            continue
        cells.append(f"{statistics.median(measured):.2f}" if measured else "-")
        yield f"| {tokens} | " + " | ".join(cells) + " |"
