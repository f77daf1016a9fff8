"""Simulate days of the budget controller: `python -m trainer.budget --plot budget.png`."""

from __future__ import annotations

from pathlib import Path

import click
import msgspec

from trainer.budget.population import BadData, population_of
from trainer.budget.report import as_json, plot, simulated, table, table_over_seeds, write_into
from trainer.budget.traffic import SCENARIOS, Population


@click.command()
@click.option("--scenario", "names", multiple=True, type=click.Choice([each.name for each in SCENARIOS]))
@click.option("--per-day", default=10_000, show_default=True, type=click.IntRange(min=200), help="Requests.")
@click.option(
    "--part", default=0.3, show_default=True, help="The budget, of what the policies want on an ordinary day."
)
@click.option("--seed", default=1, show_default=True)
@click.option(
    "--seeds", default=1, show_default=True, type=click.IntRange(min=1), help="Draw each day so often, and print means."
)
@click.option("--data", type=click.Path(exists=True, path_type=Path), help="CSV of outcomes; default: synthetic ones.")
@click.option("--scores", type=click.Path(exists=True, path_type=Path), help="CSV of `locum evaluate --scores-out`.")
@click.option("--weak", help="Column of --data.")
@click.option("--strong", help="Column of --data.")
@click.option("--tokens", help="Column of --data: tokens of the strong model's answer.")
@click.option("--threshold", type=click.FloatRange(0.0, 1.0), help="Escalated above it; default: 60 % of the queries.")
@click.option("--plot", "plot_path", type=click.Path(path_type=Path), help="The last scenario as a picture.")
@click.option("--write", "page", type=click.Path(exists=True, path_type=Path), help="Put the table into this page.")
@click.option("--json", "in_json", is_flag=True, help="Print JSON instead of a table.")
def main(  # noqa: PLR0913, PLR0917 - one parameter an option
    names: tuple[str, ...],
    per_day: int,
    part: float,
    seed: int,
    seeds: int,
    data: Path | None,
    scores: Path | None,
    weak: str | None,
    strong: str | None,
    tokens: str | None,
    threshold: float | None,
    plot_path: Path | None,
    page: Path | None,
    in_json: bool,
) -> None:
    """Spend, quality and steadiness of the policy `budget` and of simpler controllers, on the same simulated days."""
    population = Population.synthetic()
    if data is not None:
        if scores is None or weak is None or strong is None or tokens is None:
            raise click.UsageError("--data needs --scores, --weak, --strong and --tokens")
        try:
            population = population_of(data, scores, weak=weak, strong=strong, tokens=tokens, threshold=threshold)
        except BadData as exc:
            raise click.UsageError(str(exc)) from exc
    chosen = [each for each in SCENARIOS if not names or each.name in names]
    if seeds > 1:
        if in_json or page is not None or plot_path is not None:
            raise click.UsageError("--seeds prints a table of means: leave out --json, --write and --plot")
        drawn = [simulated(population, chosen, per_day=per_day, part=part, seed=seed + each) for each in range(seeds)]
        click.echo(table_over_seeds(drawn))
        return
    found = simulated(population, chosen, per_day=per_day, part=part, seed=seed)
    click.echo(msgspec.json.encode(as_json(found)).decode() if in_json else table(found))
    if page is not None:
        try:
            write_into(page, table(found))
        except ValueError as exc:
            raise click.UsageError(str(exc)) from exc
    if plot_path is not None:
        plot(found[-1], plot_path)


if __name__ == "__main__":
    main()
