"""Write the boards, or with `--check` compare them: exit 1 when the files are not what the code makes."""

from __future__ import annotations

import sys
from pathlib import Path

from grafana_foundation_sdk.cog.encoder import JSONEncoder

from deploy.dashboards.cost_and_quality import cost_and_quality
from deploy.dashboards.flywheel import flywheel
from deploy.dashboards.health import health

FOLDER = Path(__file__).parent.parent / "grafana"
BOARDS = {"cost-and-quality.json": cost_and_quality, "health.json": health, "flywheel.json": flywheel}


def rendered() -> dict[str, str]:
    """File name → content."""
    encoder = JSONEncoder(sort_keys=True, indent=1)
    return {name: encoder.encode(make().build()) + "\n" for name, make in BOARDS.items()}


def main() -> int:
    stale = 0
    for name, text in rendered().items():
        path = FOLDER / name
        if "--check" in sys.argv[1:]:
            stale += not path.exists() or path.read_text() != text
        else:
            path.write_text(text)
    return 1 if stale else 0


if __name__ == "__main__":
    raise SystemExit(main())
