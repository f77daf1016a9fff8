"""`python -m trainer.budget`: a table, a picture, and figures of one's own outcomes."""

from __future__ import annotations

import random
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner

from trainer.budget.__main__ import main


def write_files(folder: Path, *, gap: bool = True, top: float = 1.0) -> list[str]:
    rng = random.Random(0)
    rows, scores = ["id,small,large,tokens"], ["id,score"]
    for number in range(400):
        score = rng.random()
        small = int(rng.random() > score)
        rows.append(f"q{number},{small},{1 if gap else 0},{rng.randint(20, 900)}")
        scores.append(f"q{number},{score * top:.4f}")
    (folder / "data.csv").write_text("\n".join(rows))
    (folder / "scores.csv").write_text("\n".join(scores))
    options = {
        "--data": "data.csv",
        "--scores": "scores.csv",
        "--weak": "small",
        "--strong": "large",
        "--tokens": "tokens",
    }
    return [part for key, value in options.items() for part in (key, str(folder / value) if "csv" in value else value)]


SHORT = ["--per-day", "400", "--scenario", "first day"]


def test_table_has_every_controller_and_lands_in_the_page(tmp_path: Path) -> None:
    page, picture = tmp_path / "page.md", tmp_path / "day.png"
    page.write_text("before\n<!-- simulation -->\nold\n<!-- end -->\nafter\n")
    found = CliRunner().invoke(
        main, [*SHORT, *write_files(tmp_path), "--write", str(page), "--plot", str(picture)], catch_exceptions=False
    )
    assert found.exit_code == 0
    assert [line.split("|")[2].strip() for line in found.output.splitlines()[2:]] == [
        "`budget`", "cut-off", "PID", "oracle",
    ]  # fmt: skip
    text = page.read_text()
    assert text.startswith("before\n<!-- simulation -->\n| day |")
    assert text.endswith("|\n<!-- end -->\nafter\n")
    assert "old" not in text
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_figures_are_within_bounds_and_the_oracle_is_best(tmp_path: Path) -> None:
    found = CliRunner().invoke(main, [*SHORT, *write_files(tmp_path), "--json"], catch_exceptions=False)
    rows = {row["controller"]: row for row in msgspec.json.decode(found.output)}
    assert all(0.0 <= row["share"] <= 1.0 for row in rows.values())
    assert rows["oracle"]["spend_ratio"] <= 1.0
    assert rows["oracle"]["recovered"] >= max(rows["budget"]["recovered"], rows["PID"]["recovered"]) - 0.05


def test_means_over_seeds_say_what_could_be_chance(tmp_path: Path) -> None:
    arguments = [*SHORT, *write_files(tmp_path), "--seeds", "3"]
    found = CliRunner().invoke(main, arguments, catch_exceptions=False)
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in found.output.splitlines()[2:]]
    assert [row[1] for row in rows] == ["`budget`", "cut-off", "PID", "oracle"]
    assert all(row[3] <= row[2] <= row[4] or "100" in row[4] for row in rows)
    assert rows[2][-1] == "" and "±" in rows[0][-1] and rows[0][5].endswith("of 3")
    refused = CliRunner().invoke(main, [*arguments, "--json"])
    assert refused.exit_code == 2 and "--seeds" in refused.output


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"--weak": "tiny"}, "has no column 'tiny'"),
        ({"--tokens": "id"}, "column 'id'"),
        ({"--scores": ""}, "needs --scores"),
    ],
)
def test_wrong_files_are_refused_by_name(tmp_path: Path, changes: dict[str, str], message: str) -> None:
    arguments = write_files(tmp_path)
    for key, value in changes.items():
        place = arguments.index(key)
        arguments[place : place + 2] = [key, value] if value else []
    found = CliRunner().invoke(main, [*SHORT, *arguments])
    assert found.exit_code == 2
    assert message in found.output


@pytest.mark.parametrize(("gap", "top", "message"), [(False, 1.0, "no gap to recover"), (True, 3.0, "lie in [0, 1]")])
def test_outcomes_that_say_nothing_are_refused(tmp_path: Path, gap: bool, top: float, message: str) -> None:
    found = CliRunner().invoke(main, [*SHORT, *write_files(tmp_path, gap=gap, top=top)])
    assert found.exit_code == 2
    assert message in found.output
