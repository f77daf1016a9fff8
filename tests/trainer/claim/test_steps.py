"""The claim's ledger: steps are done once, and only by one run."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import pytest
from rich.console import Console

from serving.demo.progress import Steps
from trainer.claim.settings import FULL, SMALL
from trainer.claim.steps import Ledger, OtherRun


def ledger(folder: Path) -> Ledger:
    return Ledger(folder / "steps", Steps(Console(quiet=True)))


def test_run_goes_on_in_its_folder_and_another_one_is_refused(tmp_path: Path) -> None:
    ledger(tmp_path).pin({"size": asdict(SMALL), "seed": 0})
    ledger(tmp_path).pin({"size": asdict(SMALL), "seed": 0})
    with pytest.raises(OtherRun, match=r"another size.*--work"):
        ledger(tmp_path).pin({"size": asdict(FULL), "seed": 0})


def test_result_is_found_when_its_step_was_done_before(tmp_path: Path) -> None:
    assert ledger(tmp_path).found("traffic") is None
    ledger(tmp_path).keep("traffic", {"requests": 3})
    assert ledger(tmp_path).found("traffic") == {"requests": 3}


def test_minutes_add_up_when_a_run_was_interrupted(tmp_path: Path) -> None:
    times = iter([0.0, 600.0, 5000.0, 5060.0])
    first = Ledger(tmp_path, Steps(Console(quiet=True)), clock=lambda: next(times))
    first.keep("traffic", {})
    second = Ledger(tmp_path, Steps(Console(quiet=True)), clock=lambda: next(times))
    second.keep("train run", {})
    assert second.minutes() == pytest.approx(11)
