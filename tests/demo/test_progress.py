from __future__ import annotations

import io

from rich.console import Console

from serving.demo.progress import LOG_INTERVAL_S, Steps


class Clock:
    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def test_step_speaks_at_its_start_now_and_then_and_at_its_end_when_there_is_no_terminal() -> None:
    file, clock = io.StringIO(), Clock()
    with Steps(Console(file=file, width=200), clock) as steps:
        steps.update("embed", "1 of 9")
        clock.now_s = LOG_INTERVAL_S / 2
        steps.update("embed", "2 of 9")
        clock.now_s = LOG_INTERVAL_S + 1
        steps.update("embed", "3 of 9")
        steps.done("embed", "[9] chunks")
    assert file.getvalue().splitlines() == [
        "[  0.0 s] embed: 1 of 9",
        f"[{LOG_INTERVAL_S + 1:5.1f} s] embed: 3 of 9",
        f"[{LOG_INTERVAL_S + 1:5.1f} s] embed: done: [9] chunks",
    ]
