"""The order of stages, content addresses, resuming, damage."""

from __future__ import annotations

import errno
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer import run_folder
from trainer.pipeline import Pipeline, StageFailed
from trainer.recipe import Recipe
from trainer.reporting import EtaClock, PlainReporter
from trainer.run_folder import Busy, content_address
from trainer.stage import Json, StageContext, StageError, Summary


@dataclass
class Step:
    """A stage that writes its name and what it read, and counts its runs."""

    name: str
    needs: tuple[str, ...] = ()
    version: int = 1
    option: Json = None
    error: BaseException | None = None
    runs: list[Path] = field(default_factory=list)
    found: list[str] = field(default_factory=list)

    def key(self, recipe: Recipe) -> Json:
        if isinstance(self.option, str) and self.option == "wrong":
            raise StageError("option: is wrong")
        return self.option

    def run(self, context: StageContext) -> Summary:
        self.runs.append(context.folder)
        self.found = sorted(path.name for path in context.folder.iterdir())
        read = [(context.inputs[need] / "out.txt").read_text() for need in self.needs]
        (context.folder / "half.txt").write_text("half")
        if self.error is not None:
            raise self.error
        (context.folder / "out.txt").write_text(f"{self.name}({','.join(read)})")
        return {"read": list(context.summaries)}


def silent() -> PlainReporter:
    return PlainReporter(lambda line: None)


@pytest.fixture
def steps() -> list[Step]:
    return [Step("a"), Step("b", ("a",)), Step("c", ("a", "b"))]


@pytest.fixture
def run_recipe(recipe: Callable[..., Recipe]) -> Recipe:
    return recipe()


def test_run_hands_outputs_on_and_runs_nothing_twice(run_recipe: Recipe, steps: list[Step]) -> None:
    pipeline = Pipeline(run_recipe, steps)
    records = pipeline.run(silent())
    out = run_folder.stage_folder(pipeline.folder, "c", records["c"].address) / "out.txt"
    assert out.read_text() == "c(a(),b(a()))"
    assert records["c"].inputs == {"a": records["a"].address, "b": records["b"].address}
    assert pipeline.run(silent()) == records
    assert [len(step.runs) for step in steps] == [1, 1, 1]


def test_changed_option_runs_only_what_depends_on_it(run_recipe: Recipe, steps: list[Step]) -> None:
    Pipeline(run_recipe, steps).run(silent())
    steps[1].option = "other"
    Pipeline(run_recipe, steps).run(silent())
    assert [len(step.runs) for step in steps] == [1, 2, 2]
    steps[1].option = None
    Pipeline(run_recipe, steps).run(silent())
    assert [len(step.runs) for step in steps] == [1, 2, 2]


def test_from_runs_again_and_to_stops(run_recipe: Recipe, steps: list[Step]) -> None:
    pipeline = Pipeline(run_recipe, steps)
    assert list(pipeline.run(silent(), end="b")) == ["a", "b"]
    pipeline.run(silent())
    pipeline.run(silent(), start="b")
    assert [len(step.runs) for step in steps] == [1, 2, 2]
    pipeline.run(silent(), start="b", end="b")
    assert [len(step.runs) for step in steps] == [1, 3, 2]
    assert pipeline.status()[2].state == "pending"  # what was built on the old b is not taken for built on the new one
    with pytest.raises(StageError, match="comes after"):
        pipeline.run(silent(), start="c", end="a")


@pytest.mark.parametrize("error", [KeyboardInterrupt(), StageError("x: no"), RuntimeError("a bug")])
def test_interrupted_stage_finds_its_folder_again(run_recipe: Recipe, steps: list[Step], error: BaseException) -> None:
    steps[1].error = error
    pipeline = Pipeline(run_recipe, steps)
    with pytest.raises((KeyboardInterrupt, StageFailed, RuntimeError)):
        pipeline.run(silent())
    assert [each.state for each in pipeline.status()] == ["finished", "interrupted", "pending"]
    steps[1].error = None
    records = pipeline.run(silent())
    assert steps[1].runs[0] == steps[1].runs[1]
    assert steps[1].found == ["half.txt"]
    assert records["b"].resumed
    assert len(steps[0].runs) == 1


def test_leftovers_of_a_killed_run_are_removed_and_what_can_be_resumed_is_kept(
    run_recipe: Recipe, steps: list[Step]
) -> None:
    steps[1].error = KeyboardInterrupt()
    pipeline = Pipeline(run_recipe, steps)
    with pytest.raises(KeyboardInterrupt):
        pipeline.run(silent())
    left = steps[1].runs[0]
    (left / "parts").mkdir()
    (left / "parts" / "000001.partial").write_text("torn")
    (left / ".model.partial").mkdir()
    (left / ".model.partial" / "weights").write_text("torn")
    (left / "report.json.1.partial").write_text("torn")
    (left / "parts" / "000000.parquet").write_text("whole")
    steps[1].error = None
    records = pipeline.run(silent())
    assert steps[1].found == ["half.txt", "parts"]
    assert records["b"].files.keys() == {"half.txt", "out.txt", "parts/000000.parquet"}


def test_unfinished_folder_of_another_recipe_goes_when_its_stage_has_finished(
    run_recipe: Recipe, steps: list[Step]
) -> None:
    steps[1].error = KeyboardInterrupt()
    pipeline = Pipeline(run_recipe, steps)
    with pytest.raises(KeyboardInterrupt):
        pipeline.run(silent())
    abandoned = steps[1].runs[0]
    mine = abandoned.with_name("notes.partial")  # no stage made this
    mine.mkdir()
    steps[1].option = "other"
    with pytest.raises(KeyboardInterrupt):
        Pipeline(run_recipe, steps).run(silent())
    assert abandoned.exists()  # the recipe may still be turned back
    steps[1].error = None
    lines: list[str] = []
    Pipeline(run_recipe, steps).run(PlainReporter(lines.append))
    assert not abandoned.exists() and mine.exists()
    assert any(f"b: removed {abandoned.name}" in line for line in lines)


def test_full_disk_is_named_and_the_run_goes_on_when_there_is_space(run_recipe: Recipe, steps: list[Step]) -> None:
    steps[1].error = OSError(errno.ENOSPC, "No space left on device")
    pipeline = Pipeline(run_recipe, steps)
    with pytest.raises(StageFailed, match=r"b: the disk of .* is full .*free space and run the same command again"):
        pipeline.run(silent())
    steps[1].error = None
    assert pipeline.run(silent())["c"].files.keys() == {"out.txt", "half.txt"}


def test_record_that_was_written_before_the_kill_is_taken(run_recipe: Recipe, steps: list[Step]) -> None:
    pipeline = Pipeline(run_recipe, steps)
    records = pipeline.run(silent())
    folder = run_folder.stage_folder(pipeline.folder, "b", records["b"].address)
    folder.rename(run_folder.partial_of(folder))
    assert pipeline.status()[1].state == "interrupted"
    assert pipeline.run(silent())["b"] == records["b"]
    assert len(steps[1].runs) == 1


def test_wrong_option_of_a_late_stage_is_found_before_anything_runs(run_recipe: Recipe, steps: list[Step]) -> None:
    steps[2].option = "wrong"
    pipeline = Pipeline(run_recipe, steps)
    with pytest.raises(StageError, match="c: option: is wrong"):
        pipeline.run(silent())
    assert not steps[0].runs
    assert [each.state for each in pipeline.status()] == ["pending", "pending", "blocked"]
    pipeline.run(silent(), end="b")


def test_second_run_in_a_work_folder_is_refused(run_recipe: Recipe, steps: list[Step]) -> None:
    pipeline = Pipeline(run_recipe, steps)
    with run_folder.exclusive(Path(run_recipe.work_dir)), pytest.raises(Busy, match="another run"):
        pipeline.run(silent())
    pipeline.run(silent())


def test_truncated_output_stops_the_run_and_names_the_stage(run_recipe: Recipe, steps: list[Step]) -> None:
    pipeline = Pipeline(run_recipe, steps)
    records = pipeline.run(silent())
    out = run_folder.stage_folder(pipeline.folder, "b", records["b"].address) / "out.txt"
    out.write_text("b")
    assert pipeline.status()[1].state == "damaged"
    with pytest.raises(StageFailed, match="--from b"):
        pipeline.run(silent())
    pipeline.run(silent(), start="b")
    assert out.read_text() == "b(a())"


KEYS = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)
ADDRESSES = st.dictionaries(st.sampled_from("abc"), st.sampled_from(["0" * 64, "1" * 64]), max_size=3)
PARTS = st.tuples(st.sampled_from(["train", "split"]), st.integers(1, 3), KEYS, ADDRESSES)


def _canonical(value: Any) -> Any:
    """With the types that Python's == takes for equal (1, True) kept apart."""
    if isinstance(value, dict):
        return ("dict", frozenset((key, _canonical(each)) for key, each in value.items()))
    if isinstance(value, list | tuple):
        return ("list", tuple(_canonical(each) for each in value))
    return (type(value).__name__, value)


@given(PARTS, PARTS)
def test_content_address_is_equal_exactly_when_all_parts_are(one: Any, other: Any) -> None:
    assert (content_address(*one) == content_address(*other)) == (_canonical(one) == _canonical(other))


@given(PARTS)
def test_content_address_does_not_depend_on_the_order_of_keys(parts: Any) -> None:
    name, version, key, inputs = parts
    turned = dict(reversed(key.items())) if isinstance(key, dict) else key
    assert content_address(*parts) == content_address(name, version, turned, dict(reversed(inputs.items())))


def test_alarms_and_warnings_of_a_stage_are_shown_when_it_ends_and_when_it_is_taken_again(
    run_recipe: Recipe,
) -> None:
    class Gate(Step):
        def run(self, context: StageContext) -> Summary:
            return {**super().run(context), "verdict": "pass", "warnings": ["no safety set"], "alarms": ["look"]}

    for _ in range(2):
        lines: list[str] = []
        Pipeline(run_recipe, [Gate("gate")]).run(PlainReporter(lines.append))
        assert lines[-2:] == ["ALARM gate: look", "WARNING gate: no safety set"]
        assert "PASS with 1 warning" in lines[-3]


def test_eta_counts_from_where_a_resumed_run_began() -> None:
    now = [0.0]
    eta = EtaClock(lambda: now[0])
    assert eta.left_s(900, 1000, "rows") is None
    now[0] = 10.0
    assert eta.left_s(950, 1000, "rows") == pytest.approx(10.0)
    assert eta.left_s(0, 10, "other") is None


def test_plain_progress_is_a_line_now_and_then() -> None:
    now = [0.0]
    lines: list[str] = []
    reporter = PlainReporter(lines.append, lambda: now[0])
    reporter.started("train", 1, 2, resumed=True)
    for second in range(25):
        now[0] = float(second)
        reporter.progress(second * 10, 500, "steps")
    assert lines[0] == "[1/2] train (goes on where it stopped)"
    assert lines[1:] == ["  train: 100/500 steps, about 40 s left", "  train: 200/500 steps, about 30 s left"]
