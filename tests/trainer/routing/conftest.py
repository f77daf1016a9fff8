"""What tests of routing have in common."""

from __future__ import annotations

import pytest

from trainer.routing.learners import draft_forest, prompt

FEW_TREES = 32


@pytest.fixture
def few_trees(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small forests, for tests that look at what becomes of a score and not at how good it is."""
    monkeypatch.setattr(prompt, "N_TREES", FEW_TREES)
    monkeypatch.setattr(draft_forest, "N_TREES", FEW_TREES)
