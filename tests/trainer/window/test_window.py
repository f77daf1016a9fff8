"""The measurement of commit windows: what is collected, and what is made of it."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
import pytest
from click.testing import CliRunner

from loadtests.fake_backend import BackendThread
from trainer.evaluation.statistics import auroc
from trainer.window.__main__ import main
from trainer.window.analysis import analyse, mean_of
from trainer.window.collect import Row, collect, read
from trainer.window.plot import png
from trainer.window.table import lines
from trainer.window.tasks import Task, is_right, labelled, tasks


def row(number: int, right: bool, *, tokens: int = 60, turn: int = 20, seed: int = 0) -> Row:
    """What is wrong shows from the token `turn` on, and before it not at all."""
    draw = random.Random(f"{seed}/{number}")
    logprobs = [-0.1 * draw.random() - (1.0 if place >= turn and not right else 0.0) for place in range(tokens)]
    return Row(
        task_id=f"t-{number}", kind="x", right=right, finish_reason="stop", text="", logprobs=tuple(logprobs),
        times_s=tuple(0.01 * place for place in range(tokens)), ttft_s=0.1, concurrency=8,
    )  # fmt: skip


ROWS = [row(number, number % 3 == 0) for number in range(240)]


def test_analysis_sees_what_is_wrong_from_where_it_shows() -> None:
    analysis = analyse(ROWS, resamples=20)
    by_size = {size.tokens: size for size in analysis.sizes}
    assert (analysis.answers, analysis.right) == (240, pytest.approx(1 / 3))
    assert 0.4 < by_size[16].auroc < 0.6
    assert by_size[32].auroc == by_size[0].auroc == 1.0
    assert by_size[16].low < by_size[16].auroc < by_size[16].high
    assert by_size[64].whole_share == 1.0 and by_size[32].whole_share == 0.0
    assert by_size[32].ece_prefix is not None and by_size[32].ece_prefix < 0.1
    waits = {delay.tokens: delay.p50_s for delay in analysis.delays}
    assert waits[1] == 0.0 and waits[32] == pytest.approx(0.31)


def test_alarm_stops_wrong_answers_that_the_window_has_let_through() -> None:
    late = [row(number, number % 3 == 0, tokens=120, turn=40) for number in range(240)]
    analysis = analyse(late, resamples=5)
    alarm = next(each for each in analysis.alarms if (each.window_tokens, each.threshold) == (32, 0.7))
    assert alarm.wrong_stopped > 0.9 and alarm.right_stopped < 0.05
    assert alarm.median_token is not None and alarm.median_token >= 64


def test_window_that_grows_finds_more_than_one_that_does_not() -> None:
    analysis = analyse([row(n, n % 3 == 0, tokens=120, turn=40) for n in range(240)], resamples=5)
    fixed, grown = (next(g for g in analysis.growths if (g.tokens, g.max_tokens, g.band) == (16, 128, band))
                    for band in (0.0, 0.3))  # fmt: skip
    assert fixed.mean_tokens == 16.0 < grown.mean_tokens
    assert grown.wrong_found > fixed.wrong_found + 0.3


def test_answers_of_one_kind_cannot_be_analysed() -> None:
    with pytest.raises(ValueError, match="both outcomes"):
        analyse([row(number, True) for number in range(50)])


def test_auroc_counts_ties_half() -> None:
    assert auroc(np.array([1.0, 1.0, 0.0]), np.array([True, False, False])) == 0.75


def test_mean_leaves_the_stop_token_out_of_whole_answers_only() -> None:
    answer = msgspec.structs.replace(ROWS[0], logprobs=(-1.0, -3.0, -20.0))
    assert mean_of(answer, 2) == -2.0
    assert mean_of(answer, 3) == mean_of(answer, 0) == -2.0
    assert mean_of(msgspec.structs.replace(answer, finish_reason="length"), 0) == -8.0


def test_tasks_are_the_same_every_time_and_a_longer_list_begins_with_a_shorter_one() -> None:
    assert tasks(40)[:12] == tasks(12)
    for task in tasks(12):
        assert is_right(task, task.answer + " .") and not is_right(task, task.answer[:-1])
        assert [message["role"] for message in task.messages] == ["user", "assistant"] * 2 + ["user"]


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


def test_command_writes_figures_plot_and_table_of_a_run_that_is_done(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    file = tmp_path / "tasks.jsonl"
    file.write_bytes(
        b"\n".join(msgspec.json.encode({"id": each.task_id, "messages": [], "label": "x"}) for each in ROWS)
    )
    alone = [msgspec.structs.replace(each, concurrency=1) for each in ROWS[:12]]
    (tmp_path / "answers.jsonl").write_bytes(b"\n".join(map(msgspec.json.encode, [*ROWS, *alone])) + b"\n")
    options = ["--work", tmp_path, "--base-url", "http://127.0.0.1:1/v1", "--tasks", file, "--count", 240]
    result = CliRunner().invoke(main, [str(each) for each in (*options, "--streams", 0, "--concurrency", 8)])
    assert result.exit_code == 0, result.output
    assert "| whole answer | 1.000 " in result.output
    assert (tmp_path / "window.png").read_bytes().startswith(b"\x89PNG")
    assert msgspec.json.decode((tmp_path / "window.json").read_bytes())["analysis"]["answers"] == 240


def test_tasks_of_another_form_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "tasks.jsonl"
    file.write_text('{"id": "a"}\n')
    result = CliRunner().invoke(main, ["--work", str(tmp_path / "w"), "--tasks", str(file)])
    assert result.exit_code == 2
    assert "messages" in result.output


def test_table_and_plot_of_an_analysis_without_delays(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    analysis = msgspec.structs.replace(analyse(ROWS, resamples=5), delays=())
    assert any(line.startswith("| 32 tokens |") for line in lines(analysis, {}))
    assert png(analysis)
    assert labelled.__doc__
