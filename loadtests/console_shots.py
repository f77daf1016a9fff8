"""Photographs every view of the operator's console, light and dark, on a gateway with traffic.

python -m loadtests.console_shots --out shots
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import click

from loadtests.console_browser import NoBrowser, browser
from loadtests.console_stage import Stage

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

VIEWS = ("overview", "thresholds", "decisions", "quality", "students", "policy")
SIZES = {"wide": (1360, 850), "tablet": (900, 1000), "phone": (390, 844)}
SETTLE_S = 20.0
"""The gateway takes a sample of its metrics every 15 s: before the second one there is no curve."""


def sign_in(page: Page, stage: Stage) -> None:
    """Open the console and give it the key."""
    page.goto(f"{stage.origin}/admin/console")
    page.get_by_label("Admin key").fill(stage.key)
    page.get_by_role("button", name="Sign in").click()
    page.get_by_role("navigation", name="Views").wait_for()


def open_view(page: Page, name: str) -> None:
    """Go to a view and wait until it shows what it loads."""
    page.evaluate("name => { location.hash = `#/${name}` }", name)
    page.wait_for_function("() => !document.querySelector('main .loading, main [aria-busy]')")


def photograph(running: Browser, stage: Stage, out: Path, *, scheme: str, size: str) -> None:
    """Every view, a decision and the dialog in front of a change."""
    width, height = SIZES[size]
    context = running.new_context(
        viewport={"width": width, "height": height}, color_scheme="dark" if scheme == "dark" else "light"
    )
    page = context.new_page()
    page.goto(f"{stage.origin}/admin/console")
    page.screenshot(path=out / f"sign-in-{scheme}-{size}.png")
    sign_in(page, stage)
    for name in VIEWS:
        open_view(page, name)
        if name == "thresholds":
            page.locator("input[type=range][data-option='cascade.threshold']").fill("0.2")
            page.wait_for_timeout(400)
            page.wait_for_function("() => !document.querySelector('main [aria-busy]')")
        page.evaluate("() => { document.activeElement.blur(); scrollTo(0, 0) }")
        page.screenshot(path=out / f"{name}-{scheme}-{size}.png", full_page=name != "decisions")
        if name == "thresholds":
            page.get_by_role("button", name="Apply as new version").click()
            page.get_by_role("dialog").get_by_role("table").wait_for()
            page.screenshot(path=out / f"apply-{scheme}-{size}.png")
            page.keyboard.press("Escape")
        if name == "decisions":
            page.locator("button[data-decision]").first.click()
            page.get_by_role("dialog").get_by_role("table").first.wait_for()
            page.screenshot(path=out / f"decision-{scheme}-{size}.png")
            page.keyboard.press("Escape")
    context.close()


@click.command()
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), required=True, help="Folder for the pictures.")
@click.option("--requests", default=300, show_default=True, help="Requests that are sent before.")
def main(out: Path, requests: int) -> None:
    """Photograph the console."""
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="locum-console-") as folder, Stage(Path(folder)) as stage:
        stage.traffic(requests)
        try:
            with browser() as running:
                waiting = running.new_page()
                waiting.wait_for_timeout(SETTLE_S * 1000)
                for scheme in ("light", "dark"):
                    for size in SIZES:
                        photograph(running, stage, out, scheme=scheme, size=size)
        except NoBrowser as exc:
            click.echo(f"error: {exc}", err=True)
            raise SystemExit(2) from exc
    click.echo(f"{len(list(out.glob('*.png')))} pictures in {out}")


if __name__ == "__main__":
    main()
