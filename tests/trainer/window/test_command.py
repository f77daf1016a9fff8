"""`python -m trainer.window`: what is collected, measured and written."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner

from loadtests.fake_backend import BackendThread
from tests.trainer.window.rows import ROWS
from trainer.window.__main__ import main
from trainer.window.analysis import analyse
from trainer.window.collect import collect, read
from trainer.window.delays import FOLDER, Delay, Delays, busy_share, delays
from trainer.window.table import tables, write_into
from trainer.window.tasks import Task


@pytest.fixture
def backend() -> Iterator[BackendThread]:
    with BackendThread(models=("student",)) as running:
        yield running


async def test_collecting_goes_on_where_it_was_stopped(backend: BackendThread, tmp_path: Path) -> None:
    chosen = [Task(f"t-{n}", "x", [{"role": "user", "content": "hi"}], "The quick brown") for n in range(6)]
    file = tmp_path / "answers.jsonl"
    url = f"{backend.base_url}/"
    for count in (4, 6):
        rows = await collect(chosen[:count], url, "fake-tokens-3-logprob-0.5", file, concurrency=3, max_tokens=9)
        assert len(rows) == count
        file.write_bytes(file.read_bytes() + b'{"torn')
    assert backend.state.requests == 6
    first = read(file)[0]
    assert first.right and first.logprobs == (-0.5, -0.5, -0.5) and len(first.times_s) == 3
    assert not first.stop_token  # this backend lists the tokens of the text only


def done(work: Path) -> list[str]:
    """A run that is done, of tasks from a file; its options."""
    tasks = work / "tasks.jsonl"
    tasks.write_bytes(
        b"\n".join(msgspec.json.encode({"id": each.task_id, "messages": [], "label": "x"}) for each in ROWS)
    )
    alone = [msgspec.structs.replace(each, concurrency=1) for each in ROWS[:12]]
    for folder, rows in (("labelled", ROWS), (FOLDER, [*ROWS[:72], *alone])):
        (work / folder).mkdir()
        (work / folder / "answers.jsonl").write_bytes(b"\n".join(map(msgspec.json.encode, rows)) + b"\n")
    options = [
        "--work",
        work,
        "--base-url",
        "http://127.0.0.1:1/v1",
        "--tasks",
        tasks,
        "--count",
        240,
        "--concurrency",
        8,
    ]
    return [str(each) for each in options]


def test_command_writes_figures_plot_and_tables_of_a_run_that_is_done(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    result = CliRunner().invoke(main, [*done(tmp_path), "--only", "answers"])
    assert result.exit_code == 0, result.output
    assert "| whole answer | 1.000 " in result.output
    assert "| 32 | 0.31 / 0.31 s | 0.31 / 0.31 s | - |" in result.output
    assert (tmp_path / "window.png").read_bytes().startswith(b"\x89PNG")
    assert msgspec.json.decode((tmp_path / "window.json").read_bytes())["families"][0]["answers"] == 240


def test_command_puts_the_tables_into_a_page_and_the_plot_beside_it(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    options = done(tmp_path)
    page = tmp_path / "page.md"
    names = tables([analyse("x", ROWS, resamples=2)], Delays(), lambda name: name)
    page.write_text("before\n" + "".join(f"<!-- {name}: generated -->\nold\n<!-- end -->\nprose\n" for name in names))
    result = CliRunner().invoke(main, [*options, "--only", "report", "--page", str(page)])
    assert result.exit_code == 0, result.output
    text = page.read_text()
    assert "old" not in text and text.startswith("before\n") and text.count("prose") == len(names)
    assert "| **" not in text and "| 32 | 1.000 [1.000, 1.000] | 100.0% [93, 100] |" in text
    assert page.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    write_into(page, dict.fromkeys(names, "new"))
    assert page.read_text().count("\nnew\n") == len(names)


def test_command_says_which_mark_a_page_lacks(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    page = tmp_path / "page.md"
    page.write_text("no marks")
    options = [*done(tmp_path), "--only", "report", "--page", str(page)]
    result = CliRunner().invoke(main, options)
    assert result.exit_code == 1
    assert "<!-- delays: generated -->" in result.output
    assert page.read_text() == "no marks"


def test_command_ends_with_1_and_the_reason_when_the_student_cannot_be_reached(tmp_path: Path) -> None:
    options = done(tmp_path)
    (tmp_path / "labelled" / "answers.jsonl").unlink()
    result = CliRunner().invoke(main, [*options, "--only", "answers"])
    assert result.exit_code == 1
    assert isinstance(result.exception, SystemExit) and "Error: " in result.output


def test_tables_show_delays_when_there_are_no_answers_yet() -> None:
    found = tables(
        [], Delays(added=(Delay(tokens=32, concurrency=1, p50_s=0.3, p90_s=0.4),), busy=0.05), lambda name: name
    )
    assert list(found) == ["delays"]
    assert "| 32 | 0.30 / 0.40 s | - |" in found["delays"]
    assert found["delays"].endswith("began was 5% of the cores.")


def test_tasks_of_another_form_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "tasks.jsonl"
    file.write_text('{"id": "a"}\n')
    result = CliRunner().invoke(main, ["--work", str(tmp_path / "w"), "--tasks", str(file)])
    assert result.exit_code == 2
    assert "messages" in result.output


def test_delays_of_a_folder_that_is_not_there_are_none(tmp_path: Path) -> None:
    assert delays(tmp_path) == Delays()


def test_busy_share_is_that_of_all_cores_between_two_readings() -> None:
    before = "cpu  100 0 100 700 100 0 0 0 9 9\ncpu0 1 1\n"
    after = "cpu  120 5 110 740 120 1 2 2 99 99\ncpu0 1 1\n"
    assert busy_share(before, after) == pytest.approx(0.4)  # 40 of 100 ticks; guests count as user already
    assert busy_share(before, before) is None
