"""What an operator does in the console, in a real browser on a real gateway."""

from __future__ import annotations

import re
from typing import Any

import pytest

from loadtests.console_stage import SECOND_KEY, Stage
from tests.console.conftest import MakeOperator, Operator

pytest.importorskip("playwright", reason="no Playwright: pip install playwright")
from playwright.sync_api import Page, expect

pytestmark = [pytest.mark.system, pytest.mark.timeout(600)]

CASCADE = "input[type=range][data-option='cascade.threshold']"


def counted(stage: Stage, route: str) -> int:
    """Requests that a model answered, as /metrics tells it."""
    lines = re.findall(rf'^router_requests_total\{{[^}}]*route="{route}"[^}}]*\}} (\S+)', stage.metrics(), re.MULTILINE)
    return round(sum(map(float, lines)))


def threshold(stage: Stage) -> float:
    """Of the cascade, in force."""
    policies = stage.policy()["document"]["routing"]["policies"]
    return float(next(each["threshold"] for each in policies if each["type"] == "cascade"))


def share(page: Page) -> str:
    return page.locator("[data-measure=student_share] b").inner_text()


def apply(page: Page, note: str) -> None:
    """Through the dry run to the last button."""
    page.get_by_role("button", name="Apply as new version").click()
    dialog = page.get_by_role("dialog")
    expect(dialog.get_by_text("routing.policies.cascade.threshold")).to_be_visible()
    dialog.get_by_label("Note").fill(note)
    dialog.get_by_role("button", name="Apply as version").click()


def test_wrong_key_is_told_and_the_right_one_opens_the_console(operator: Operator) -> None:
    page = operator.page
    operator.sign_in("wrong-key-0123456789")
    expect(page.get_by_role("alert")).to_have_text("This is not an admin key of this gateway.")
    assert page.evaluate("() => sessionStorage.length") == 0
    page.get_by_label("Admin key").fill(operator.stage.key)
    page.keyboard.press("Enter")
    expect(page.get_by_role("navigation", name="Views")).to_be_visible()
    expect(page.get_by_text("policy v")).to_be_visible()


def test_signing_out_forgets_the_key(operator: Operator) -> None:
    page = operator.open("Overview")
    page.reload()
    expect(page.get_by_role("navigation", name="Views")).to_be_visible()
    page.get_by_role("button", name="Sign out").click()
    expect(page.get_by_role("heading", name="Sign in")).to_be_visible()
    stored = page.evaluate("() => JSON.stringify([{...sessionStorage}, {...localStorage}, document.cookie])")
    assert operator.stage.key not in stored
    assert operator.stage.key not in " ".join(operator.requested)


def test_overview_shows_the_numbers_of_the_metrics_and_follows_them(operator: Operator, stage: Stage) -> None:
    page = operator.open("Overview")
    page.get_by_text("Since start").click()
    student = page.locator("[data-count=student]")
    teacher = page.locator("[data-count=teacher]")
    expect(student).to_have_text(str(counted(stage, "student")))
    expect(teacher).to_have_text(str(counted(stage, "teacher")))
    before = counted(stage, "teacher")
    for _ in range(3):
        assert stage.ask("A question.", model="teacher").status_code == 200
    assert counted(stage, "teacher") == before + 3
    expect(teacher).to_have_text(str(before + 3))


def test_overview_keeps_what_a_reader_has_opened_when_it_refreshes(operator: Operator) -> None:
    page = operator.open("Overview")
    page.get_by_text("As a table").click()
    with page.expect_response(re.compile("/admin/summary")):
        pass
    operator.settle()
    expect(page.locator("details[open]")).to_have_count(1)
    expect(page.get_by_text("As a table")).to_be_focused()


def test_error_is_shown_in_its_place_and_can_be_tried_again(operator: Operator) -> None:
    page = operator.page
    operator.sign_in()
    page.get_by_role("navigation", name="Views").wait_for()
    page.route("**/admin/decisions*", lambda route: route.abort())
    page.get_by_role("link", name="Decisions").click()
    expect(page.get_by_role("alert")).to_contain_text("The gateway cannot be reached.")
    page.unroute("**/admin/decisions*")
    page.get_by_role("button", name="Try again").click()
    expect(page.locator("button[data-decision]").first).to_be_visible()


def test_session_ends_when_the_key_is_taken_back(operator: Operator) -> None:
    page = operator.open("Overview")
    page.route(
        "**/admin/decisions*",
        lambda route: route.fulfill(status=401, json={"error": {"message": "The key has ended."}}),
    )
    page.get_by_role("link", name="Decisions").click()
    expect(page.get_by_role("heading", name="Sign in")).to_be_visible()
    expect(page.get_by_text("The key has ended.")).to_be_visible()


def test_threshold_is_turned_by_keyboard_predicted_applied_and_rolled_back(operator: Operator, stage: Stage) -> None:
    before, version = threshold(stage), stage.policy()["version"]
    page = operator.open("Thresholds")
    expect(page.get_by_role("button", name="Apply as new version")).to_be_disabled()
    page.locator(CASCADE).focus()
    for _ in range(20):
        page.keyboard.press("ArrowLeft")
    expect(page.locator("[data-measure=student_share]")).to_be_visible()
    operator.settle()
    first = share(page)
    page.locator(CASCADE).focus()
    page.keyboard.press("Home")
    operator.settle()
    assert share(page) == "0.0 %" != first
    expect(page.get_by_role("img", name="Student share over threshold")).to_be_visible()
    page.get_by_label("cascade threshold, exact value").fill("0.15")
    operator.settle()

    apply(page, "fewer sure drafts")
    expect(page.locator("#version")).to_have_text(f"policy v{version + 1}")
    active = stage.policy()
    assert (active["version"], active["author"], active["comment"]) == (version + 1, "ann", "fewer sure drafts")
    assert threshold(stage) == 0.15
    expect(page.get_by_role("group", name="Versions").get_by_text("fewer sure drafts")).to_be_visible()
    said = stage.ask("[[fake-tokens-12-logprob-0.9]] Where is it?").headers["x-router-policy-version"]
    assert said == stage.admin("GET", "status").json()["policy"]["name"]

    page.get_by_role("button", name=f"Roll back to version {version}").click()
    dialog = page.get_by_role("dialog")
    expect(dialog.get_by_text("routing.policies.cascade.threshold")).to_be_visible()
    dialog.get_by_label("Note").fill("too dear")
    dialog.get_by_role("button", name=f"Make version {version + 2}").click()
    expect(page.locator("#version")).to_have_text(f"policy v{version + 2}")
    assert threshold(stage) == before


def test_second_operator_is_told_that_another_was_first(make_operator: MakeOperator, stage: Stage) -> None:
    before = threshold(stage)
    ann, bob = make_operator(), make_operator()
    pages = []
    for each, key, value in ((ann, stage.key, "0.31"), (bob, SECOND_KEY, "0.32")):
        each.sign_in(key)
        page = each.open("Thresholds")
        page.get_by_label("cascade threshold, exact value").fill(value)
        each.settle()
        pages.append(page)
    pages[1].get_by_role("button", name="Apply as new version").click()  # he looks at the difference meanwhile
    expect(pages[1].get_by_role("dialog").get_by_role("table")).to_be_visible()
    apply(pages[0], "ann was first")
    expect(pages[0].get_by_role("dialog")).to_have_count(0)
    version = stage.policy()["version"]

    pages[1].get_by_role("dialog").get_by_role("button", name="Apply as version").click()
    expect(pages[1].get_by_role("alert")).to_contain_text(f"Version {version} is in force by now")
    assert threshold(stage) == 0.31
    pages[1].get_by_role("button", name="Put my changes on top").click()
    bob.settle()
    apply(pages[1], "bob, knowing of ann")
    expect(pages[1].locator("#version")).to_have_text(f"policy v{version + 1}")
    assert (threshold(stage), stage.policy()["author"]) == (0.32, "bob")
    rolled = stage.admin("POST", "policy/rollback", json={"to": version - 1})
    assert (rolled.status_code, threshold(stage)) == (200, before)


def test_decision_is_found_and_says_why(operator: Operator, stage: Stage) -> None:
    answer = stage.ask("[[fake-tokens-12-logprob-2.5]] Where is it?", router={"tags": {"team": "tested"}})
    identity = answer.headers["x-router-decision-id"]
    assert answer.headers["x-router-reason"] == "low_confidence"
    assert stage.judge(identity, 0.5).status_code == 200
    page = operator.open("Decisions")
    page.get_by_label("Tag").fill("team=tested")
    page.get_by_role("button", name="Search").click()
    operator.settle()
    row = page.locator(f"button[data-decision='{identity}']")
    row.focus()
    page.keyboard.press("Enter")
    dialog = page.get_by_role("dialog")
    votes = dialog.get_by_role("group", name="Votes of the policies")
    expect(votes.get_by_role("row", name="cascade (about the draft)")).to_contain_text("low_confidence")
    expect(votes.get_by_role("row", name="cascade (about the draft)")).to_contain_text("0.4")
    for policy in ("long_context", "retrieval_confidence", "long_reasoning"):
        expect(votes.get_by_role("rowheader", name=policy, exact=True)).to_be_visible()
    expect(dialog.get_by_text("thrown away")).to_be_visible()
    expect(dialog.get_by_text("Score that counts: 0.5")).to_be_visible()
    expect(dialog.locator("pre", has_text="Where is it?").first).to_be_visible()
    page.keyboard.press("Escape")
    expect(dialog).to_have_count(0)
    expect(row).to_be_focused()


def test_looking_at_texts_leaves_a_line_in_the_audit_log(operator: Operator, stage: Stage) -> None:
    page = operator.open("Decisions")
    first = page.locator("button[data-decision]").first
    identity = first.get_attribute("data-decision")
    first.click()
    page.get_by_role("dialog").get_by_role("heading", name="Texts").wait_for()
    newest = stage.admin("GET", "audit?limit=1").json()["entries"][0]
    assert (newest["actor"], newest["action"], newest["detail"]) == ("ann", "decision.read_texts", identity)


def test_decisions_are_paged_and_filtered(operator: Operator) -> None:
    page = operator.open("Decisions")

    def shown() -> list[str | None]:
        operator.settle()
        return [row.get_attribute("data-decision") for row in page.locator("button[data-decision]").all()]

    first = shown()
    page.get_by_role("button", name="Older").click()
    expect(page.get_by_role("button", name="Newer")).to_be_enabled()
    second = shown()
    assert len(first) == len(second) == 50
    assert not set(first) & set(second)
    page.get_by_role("button", name="Newer").click()
    expect(page.get_by_role("button", name="Newer")).to_be_disabled()
    assert shown() == first
    page.get_by_label("Answered by").select_option("teacher")
    page.get_by_role("button", name="Search").click()
    operator.settle()
    routes = page.get_by_role("group", name="Decisions").locator("td:nth-child(2)").all_inner_texts()
    assert set(routes) == {"teacher"}
    page.get_by_label("Reason").fill("no such reason")
    page.get_by_role("button", name="Search").click()
    expect(page.get_by_text("No decision fits.")).to_be_visible()


ATTACK = "<img src=x onerror='window.hacked=1'><script>window.hacked=1</script>"


def test_what_clients_send_stays_text(operator: Operator, stage: Stage) -> None:
    tagged = stage.ask(f"[[fake-echo]] {ATTACK}", router={"tags": {"team": ATTACK}, "session": "s'\"<b>"})
    assert tagged.status_code == 200
    stage.ask("hi", model=ATTACK)
    page = operator.open("Decisions")
    assert page.locator(f"text={ATTACK}").count() >= 2
    page.locator(f"button[data-decision='{tagged.headers['x-router-decision-id']}']").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_role("heading", name="Texts").wait_for()
    expect(dialog.locator("pre", has_text=ATTACK).first).to_be_visible()
    assert page.evaluate("() => window.hacked") is None
    assert page.locator("main img, main script, dialog img, dialog script, dialog b >> nth=9").count() == 0


def test_problems_of_a_document_are_shown_at_their_lines(operator: Operator, stage: Stage) -> None:
    version = stage.policy()["version"]
    page = operator.open("Policy")
    editor = page.get_by_label("Policy document, JSON")
    text = editor.input_value()
    editor.fill(text.replace('"escalate_below": 0.55', '"escalate_below": 55'))
    page.get_by_role("button", name="Check").click()
    line = text.split('"escalate_below"')[0].count("\n") + 1
    expect(page.get_by_role("alert")).to_contain_text("escalate_below")
    expect(page.get_by_role("button", name=f"Line {line}")).to_be_visible()
    expect(page.locator(".lines .wrong")).to_contain_text(str(line))
    selected = "e => e.value.slice(e.selectionStart, e.selectionEnd)"
    assert '"escalate_below": 55' in editor.evaluate(selected)
    editor.fill(text.replace('"routing": {', '"routing": {,', 1))
    page.get_by_role("button", name="Check").click()
    expect(page.get_by_role("alert")).to_contain_text("not JSON")
    expect(page.get_by_role("button", name="Line 2")).to_be_visible()
    editor.fill(text.replace('"escalate_below": 0.55', '"escalate_below": 0.5'))
    page.get_by_role("button", name="Check").click()
    expect(page.get_by_text("This gateway can use it. Nothing was changed.")).to_be_visible()
    assert stage.policy()["version"] == version


def test_students_view_says_what_is_missing_when_there_is_no_registry(operator: Operator) -> None:
    page = operator.open("Students")
    expect(page.get_by_text("student.registry")).to_be_visible()


def test_console_works_when_nothing_but_the_gateway_can_be_reached(make_operator: MakeOperator, stage: Stage) -> None:
    operator = make_operator()

    def only_home(route: Any) -> None:
        if route.request.url.startswith(stage.origin):
            route.continue_()
        else:
            route.abort()

    operator.page.route("**/*", only_home)
    for view in ("Overview", "Thresholds", "Decisions", "Quality", "Students", "Policy"):
        operator.open(view)
    assert operator.foreign_requests() == []


def test_thresholds_show_what_was_proven_and_that_it_does_not_hold_any_more(operator: Operator) -> None:
    promise = {"max_quality_loss": 0.02, "confidence": 0.95, "n": 2079}
    told = [
        {"policy": "difficulty", "status": "valid", "causes": [], **promise},
        {"policy": "cascade", "status": "void", "causes": ["teacher_changed"], **promise},
    ]

    def certified(route: Any) -> None:
        answer = route.fetch()
        route.fulfill(response=answer, json={**answer.json(), "certificates": told})

    operator.page.route("**/admin/policy", certified)
    page = operator.open("Thresholds")
    expect(page.get_by_text("Certificate of difficulty: at most 2 points lost, 95 % confidence")).to_be_visible()
    expect(page.get_by_text("The certificate of cascade is void (teacher changed)")).to_be_visible()
