"""Answers whose errors show where a test wants them to."""

from __future__ import annotations

import random

from trainer.window.collect import Row


def row(number: int, right: bool, *, tokens: int = 60, turn: int = 20, depth: float = 1.0) -> Row:
    """What is wrong shows from the token `turn` on, and before it not at all."""
    draw = random.Random(f"0/{number}")
    logprobs = [-0.1 * draw.random() - (depth if place >= turn and not right else 0.0) for place in range(tokens)]
    return Row(
        task_id=f"t-{number}", kind="x", right=right, finish_reason="stop", text="", logprobs=tuple(logprobs),
        stop_token=True, times_s=tuple(0.01 * place for place in range(tokens)), ttft_s=0.1, concurrency=8,
    )  # fmt: skip


ROWS = [row(number, number % 3 == 0) for number in range(240)]
