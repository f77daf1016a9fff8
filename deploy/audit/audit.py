"""Looks every locked package up in the advisory database that PyPI publishes: `make audit`.

Exit codes: 0 nothing known, 1 advisories found, 2 not checked. A database that is out of reach, or a mirror that leaves
advisories out, answers as if there were none; so a release with well-known holes is asked for first, and unless its
advisories come back, nothing is said about ours.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
LOCKS = (
    "core", "build", "dev", "semantic", "corpora", "serving-cpu", "audit", "../../trainer/locks/train", "../../trainer/locks/quantize",
)  # fmt: skip
KNOWN_TO_BE_VULNERABLE = "jinja2==2.10"
TIMEOUT_S = 900


class NotChecked(Exception):
    """There is no answer, good or bad."""


def look_up(requirements: Path, service: str) -> list[dict[str, Any]]:
    """pip-audit's entry for every package. Raises: NotChecked."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        command = [
            sys.executable, "-m", "pip_audit", "--disable-pip", "--no-deps", "--progress-spinner", "off",
            "--vulnerability-service", service, "--requirement", str(requirements), "--format", "json", "--output", str(report),
        ]  # fmt: skip
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
        except subprocess.TimeoutExpired as exc:
            raise NotChecked(f"no answer within {TIMEOUT_S} s") from exc
        if not report.exists():  # exit code 1 stands for advisories and for failures alike
            last = (done.stderr.strip().splitlines() or ["no message"])[-1]
            raise NotChecked(last[:300])
        return list(json.loads(report.read_text())["dependencies"])


def check_database(service: str) -> None:
    """Raises: NotChecked: it does not know what everybody knows."""
    with tempfile.TemporaryDirectory() as folder:
        known = Path(folder) / "known.txt"
        known.write_text(KNOWN_TO_BE_VULNERABLE + "\n")
        if not any(entry.get("vulns") for entry in look_up(known, service)):
            raise NotChecked(f"it returns no advisory even for {KNOWN_TO_BE_VULNERABLE}")


def describe(lock: str, entries: list[dict[str, Any]]) -> tuple[int, int]:
    """Print what is known of a lock. Returns: packages with advisories, packages that were not found."""
    bad = [entry for entry in entries if entry.get("vulns")]
    skipped = [entry for entry in entries if "skip_reason" in entry]
    print(f"{lock}: {len(entries)} packages, {len(bad)} with advisories, {len(skipped)} not in the database")
    for entry in bad:
        for advisory in entry["vulns"]:
            fixed = ", ".join(advisory.get("fix_versions", ())) or "no release"
            print(f"  {entry['name']} {entry['version']}: {advisory['id']}, fixed in {fixed}")
    for entry in skipped:
        print(f"  {entry['name']}: not checked: {entry['skip_reason']}")
    return len(bad), len(skipped)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--service", choices=("pypi", "osv"), default="pypi", help="whose database is asked")
    parser.add_argument("locks", nargs="*", default=LOCKS, help="names of files in deploy/locks; default: all")
    chosen = parser.parse_args()
    bad = skipped = 0
    try:
        check_database(chosen.service)
        for lock in chosen.locks:
            path = (ROOT / "deploy/locks" / f"{lock}.txt").resolve()
            if not path.is_file():
                print(f"audit: there is no lock file {path}", file=sys.stderr)
                return 2
            found = describe(path.relative_to(ROOT).as_posix(), look_up(path, chosen.service))
            bad, skipped = bad + found[0], skipped + found[1]
    except NotChecked as exc:
        print(f"audit: NOT CHECKED: the advisory database ({chosen.service}) cannot be used: {exc}", file=sys.stderr)
        return 2
    if skipped and not bad:
        print(f"audit: {skipped} packages were not checked; see above", file=sys.stderr)
        return 2
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
