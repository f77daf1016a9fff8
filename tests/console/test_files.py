"""The console's files: what they may not contain, and how the gateway serves them."""

from __future__ import annotations

import re
import tomllib
from itertools import product
from pathlib import Path

import httpx
import pytest

from router.admin.console import FOLDER, MEDIA_TYPES
from tests.contract.conftest import RunningGateway, StartGateway

ENVIRON = {"KEYS": "acme=client-key-1", "ADMIN": "ann=admin-key-0123456789"}
AUTH = '[auth]\nkeys_env = "KEYS"\nadmin_key_env = "ADMIN"\n[admin]\ndir = "{folder}"'
MODULES = sorted(path.name for path in FOLDER.glob("*.js"))


@pytest.fixture
def guarded(start_gateway: StartGateway, tmp_path: Path) -> RunningGateway:
    return start_gateway(environ=ENVIRON, rest=AUTH.format(folder=tmp_path / "admin"))


def get(gateway: RunningGateway, path: str, **headers: str) -> httpx.Response:
    return httpx.get(f"{gateway.origin}{path}", headers=headers, trust_env=False)


def test_page_is_served_without_a_key_and_holds_no_data(guarded: RunningGateway) -> None:
    answer = get(guarded, "/admin/console")
    assert (answer.status_code, answer.headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert answer.content == (FOLDER / "index.html").read_bytes()
    assert get(guarded, "/admin/summary").status_code == 401
    assert get(guarded, "/admin/decisions").status_code == 401


def test_every_file_forbids_what_it_does_not_need(guarded: RunningGateway) -> None:
    for path in ("/admin/console", *(f"/admin/console/{name}" for name in MODULES)):
        headers = get(guarded, path).headers
        policy = dict(part.strip().split(" ", 1) for part in headers["content-security-policy"].split(";"))
        assert policy["default-src"] == "'none'"
        assert (policy["script-src"], policy["style-src"], policy["connect-src"]) == ("'self'",) * 3
        assert policy["frame-ancestors"] == policy["base-uri"] == policy["form-action"] == "'none'"
        assert policy["require-trusted-types-for"] == "'script'"
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"
        assert not any(name.startswith("access-control-") for name in headers)


def test_file_is_kept_by_the_browser_until_it_changes(guarded: RunningGateway) -> None:
    first = get(guarded, "/admin/console/app.js")
    assert first.headers["cache-control"] == "no-cache"
    again = get(guarded, "/admin/console/app.js", **{"if-none-match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert get(guarded, "/admin/console/app.js", **{"if-none-match": '"other"'}).status_code == 200


@pytest.mark.parametrize(
    "path",
    [
        "nothing.js",
        "index.html",
        "closed.html",
        "..%2fcontrol.py",
        "%2e%2e/control.py",
        "..\\control.py",
        "a/app.js",
        "",
    ],
)
def test_nothing_else_is_served(guarded: RunningGateway, path: str) -> None:
    assert get(guarded, f"/admin/console/{path}").status_code == 404


def test_gateway_without_an_admin_key_says_how_to_set_one(gateway: RunningGateway) -> None:
    answer = get(gateway, "/admin/console")
    assert "admin_key_env" in answer.text
    assert "<script" not in answer.text
    assert get(gateway, "/admin/summary").status_code == 404


@pytest.mark.parametrize("page", ["index.html", "closed.html"])
def test_pages_have_nothing_inline_and_nothing_from_elsewhere(page: str) -> None:
    text = (FOLDER / page).read_text()
    assert re.findall(r"<script(?![^>]*\ssrc=)|<style|\son\w+=|\sstyle=|javascript:", text) == []
    links = re.findall(r'(?:src|href)="([^"#]+)"', text)
    assert links
    for link in links:
        assert link.startswith("console/")
        assert (FOLDER / link.removeprefix("console/")).is_file()


@pytest.mark.parametrize("name", MODULES)
def test_modules_build_no_markup_from_text(name: str) -> None:
    text = (FOLDER / name).read_text()
    forbidden = r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function|DOMParser|srcdoc|createContextualFragment"
    assert re.findall(forbidden, text) == []
    urls = [url for url in re.findall(r"https?://[^\s\"'`]+", text) if url != "http://www.w3.org/2000/svg"]
    assert urls == []
    assert len(text.splitlines()) <= 300


@pytest.mark.parametrize("name", MODULES)
def test_modules_import_what_is_there(name: str) -> None:
    for imported, source in re.findall(r"import \{([^}]+)\} from \"([^\"]+)\"", (FOLDER / name).read_text()):
        target = (FOLDER / source).read_text()
        for each in imported.split(","):
            assert re.search(rf"export (?:async )?(?:function|class|const) {each.strip()}\b", target), (source, each)


def test_files_are_part_of_the_wheel() -> None:
    build = tomllib.loads((FOLDER.parents[1] / "pyproject.toml").read_text())["tool"]["hatch"]["build"]
    assert "router" in build["targets"]["wheel"]["packages"]  # with everything in it that git knows
    assert "exclude" not in build["targets"]["wheel"]
    assert {path.suffix for path in FOLDER.iterdir()} == set(MEDIA_TYPES)


def colours() -> dict[str, tuple[str, str]]:
    """name -> light, dark."""
    found = re.findall(r"--([a-z-]+): light-dark\((#[0-9a-f]{6}), (#[0-9a-f]{6})\)", (FOLDER / "base.css").read_text())
    return {name: (light, dark) for name, light, dark in found}


def luminance(colour: str) -> float:
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    """As WCAG 2.2 defines it."""
    lighter, darker = sorted((luminance(one), luminance(other)), reverse=True)
    return (lighter + 0.05) / (darker + 0.05)


BACKGROUNDS = ("page", "surface", "sunken")
TEXTS = ("text", "muted", "accent", "student", "teacher", "good", "bad")
ON_THEIR_OWN = [("warn", "warn-back"), ("bad", "bad-back"), ("good", "good-back"), ("text", "note-back"),
                ("on-accent", "accent"), ("accent", "note-back")]  # fmt: skip
GRAPHICS = ("control", "baseline", "student", "teacher", "good", "accent")


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_texts_and_graphics_stand_out(dark: bool) -> None:
    pairs = [(text, back, 4.5) for text, back in [*product(TEXTS, BACKGROUNDS), *ON_THEIR_OWN]]
    pairs += [(graphic, back, 3.0) for graphic, back in product(GRAPHICS, BACKGROUNDS)]
    known = colours()
    weak = {
        (one, other): round(found, 2)
        for one, other, least in pairs
        if (found := contrast(known[one][dark], known[other][dark])) < least
    }
    assert weak == {}


def test_contrast_is_the_standards_own() -> None:
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.01)
