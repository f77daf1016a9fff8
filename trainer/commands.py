"""`locum train`: commands that fit what the policies decide with."""

from __future__ import annotations

import csv
import math
from pathlib import Path
from typing import Literal, cast, get_args

import click
import msgspec

from policies import artefact
from policies.calibration import (
    Aggregate,
    CalibratorArtefact,
    cross_fitted,
    expected_calibration_error,
    fit,
    reliability,
)
from trainer.policy_models import long_reasoning
from trainer.policy_models.encoding import ENCODER, EncoderMissing, embed_texts
from trainer.probe_teacher import probe_teacher_command
from trainer.run_commands import run_command, status_command, verify_command

Method = Literal["auto", "platt", "isotonic"]
_OUT = click.Path(dir_okay=False, path_type=Path)
_DATA = click.Path(exists=True, path_type=Path)


@click.group()
def train() -> None:
    """Distil students from the traffic log; fit the policies' weights and calibrators."""


train.add_command(run_command)
train.add_command(status_command)
train.add_command(verify_command)
train.add_command(probe_teacher_command)


@train.group()
def policy() -> None:
    """Train the weights of a policy."""


@policy.command("long_reasoning")
@click.option(
    "--data", type=_DATA, default=long_reasoning.SHIPPED_DATA, show_default="the prompts that come with Locum",
    help="CSV (or .csv.gz, or a folder of them) with the columns text, label (1 = needs reasoning), source.",
)  # fmt: skip
@click.option("--out", type=_OUT, required=True, help="Where the weights are written (JSON).")
@click.option(
    "--embedding-out", type=_OUT, help="Also train the embedding's head, with the local encoder ([semantic])."
)
@click.option("--note", default="", help="Kept in the weights' file.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def train_long_reasoning(data: Path, out: Path, embedding_out: Path | None, note: str, as_json: bool) -> None:
    """Train the score of the policy long_reasoning.

    \b
    Example:
      locum train policy long_reasoning --data prompts.csv --out weights.json
    and in the configuration:
      [[routing.policies]]
      type = "long_reasoning"
      weights = "weights.json"
    """
    report = (lambda line: None) if as_json else click.echo
    try:
        dataset = long_reasoning.load(data)
        weights = long_reasoning.train(dataset, report, note)
        sha256 = artefact.write(out, weights)
        if embedding_out is not None:
            report("embedding the prompts ...")
            vectors = embed_texts([each.text for each in dataset.examples])
            artefact.write(embedding_out, long_reasoning.train_embedding(dataset, vectors, ENCODER, report, note))
    except (long_reasoning.TrainingDataError, EncoderMissing) as exc:
        raise _WrongInput(str(exc)) from exc
    if as_json:
        summary = {
            "out": str(out), "sha256": sha256, "n": weights.n, "auroc_held_out": weights.auroc_held_out,
            "ece": weights.ece, "default_threshold": weights.default_threshold, "sources": weights.sources,
        }  # fmt: skip
        click.echo(msgspec.json.encode(summary).decode())
        return
    click.echo(f"{'held-out source':34} AUROC")
    for source, value in weights.sources.items():
        click.echo(f"{source:34} {'-' if value is None else format(value, '.3f')}")
    click.echo(
        f"{weights.n} prompts, AUROC {weights.auroc_held_out:.3f} held out, ECE {weights.ece:.3f}\n"
        f"threshold {weights.default_threshold:.3f}: {weights.threshold_rule}\n{out}: sha256 {sha256}"
    )


@train.command("calibrator")
@click.option(
    "--data", type=click.Path(exists=True, dir_okay=False, path_type=Path), required=True,
    help="CSV with the columns raw (the aggregated score) and sufficient (0 or 1).",
)  # fmt: skip
@click.option("--out", type=_OUT, required=True, help="Where the calibrator is written (JSON).")
@click.option("--aggregate", type=click.Choice(get_args(Aggregate)), default="top1", show_default=True)
@click.option("--k", type=click.IntRange(1, 100), default=3, show_default=True, help="Chunks that mean_k averages.")
@click.option("--method", type=click.Choice(get_args(Method)), default="auto", show_default=True)
@click.option("--raw", "raw_name", default="chunk scores of the client", help="What `raw` was measured by.")
@click.option("--source", default="", help="Where the labels come from.")
@click.option("--note", default="", help="Kept in the calibrator's file.")
def train_calibrator(
    data: Path, out: Path, aggregate: str, k: int, method: str, raw_name: str, source: str, note: str
) -> None:
    """Fit the map from a retriever's raw score to P(the context is sufficient).

    \b
    Example:
      locum train calibrator --data pairs.csv --out calibrator.json
    and in the configuration:
      [[routing.policies]]
      type = "retrieval_confidence"
      calibrator = "calibrator.json"
    """
    raw, sufficient = _read_pairs(data)
    chosen = cast(Method, method)
    try:
        calibrator = fit(raw, sufficient, method=chosen)
        bins = reliability(cross_fitted(raw, sufficient, method=chosen), sufficient)
    except ValueError as exc:
        raise _WrongInput(f"{data}: {exc}") from exc
    fitted = CalibratorArtefact(
        calibrator=calibrator, raw=raw_name, aggregate=cast(Aggregate, aggregate), k=k, source=source or data.name,
        note=note, n=len(raw), n_sufficient=sum(sufficient), ece=round(expected_calibration_error(bins), 4),
        reliability=bins,
    )  # fmt: skip
    sha256 = artefact.write(out, fitted)
    click.echo(f"{type(calibrator).__name__} on {len(raw)} cases, ECE {fitted.ece:.3f}\n{out}: sha256 {sha256}")


def _read_pairs(path: Path) -> tuple[list[float], list[bool]]:
    raw: list[float] = []
    sufficient: list[bool] = []
    with path.open(encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file)
        if missing := {"raw", "sufficient"} - set(reader.fieldnames or ()):
            raise _WrongInput(f"{path}: the column {sorted(missing)[0]!r} is missing")
        for row in reader:
            where = f"{path}, line {reader.line_num}"
            try:
                value = float(row["raw"])
            except (TypeError, ValueError):
                value = math.nan
            if not math.isfinite(value):
                raise _WrongInput(f"{where}: raw is {row['raw']!r}, not a number")
            if row["sufficient"] not in ("0", "1"):
                raise _WrongInput(f"{where}: sufficient is {row['sufficient']!r}, not 0 or 1")
            raw.append(value)
            sufficient.append(row["sufficient"] == "1")
    return raw, sufficient


class _WrongInput(click.ClickException):
    exit_code = 2
