"""The students of a registry in the console: verdicts, promotion against one, and the way back."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from serving.registry import Registry
from tests.contract.conftest import StartGateway
from tests.serving.bundles import added

pytest.importorskip("playwright", reason="no Playwright: pip install playwright")
from playwright.sync_api import expect

if TYPE_CHECKING:
    from playwright.sync_api import Browser

pytestmark = [pytest.mark.system, pytest.mark.timeout(600)]

KEY = "admin-key-0123456789"
AUTH = '[auth]\nkeys_env = "KEYS"\nadmin_key_env = "ADMIN"\n[admin]\ndir = "{folder}/admin"'


def test_student_is_promoted_and_rolled_back_after_a_confirmation(
    chromium: Browser, start_gateway: StartGateway, tmp_path: Path
) -> None:
    registry = Registry(tmp_path / "students")
    first, second = added(registry, "a"), added(registry, "b")
    weak = added(registry, "c", verdict="fail")
    registry.promote(first)
    gateway = start_gateway(
        environ={"KEYS": "acme=client-key-1", "ADMIN": f"ann={KEY}"},
        rest=AUTH.format(folder=tmp_path),
        student_url="",
        student=f'registry = "{registry.root}"\n[student.vllm]\nport = 35091',
    )
    page = chromium.new_context().new_page()
    page.goto(f"{gateway.origin}/admin/console#/students")
    page.get_by_label("Admin key").fill(KEY)
    page.keyboard.press("Enter")
    bundles = page.get_by_role("group", name="Bundles")
    expect(bundles.get_by_role("row", name=first)).to_contain_text("current")
    expect(bundles.get_by_role("row", name=weak)).to_contain_text("fail")

    page.get_by_role("button", name=f"Promote {second}").click()
    dialog = page.get_by_role("dialog")
    page.keyboard.press("Escape")
    expect(dialog).to_have_count(0)
    assert registry.pointer().bundle_id == first  # type: ignore[union-attr]
    page.get_by_role("button", name=f"Promote {second}").click()
    dialog.get_by_label("Reason").fill("better on dates")
    dialog.get_by_role("button", name=f"Promote {second}").click()
    expect(bundles.get_by_role("row", name=second)).to_contain_text("current")
    assert registry.history()[-1].reason == "better on dates"

    page.get_by_role("button", name=f"Promote {weak}").click()
    dialog.get_by_role("button", name=f"Promote {weak}").click()
    expect(dialog).to_be_visible()  # neither the box is ticked nor a reason given
    dialog.get_by_label("Promote it against its verdict").check()
    dialog.get_by_label("Reason").fill("only formatting fails")
    dialog.get_by_role("button", name=f"Promote {weak}").click()
    expect(bundles.get_by_role("row", name=weak)).to_contain_text("current")
    assert registry.history()[-1].forced

    page.get_by_role("button", name="Roll back to the one before").click()
    dialog.get_by_role("button", name="Roll back the student").click()
    expect(bundles.get_by_role("row", name=second)).to_contain_text("current")
    page.context.close()
