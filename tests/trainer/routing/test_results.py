"""The results page: measured once for the same data and code, and put together without a place left open."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from click.testing import CliRunner

from trainer.routing.results import page
from trainer.routing.results.__main__ import main
from trainer.routing.results.datasets import DATA_SETS
from trainer.routing.results.kept import DataMissing, Kept, sha256_of
from trainer.routing.results.section import Found, Note, Section
from trainer.routing.results.sections import load


class Counted:
    name = "counted"
    files = ("a.csv",)
    code = ("trainer.routing.results.page",)

    def __init__(self) -> None:
        self.measured = 0

    def measure(self, data: Path, note: Note) -> Found:
        self.measured += 1
        return {"rows": len((data / "a.csv").read_text().splitlines())}

    def write(self, found: Found, pictures: Path) -> Sequence[str]:
        return [f"{found['rows']} rows"]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "a.csv").write_text("1\n2\n")
    sha256_of.cache_clear()
    return folder


def measured(section: Counted, data: Path) -> Callable[[], Found]:
    return lambda: section.measure(data, lambda how: None)


def test_part_is_measured_again_only_when_its_data_change(tmp_path: Path, data: Path) -> None:
    section, kept = Counted(), Kept(tmp_path / "kept")
    assert kept.result(section, data, measured(section, data)) == ({"rows": 2}, False)
    assert kept.result(section, data, measured(section, data)) == ({"rows": 2}, True)
    (data / "a.csv").write_text("1\n2\n3\n")
    sha256_of.cache_clear()
    assert kept.result(section, data, measured(section, data)) == ({"rows": 3}, False)
    assert section.measured == 2


def test_result_is_known_once_it_was_measured(tmp_path: Path, data: Path) -> None:
    section, kept = Counted(), Kept(tmp_path / "kept")
    assert kept.known(section, data) is None
    kept.result(section, data, measured(section, data))
    assert kept.known(section, data) == {"rows": 2}


def test_part_is_measured_again_when_its_code_changes(tmp_path: Path, data: Path) -> None:
    section, kept = Counted(), Kept(tmp_path / "kept")
    kept.result(section, data, measured(section, data))
    section.code = ("trainer.routing.results.kept",)
    assert not kept.result(section, data, measured(section, data))[1]


def test_missing_file_is_named(tmp_path: Path, data: Path) -> None:
    (data / "a.csv").unlink()
    with pytest.raises(DataMissing, match=r"a\.csv"):
        Kept(tmp_path / "kept").result(Counted(), data, dict)


def test_page_is_refused_when_a_place_is_left_or_a_part_has_none() -> None:
    assert page.filled("# A\n\n{{ one }}\n\nend\n", {"one": ["x", "y"]}) == "# A\n\nx\ny\n\nend\n"
    with pytest.raises(ValueError, match="'one'"):
        page.filled("{{ one }}", {})
    with pytest.raises(ValueError, match="two"):
        page.filled("{{ one }}", {"one": [], "two": []})


def test_template_has_a_place_for_every_part_and_every_file_is_described() -> None:
    sections: list[Section] = load()
    names = [each.name for each in sections]
    assert len(set(names)) == len(names)
    page.filled(page.TEMPLATE.read_text(), {name: [""] for name in [*names, "data", "negative", "circumstances"]})
    assert {file for each in sections for file in each.files} <= set(DATA_SETS)


def test_command_says_what_is_missing_when_the_data_are_not_there(data: Path, tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["--data", str(data), "--docs", str(tmp_path), "--kept", str(tmp_path / "kept")])
    assert result.exit_code == 2
    assert "cannot be read" in result.output
    assert not list(tmp_path.glob("*.md"))


def test_kept_results_are_plain_json(tmp_path: Path, data: Path) -> None:
    section = Counted()
    Kept(tmp_path / "kept").result(section, data, measured(section, data))
    (file,) = (tmp_path / "kept").iterdir()
    assert json.loads(file.read_text()) == {"rows": 2}
