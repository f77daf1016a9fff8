"""Prints the path of the Python 3.11 on this machine that runs the gateway fastest: `python3 fastest_python.py`.

A build with profile-guided optimization, as distributions and the official images have it, takes up to a quarter less
CPU a request than one without, as pyenv makes it by default. How an interpreter was built is not written down in a
place that all share, so a small piece of work is timed. Standard library only: it runs before anything is installed.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence

VERSION = (3, 11)
ROUNDS = 3
WORTH_IT = 0.93
"""Of the time of the first one in PATH: below that another one is taken."""
FOLDERS = ("/usr/bin", "/usr/local/bin", "/opt/homebrew/bin")
PROBE = """
import sys, time
try:
    import ensurepip, ssl, venv
except ImportError:
    sys.exit(1)
if sys.version_info[:2] != VERSION:
    sys.exit(1)

class Item:
    __slots__ = ("name", "value")
    def __init__(self, name, value):
        self.name, self.value = name, value
    def key(self):
        return (self.name, self.value & 15)

def work():
    found = {}
    for number in range(4000):
        item = Item(b"%d" % (number & 63), number)
        found[item.key()] = found.get(item.key(), 0) + len(item.name.strip())
    return sum(found.values())

best = 1e9
for _ in range(12):
    began = time.process_time()
    work()
    best = min(best, time.process_time() - began)
print(best)
""".replace("VERSION", repr(VERSION))


def candidates() -> list[str]:
    """Interpreters that may be 3.11, those of PATH first; each once, whatever leads to it."""
    folders = [*os.environ.get("PATH", "").split(os.pathsep), *FOLDERS]
    names = [f"python{VERSION[0]}.{VERSION[1]}", "python3"]
    found = [path for name in names for folder in folders if folder and (path := shutil.which(name, path=folder))]
    return list({os.path.realpath(path): path for path in reversed(found)}.values())[::-1]


def seconds(path: str) -> float | None:
    """Of the probe's work; None for an interpreter that is another version or cannot make an environment."""
    try:
        done = subprocess.run([path, "-c", PROBE], capture_output=True, text=True, check=False, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return float(done.stdout) if done.returncode == 0 else None


def fastest(paths: Sequence[str], seconds: Callable[[str], float | None] = seconds) -> str | None:
    """In rounds from one to the next, so that a busy moment hits all of them."""
    best: dict[str, float] = {}
    for _ in range(ROUNDS if len(paths) > 1 else 1):
        for path in paths:
            took_s = seconds(path)
            if took_s is not None:
                best[path] = min(took_s, best.get(path, took_s))
    if not best:
        return None
    first, quickest = next(iter(best)), min(best, key=lambda path: best[path])
    return quickest if best[quickest] < best[first] * WORTH_IT else first


def main() -> int:
    found = fastest(candidates())
    if found is None:
        sys.stderr.write("no Python 3.11 that can make environments; set PYTHON to its interpreter\n")
        return 2
    sys.stdout.write(found + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
