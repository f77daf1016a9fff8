"""What a policy must beat, as scores like any other: chance, the length of the prompt; and what none can beat."""

from __future__ import annotations

import numpy as np

from trainer.routing.outcomes import Floats, Outcomes

RANDOM = "random"
PROMPT_LENGTH = "prompt_length"
ORACLE = "oracle"


def scores(rows: Outcomes) -> dict[str, Floats]:
    """Baseline -> [n], higher means teacher. Equal scores go in random order: `random` is that alone."""
    found = {RANDOM: np.full(len(rows), 0.5)}
    if rows.text is not None:
        lengths = np.array([len(text) for text in rows.text], dtype=np.float64)
        found[PROMPT_LENGTH] = lengths / max(1.0, float(lengths.max()))
    spread = 1e-6 * np.arange(len(rows)) / len(rows)  # rows of one advantage are equal to it, but need not be one block
    found[ORACLE] = (rows.advantage + 1 + spread) / (2 + 1e-6)
    return found
