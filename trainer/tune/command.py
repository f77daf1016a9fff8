"""`locum tune`: sets the threshold of the cascade from labelled records."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import click

from policies.record import Purpose

if TYPE_CHECKING:
    from trainer.tune.certify import Asked
    from trainer.tune.run import Target

_FOLDER = click.Path(file_okay=False, path_type=Path)
_Share = click.FloatRange(0.0, 1.0)
DEFAULT_TEACHER_SHARE = 0.2


class WrongInput(click.ClickException):
    exit_code = 2


@click.command()
@click.argument("log_dir", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option(
    "--registry",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Folder of the registry; the result is a new bundle in it, with the same model.",
)
@click.option("--bundle", help="Bundle to tune; default: the current one.")
@click.option("--out", type=_FOLDER, help="Without a registry: folder for calibrator.json and the lines to paste.")
@click.option("--student", help="With --out: the student to tune, as the records name it; default: the only one.")
@click.option(
    "--max-teacher-share",
    type=_Share,
    help=f"At most this share of the requests to the teacher; default without other limits: {DEFAULT_TEACHER_SHARE}.",
)
@click.option("--max-quality-loss", type=_Share, help="Accuracy that may be lost against sending all to the teacher.")
@click.option(
    "--confidence",
    type=click.FloatRange(0.5, 0.9999),
    help="Prove the loss with this probability instead of estimating it, e.g. 0.95; the result has a certificate.",
)
@click.option(
    "--budget-usd-per-day",
    type=click.FloatRange(0.0, min_open=True),
    help="With --confidence: the teacher's share is what this pays at the log's rate and prices.",
)
@click.option(
    "--min-propensity",
    type=click.FloatRange(0.0, 1.0, min_open=True),
    help="With --confidence: the lowest share in [quality.shadow] and its strata; default: the lowest drawn with.",
)
@click.option("--per-tag", metavar="KEY", help="With --confidence: a threshold for each value of this tag.")
@click.option(
    "--score",
    metavar="POLICY",
    help="With --confidence: tune the threshold of this policy by its recorded votes, not by the mean logprob.",
)
@click.option(
    "--document",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="With --confidence and --out: a file of `locum policy get`, written to OUT/policy.json with the result.",
)
@click.option(
    "--grader",
    type=click.Choice(["exact", "numeric", "contains"]),
    default="exact",
    show_default=True,
    help="How an answer is compared with its label.",
)
@click.option(
    "--min-score",
    type=_Share,
    default=0.5,
    show_default=True,
    help="Feedback without a label: a score from here on means that the answer is right.",
)
@click.option("--purpose", default="traffic", show_default=True, help="Purposes of the records, comma-separated.")
@click.option("--tag", "tags", multiple=True, metavar="KEY=VALUE", help="Only records with this tag; repeatable.")
@click.option("--where", help="SQL condition over the records, as in `locum log query`.")
@click.option(
    "--exclude",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    multiple=True,
    help="Sealed evaluation set (JSONL with `messages`); records of it are refused. Repeatable.",
)
@click.option(
    "--method",
    type=click.Choice(["auto", "platt", "isotonic"]),
    default="auto",
    show_default=True,
    help="Calibrator; auto: isotonic from 1,000 labels on, Platt below.",
)
@click.option("--folds", type=click.IntRange(2, 20), default=5, show_default=True, help="Of the cross-fitting.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def tune(log_dir: Path, **options: Any) -> None:
    """Set the threshold of the cascade from labelled requests in LOG_DIR, the traffic log.

    Labels come from feedback (`POST /v1/feedback` with a label or a score) on requests that the student answered with
    logprobs; where the log has the teacher's answer to the same messages, the real gain is known. Records of the
    evaluation set that the bundle was judged on are refused.

    With --confidence the loss is proven, on shadow answers as well, or the command says that it is infeasible or how
    many more labels it takes (docs/tune.md).

    \b
    Example:
      locum tune traffic --registry students --tag set=tune --max-teacher-share 0.2
      locum student promote BUNDLE
    Without a registry, and with a guarantee:
      locum tune traffic --out tuned --max-quality-loss 0.01 --confidence 0.95

    \b
    Exit codes: 0 done; 1 too few labels, no threshold within the limits, a damaged
    bundle or a full disk; 2 wrong input.
    """
    try:
        from trainer.tune import certify, run  # noqa: PLC0415 - numpy
    except ModuleNotFoundError as exc:
        raise WrongInput(f"`locum tune` needs {exc.name}: pip install 'locum[loop]'") from exc
    _check_combination(options)
    chosen = run.Chosen(
        purposes=_purposes(options["purpose"]),
        tags=_tags(options["tags"]),
        where=options["where"],
        exclude=options["exclude"],
        grader=options["grader"],
        min_score=options["min_score"],
    )
    target = _target(options)
    try:
        if options["confidence"] is not None:
            found = certify.certify_from_log(log_dir, target, chosen, _asked(options))
            shown, as_json = certify.lines(found), certify.as_json(found)
        else:
            wish = run.Wish(_share(options), options["max_quality_loss"])
            fitting = run.Fitting(wish, options["method"], options["folds"], options["seed"])
            result = run.tune_from_log(log_dir, target, chosen, fitting)
            shown, as_json = run.lines(result), run.as_json(result)
    except run.WRONG_INPUT as exc:
        raise WrongInput(_message(exc, options)) from exc
    except run.NEGATIVE as exc:
        if options["as_json"]:
            click.echo(run.negative_as_json(exc))
        raise click.ClickException(str(exc)) from exc
    except run.FAILED as exc:
        raise click.ClickException(f"{_message(exc, options)}; nothing was written") from exc
    for line in [as_json] if options["as_json"] else shown:
        click.echo(line)


def _check_combination(options: dict[str, Any]) -> None:
    """Raises: WrongInput: options that have no effect together."""
    if options["confidence"] is None:
        for name in ("budget_usd_per_day", "min_propensity", "per_tag", "score", "document"):
            if options[name] is not None:
                raise WrongInput(f"--{name.replace('_', '-')}: takes --confidence as well, such as --confidence 0.95")
        return
    if all(options[name] is None for name in ("max_quality_loss", "max_teacher_share", "budget_usd_per_day")):
        raise WrongInput("--confidence: say what is to be proven, for example --max-quality-loss 0.01")
    if options["max_quality_loss"] is not None and not 0.0 < options["max_quality_loss"] < 1.0:
        raise WrongInput("--max-quality-loss: with --confidence it is above 0 and below 1")
    if options["per_tag"] is not None and options["max_quality_loss"] is None:
        raise WrongInput("--per-tag: takes --max-quality-loss, which is to hold for each value")
    if options["registry"] is not None:
        for name in ("per_tag", "score", "document"):
            if options[name] is not None:
                raise WrongInput(
                    f"--{name.replace('_', '-')}: a bundle holds one threshold, of mean logprobs; give --out"
                )


def _asked(options: dict[str, Any]) -> Asked:
    from trainer.tune.certify import Asked  # noqa: PLC0415
    from trainer.tune.traffic import Score  # noqa: PLC0415

    return Asked(
        confidence=options["confidence"],
        max_quality_loss=options["max_quality_loss"],
        max_teacher_share=options["max_teacher_share"],
        budget_usd_per_day=options["budget_usd_per_day"],
        score=Score(options["score"], options["per_tag"]),
        seed=options["seed"],
        min_propensity=options["min_propensity"],
        document=options["document"],
    )


def _message(exc: Exception, options: dict[str, Any]) -> str:
    """The path and the cause of a fault of the file system; other errors speak for themselves."""
    if not isinstance(exc, OSError):
        return str(exc)
    return f"{exc.filename or options['out'] or options['registry']}: {exc.strerror or exc}"


def _target(options: dict[str, Any]) -> Target:
    from trainer.tune.run import Target  # noqa: PLC0415

    registry, out = options["registry"], options["out"]
    if (registry is None) == (out is None):
        raise WrongInput("give --registry (the result is a new bundle) or --out (files), and not both")
    if registry is None and options["bundle"]:
        raise WrongInput("--bundle: names a bundle of a registry; give --registry, or --student with --out")
    if registry is not None and options["student"]:
        raise WrongInput("--student: the bundle says which student it is; give --bundle")
    return Target(registry=registry, bundle_id=options["bundle"], out=out, student=options["student"])


def _share(options: dict[str, Any]) -> float | None:
    share: float | None = options["max_teacher_share"]
    return DEFAULT_TEACHER_SHARE if share is None and options["max_quality_loss"] is None else share


def _purposes(text: str) -> frozenset[Purpose]:
    names = frozenset(name.strip() for name in text.split(","))
    if unknown := names - set(get_args(Purpose)):
        raise WrongInput(f"--purpose: {sorted(unknown)[0]!r} is none of {', '.join(get_args(Purpose))}")
    return frozenset(purpose for purpose in get_args(Purpose) if purpose in names)


def _tags(texts: tuple[str, ...]) -> dict[str, str]:
    tags: dict[str, str] = {}
    for text in texts:
        key, separator, value = text.partition("=")
        if not separator or not key:
            raise WrongInput(f"--tag: {text!r} is not KEY=VALUE")
        tags[key] = value
    return tags
