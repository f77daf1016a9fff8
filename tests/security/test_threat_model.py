"""The threat model names tests that exist."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "threat-model.md").read_text()


def test_every_proof_in_the_threat_model_exists() -> None:
    defined = set()
    for path in Path(__file__).parent.glob("test_*.py"):
        defined |= set(re.findall(r"^(?:async )?def (test_\w+)", path.read_text(), re.MULTILINE))
    named = set(re.findall(r"`(test_\w+)`", PAGE))
    assert named
    assert named <= defined, named - defined
    for file in re.findall(r"`(tests/[\w/]+\.py)`", PAGE):
        assert (ROOT / file).exists(), file


def test_every_row_of_defences_has_its_proof() -> None:
    rows = [line for line in PAGE.splitlines() if line.startswith("|") and line.count("|") == 4]
    defences = [row for row in rows if "test_" in row or "tests/" in row or "proved by" in row]
    sections = PAGE.split("\n## ")
    for section in sections:
        if "proved by" in section:
            for row in section.splitlines():
                if row.startswith("|") and "---" not in row and "proved by" not in row:
                    assert "test" in row.split("|")[3], row
    assert len(defences) > 20
