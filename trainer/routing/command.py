"""`locum evaluate`: what routing would be worth on labelled outcomes, before anyone relies on it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
from rich.console import Console

from serving.demo.progress import Steps

_FILE = click.Path(dir_okay=False, path_type=Path)


class WrongInput(click.ClickException):
    exit_code = 2


class Negative(click.ClickException):
    exit_code = 1


@click.command()
@click.argument("data", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--weak", required=True, metavar="COL", help="How well the weak model answered: 0 to 1, mostly 0 or 1.")
@click.option("--strong", required=True, metavar="COL", help="How well the strong model answered.")
@click.option("--text", metavar="COL", help="The prompts. Needed without --signals.")
@click.option(
    "--signals", metavar="COL,COL",
    help="What is known once the weak model has answered: numbers or categories, empty where there is none. "
    "With them a cascade is evaluated. NAME=COL gives a column another name.",
)  # fmt: skip
@click.option("--cost-weak", metavar="COL", help="Cost of the weak model's answer, in any unit (USD, tokens).")
@click.option("--cost-strong", metavar="COL", help="Cost of the strong model's answer, in the same unit.")
@click.option("--share", type=click.FloatRange(0, 1, min_open=True, max_open=True), default=0.2, show_default=True,
    help="Share of strong calls at which the recovered gap and the cost are stated.",
)  # fmt: skip
@click.option("--folds", type=click.IntRange(2, 50), default=5, show_default=True, help="Of the cross-fitting.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
@click.option("--scores-out", type=_FILE, help="Write a CSV with id, score and each learner's score, a row a query.")
@click.option(
    "--artefact-out", type=_FILE, help="Fit the recommended learner on all rows, and write it for a policy's `model`."
)
@click.option("--plot", type=_FILE, help="Draw quality over the share of strong calls (PNG).")
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
def evaluate(data: Path, **options: Any) -> None:
    """Learn routing policies on labelled outcomes in DATA (CSV or .csv.gz), and measure them on rows they never saw.

    One row a query: how well a weak and a strong model answered it, and what a policy may look at. Every row is scored
    by models that were fitted without it and without its near-duplicates.

    \b
    Example: routing before generation, and a cascade
      locum evaluate outcomes.csv --weak small --strong large --text prompt
      locum evaluate outcomes.csv.gz --weak "small|correct" --strong "large|correct" \\
          --text prompt --signals "small|mean_logprob,small|tokens" --plot cascade.png

    \b
    Exit codes: 0 done; 1 strong is no better than weak on these rows, or nothing
    can be learned from them; 2 wrong input.
    """
    try:
        from trainer.routing import evaluation, reading, report, run  # noqa: PLC0415 - numpy, scikit-learn
    except ModuleNotFoundError as exc:
        raise WrongInput(f"`locum evaluate` needs {exc.name}: pip install 'locum[evaluate]'") from exc
    plan = evaluation.Plan(share=options["share"], folds=options["folds"], seed=options["seed"])
    outputs = run.Outputs(options["scores_out"], options["artefact_out"], options["plot"])
    steps = Steps(Console(stderr=True))
    try:
        columns = reading.Columns(
            weak=options["weak"],
            strong=options["strong"],
            text=options["text"],
            signals=reading.split_names(options["signals"]) if options["signals"] is not None else (),
            cost_weak=options["cost_weak"],
            cost_strong=options["cost_strong"],
        )
        with steps:
            found, measured = run.run(data, columns, plan, outputs, steps.update)
    except run.WRONG_INPUT as exc:
        raise WrongInput(str(exc)) from exc
    except run.NEGATIVE as exc:
        raise Negative(str(exc)) from exc
    except OSError as exc:
        raise Negative(f"{exc.filename or data}: {exc.strerror or exc}") from exc
    if options["as_json"]:
        click.echo(report.as_json(found))
    else:
        console = Console(soft_wrap=True)
        report.show(found, console if console.is_terminal else Console(width=report.WIDTH, soft_wrap=True))
    if not measured.has_gap:
        raise SystemExit(1)
