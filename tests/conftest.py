"""What every test has in common."""

from __future__ import annotations

import gc
import importlib.util
import os
from collections import Counter
from collections.abc import Generator, Iterator, Sequence
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from httpx._transports import default
from hypothesis import settings

from tests.effort import examples

settings.register_profile("any machine", deadline=None, max_examples=examples(100))  # a busy one is slow, not wrong
settings.load_profile("any machine")

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
"""Small matrices, and more test processes than cores: half of numpy's time went into threads that wait for each other.
Read when numpy is first imported, so it is set before."""
ROOT = Path(__file__).parents[1]
OTHERWISE = {
    "system": "pytest -m system",
    "slow": "pytest -m slow",
    "semantic": "pytest -m semantic, after make install-semantic",
    "train": "make train-tests",
}
"""How tests are run that `addopts` leaves out, by their marker."""
SUCCESSOR = "httpx2._transports.default"
left_out = pytest.StashKey[Counter[str]]()


@pytest.fixture(scope="session", autouse=True)
def one_tls_context() -> Iterator[None]:
    """Every httpx client reads the system's certificates, 50 ms of CPU for clients that speak to loopback.

    The official clients of today come with a successor of httpx that does the same.
    """
    with pytest.MonkeyPatch.context() as patch:
        for module in (default, *([import_module(SUCCESSOR)] if importlib.util.find_spec("httpx2") else [])):
            patch.setattr(module, "create_ssl_context", cache(module.create_ssl_context))
        yield


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """What collecting imports stays: to look for garbage among it is a fifth of the time, and no use later. In what
    comes after it to look seldom is enough, which saves another tenth."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.set_threshold(50_000, 20, 20)
        gc.enable()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """As `--dist loadfile`, but all files whose tests share real servers go to one process: they are started once.

    (`--dist loadgroup` of pytest-xdist 3.8 has no effect with pytest 9.)
    """
    if config.getvalue("dist") != "loadfile":
        return None
    from xdist.scheduler import LoadFileScheduling

    class Scheduling(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = str(super()._split_scope(nodeid))
            return "shared servers" if _shares_servers(file) else file

    return Scheduling(config, log)


@cache
def _shares_servers(file: str) -> bool:
    return file.startswith("tests/slow/") and "student_url" in (ROOT / file).read_text(encoding="utf-8")


def pytest_deselected(items: Sequence[pytest.Item]) -> None:
    """Those that the expression of markers leaves out; -k leaves out others, and says so itself."""
    expression = items[0].config.option.markexpr
    names = [[name for name in OTHERWISE if f"not {name}" in expression and name in item.keywords] for item in items]
    if all(names):
        items[0].config.stash[left_out] = Counter(found[0] for found in names)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Whoever names a file and sees no test run must learn why."""
    for name, count in config.stash.get(left_out, Counter()).items():
        terminalreporter.write_line(f"{count} left out, marked {name}; to run them: {OTHERWISE[name]}")
