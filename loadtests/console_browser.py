"""The browser that the console is tested and photographed with: the system's Chromium, driven by Playwright."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from playwright.sync_api import Browser

NAMES = ("chromium", "chromium-browser", "google-chrome-stable", "google-chrome")
VARIABLE = "LOCUM_CHROMIUM"
"""Overrides where it is looked for."""


class NoBrowser(Exception):
    """There is nothing to drive. The message says what to install."""


def executable() -> str:
    """Raises: NoBrowser."""
    found = os.environ.get(VARIABLE) or next(filter(None, map(shutil.which, NAMES)), None)
    if found is None:
        raise NoBrowser(f"no Chromium: apt-get install chromium, or set {VARIABLE} to the path of one")
    return found


@contextmanager
def browser() -> Iterator[Browser]:
    """Raises: NoBrowser."""
    path = executable()
    try:
        from playwright.sync_api import sync_playwright  # noqa: PLC0415 - a tool of development
    except ImportError as exc:
        raise NoBrowser("no Playwright: pip install playwright") from exc
    # Containers run as root, where Chromium's own sandbox does not work; it only ever sees loopback here.
    arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
    with sync_playwright() as driver:
        running = driver.chromium.launch(executable_path=path, args=arguments)
        try:
            yield running
        finally:
            running.close()
