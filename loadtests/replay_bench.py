"""How fast `locum replay` is: a generated log, one command, seconds and records a second.

python -m loadtests.replay_bench --records 1000000
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import click

from loadtests.replay_log import write

LOCUM = (sys.executable, "-c", "from router.cli import main; main()")
DOCUMENT = {
    "routing": {
        "policies": [
            {"type": "long_context"},
            {"type": "retrieval_confidence", "escalate_below": 0.5},
            {"type": "long_reasoning", "escalate_above": 0.6},
        ]
    }
}


@click.command()
@click.option("--records", default=1_000_000, show_default=True, type=click.IntRange(min=1))
@click.option("--capture", default="full", show_default=True, type=click.Choice(["metadata", "full"]))
@click.option("--compacted", is_flag=True, help="Compact the log before it is replayed.")
@click.option("--jobs", type=click.IntRange(min=1), help="Processes that read; default: as `locum replay`.")
def main(records: int, capture: str, compacted: bool, jobs: int | None) -> None:
    """Generate a log, compare a document with the default policies on it, and print how long that took."""
    with tempfile.TemporaryDirectory(prefix="locum-replay-") as name:
        folder, document = Path(name) / "traffic", Path(name) / "policy.json"
        document.write_text(json.dumps(DOCUMENT))
        click.echo(f"generating {records:,} records", err=True)
        write(folder, records, capture=capture)
        if compacted:
            subprocess.run([*LOCUM, "log", "compact", str(folder)], stdout=sys.stderr, check=True)
        size_bytes = sum(path.stat().st_size for path in folder.rglob("*"))
        command = [*LOCUM, "replay", str(folder)]
        command += ["--jobs", str(jobs)] if jobs is not None else []
        before_s, cpu_before = time.monotonic(), os.times()
        done = subprocess.run([*command, "--policy", str(document), "--json"], stdout=subprocess.DEVNULL, check=False)
        wall_s, cpu = time.monotonic() - before_s, os.times()
    cpu_s = cpu.children_user + cpu.children_system - cpu_before.children_user - cpu_before.children_system
    if done.returncode == 2:
        raise click.ClickException("the replay failed")
    click.echo(
        f"{records:,} records, {size_bytes / 1e9:.1f} GB: {wall_s:.1f} s ({records / wall_s:,.0f} records/s), "
        f"{cpu_s:.1f} s of CPU"
    )


if __name__ == "__main__":
    main()
