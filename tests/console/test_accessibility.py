"""The console for people who use a keyboard, a screen reader, a phone, or the dark."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import pytest

from tests.console.conftest import MakeOperator, Operator

pytest.importorskip("playwright", reason="no Playwright: pip install playwright")
from playwright.sync_api import Page, expect

pytestmark = [pytest.mark.system, pytest.mark.timeout(600)]

VIEWS = ("Overview", "Thresholds", "Decisions", "Quality", "Students", "Policy")


def violations(page: Page) -> list[str]:
    """What axe finds against WCAG 2.2 AA and the best practices."""
    axe = pytest.importorskip(
        "axe_playwright_python.sync_playwright", reason="no axe: pip install axe-playwright-python"
    )
    options = {"resultTypes": ["violations"]}
    found: Any = axe.Axe().run(page, options=options).response["violations"]
    return [f"{each['id']}: {json.dumps([node['html'][:200] for node in each['nodes'][:3]])}" for each in found]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing(make_operator: MakeOperator, scheme: Any) -> None:
    operator = make_operator(color_scheme=scheme)
    page = operator.page
    page.goto(f"{operator.stage.origin}/admin/console")
    found = {"sign in": violations(page)}
    operator.sign_in()
    for view in VIEWS:
        operator.open(view)
        found[view] = violations(page)
        if view == "Decisions":
            page.locator("button[data-decision]").first.click()
            page.get_by_role("dialog").get_by_role("heading", name="Texts").wait_for()
            found["a decision"] = violations(page)
            page.keyboard.press("Escape")
        if view == "Thresholds":
            page.get_by_label("cascade threshold, exact value").fill("0.2")
            operator.settle()
            found["what if"] = violations(page)
            page.get_by_role("button", name="Apply as new version").click()
            page.get_by_role("dialog").get_by_role("table").wait_for()
            found["apply"] = violations(page)
            page.keyboard.press("Escape")
    assert {view: problems for view, problems in found.items() if problems} == {}


def test_headings_and_landmarks_are_in_order(operator: Operator) -> None:
    for view in VIEWS:
        page = operator.open(view)
        levels = page.evaluate(
            "() => [...document.querySelectorAll('main h1, main h2, main h3, main h4')].map((e) => Number(e.tagName[1]))"
        )
        assert levels[0] == 1
        assert levels.count(1) == 1
        assert all(after - before <= 1 for before, after in pairwise(levels)), (view, levels)
        assert page.locator("main").count() == page.get_by_role("banner").count() == 1


def focused(page: Page) -> str:
    script = "() => (document.activeElement.getAttribute('aria-label') || document.activeElement.textContent).trim()"
    return str(page.evaluate(script))


def test_everything_is_reached_by_keyboard_with_a_visible_focus(operator: Operator) -> None:
    page = operator.page
    page.goto(f"{operator.stage.origin}/admin/console")
    expect(page.get_by_label("Admin key")).to_be_focused()
    page.keyboard.type(operator.stage.key)
    page.keyboard.press("Enter")
    page.get_by_role("navigation", name="Views").wait_for()
    operator.settle()
    page.reload()
    operator.settle()
    page.keyboard.press("Tab")
    assert focused(page) == "Skip to content"
    assert page.evaluate("() => document.activeElement.getBoundingClientRect().top >= 0")
    page.keyboard.press("Enter")
    assert page.evaluate("() => document.activeElement.id") == "main"
    page.keyboard.press("Tab")
    assert page.evaluate("() => document.activeElement.type") == "radio"
    page.keyboard.press("ArrowRight")
    expect(page.get_by_role("radio", name="24 h")).to_be_checked()
    page.get_by_role("link", name="Overview").focus()
    page.keyboard.press("Tab")
    assert focused(page) == "Thresholds"
    page.keyboard.press("Enter")
    operator.settle()
    reached = walk(page)
    for name in ("escalate_below", "cascade threshold, exact value", "As a table"):
        assert any(name in each for each in reached), (name, reached)
    unseen = [name for name, visible in reached.items() if not visible]
    assert unseen == []


def walk(page: Page) -> dict[str, bool]:
    """Everything that Tab leads to once, and whether one sees that it has the focus."""
    page.evaluate("() => { document.body.tabIndex = -1; document.body.focus() }")
    script = """() => {
        const e = document.activeElement;
        const label = e.labels?.[0]?.textContent || e.getAttribute('aria-label') || e.textContent;
        const style = getComputedStyle(e);
        const around = e.closest('.choice, .editor');
        const outline = (s) => s.outlineStyle !== 'none' && parseFloat(s.outlineWidth) >= 2;
        return [`${e.tagName} ${label.trim().slice(0, 60)}`, outline(style) || (!!around && outline(getComputedStyle(around)))];
    }"""
    reached: dict[str, bool] = {}
    for _ in range(120):
        page.keyboard.press("Tab")
        name, visible = page.evaluate(script)
        if name.startswith("BODY") or (name in reached and name.startswith("A Skip")):
            break
        reached[name] = visible
    return reached


def test_dialog_keeps_the_focus_and_gives_it_back(operator: Operator) -> None:
    page = operator.open("Decisions")
    row = page.locator("button[data-decision]").nth(2)
    row.focus()
    page.keyboard.press("Enter")
    page.get_by_role("dialog").get_by_role("heading", name="Texts").wait_for()
    for _ in range(12):
        page.keyboard.press("Tab")
        assert page.evaluate(
            "() => document.activeElement === document.body || !!document.activeElement.closest('dialog')"
        )
    page.keyboard.press("Escape")
    expect(row).to_be_focused()


def test_changes_are_said(operator: Operator) -> None:
    page = operator.open("Decisions")
    live = page.locator("#live")
    assert live.get_attribute("aria-live") == "polite"
    page.get_by_label("Outcome").select_option("timeout")
    page.get_by_role("button", name="Search").click()
    expect(live).to_have_text("0 decisions")


def background(page: Page) -> int:
    """From 0, black, to 765, white."""
    script = "() => getComputedStyle(document.body).backgroundColor.match(/\\d+/g).slice(0, 3).map(Number)"
    return sum(page.evaluate(script))


def test_colours_follow_the_system_until_the_reader_chooses(make_operator: MakeOperator) -> None:
    light, dark = make_operator(color_scheme="light"), make_operator(color_scheme="dark")
    pages = [light.open("Overview"), dark.open("Overview")]
    assert background(pages[0]) > 600
    assert background(pages[1]) < 150
    pages[1].get_by_label("Colours").select_option("light")
    assert background(pages[1]) > 600
    pages[1].reload()
    assert background(pages[1]) > 600


@pytest.mark.parametrize(("width", "height"), [(900, 800), (390, 844), (320, 640)])
def test_no_view_is_wider_than_the_screen(make_operator: MakeOperator, width: int, height: int) -> None:
    operator = make_operator(width=width, height=height)
    for view in VIEWS:
        page = operator.open(view)
        wide = """width => [...document.querySelectorAll('body *')].filter((e) => !e.closest('.scroll'))
            .filter((e) => e.getBoundingClientRect().right > width + 1).map((e) => e.outerHTML.slice(0, 100))"""
        assert page.evaluate("() => document.documentElement.scrollWidth") <= width, (view, page.evaluate(wide, width))


def test_nothing_moves_for_those_who_do_not_want_it(make_operator: MakeOperator) -> None:
    operator = make_operator(reduced_motion="reduce")
    page = operator.open("Decisions")
    page.locator("button[data-decision]").first.click()
    assert page.get_by_role("dialog").evaluate("e => getComputedStyle(e).animationName") == "none"
    page.keyboard.press("Escape")


def test_targets_are_large_enough_to_hit(operator: Operator) -> None:
    """WCAG 2.2, 2.5.8: 24 pixels, but for links within a text."""
    script = """() => [...document.querySelectorAll('main button, main select, main input, nav a, header button')]
        .filter((e) => e.getClientRects().length && getComputedStyle(e).opacity !== '0' && e.type !== 'checkbox')
        .map((e) => [e.outerHTML.slice(0, 80), e.getBoundingClientRect().height])
        .filter(([, height]) => height < 24)"""
    for view in VIEWS:
        assert operator.open(view).evaluate(script) == [], view
