"""What the error of a dead process shows of its log."""

from __future__ import annotations

import pytest

from serving.errors import TAIL_IN_MESSAGE_LINES, ProcessFailed, likely_cause


@pytest.mark.parametrize(
    ("lines", "cause"),
    [
        (["INFO all is well"], None),
        (["(EngineCore pid=1) ERROR ValueError: no blocks", "at once"], "ValueError: no blocks"),
        (
            [
                "torch.cuda.OutOfMemoryError: out of memory",
                "RuntimeError: Engine core initialization failed. See above",
            ],
            "torch.cuda.OutOfMemoryError: out of memory",
        ),
        (["api_server.py: error: unrecognized arguments: --nope"], "error: unrecognized arguments: --nope"),
        (["RuntimeError: Engine core initialization failed."], None),
    ],
)
def test_likely_cause_is_the_last_first_hand_exception(lines: list[str], cause: str | None) -> None:
    assert likely_cause(lines) == cause


def test_process_failed_shows_the_end_of_the_log_and_keeps_all_of_it() -> None:
    lines = [f"line {n}" for n in range(100)]
    error = ProcessFailed("student died", lines)
    assert str(error).startswith("student died\nThe end of its log:")
    assert str(error).count("\n  | ") == TAIL_IN_MESSAGE_LINES
    assert str(error).endswith("line 99")
    assert len(error.log_tail) == 100
    assert "It wrote no log." in str(ProcessFailed("student died"))
