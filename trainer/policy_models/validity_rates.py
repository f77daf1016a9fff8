"""How often the validity checks strike where they should not: `-m trainer.policy_models.validity_rates --data DIR`.

The public data sets hold questions, no answers, so two things are measured. Their texts are no refusals: each one that
`declines` takes for one is a false positive, also as the beginning of a stream. And of questions with options, answers
in the usual spellings must be found again.
"""

from __future__ import annotations

import csv
import gzip
import io
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import click

from policies.drafts.asked_form import TextForm, asked_answer, form_of
from policies.drafts.refusals import BEGINNING_CHARS, declines

FILES = (
    ("routellm/mmlu.csv.gz", "prompt"),
    ("routellm/gsm8k.csv.gz", "prompt"),
    ("mmlu_pro_cascade/questions.csv.gz", "prompt"),
    ("banking77/train.csv", "text"),
    ("banking77/test.csv", "text"),
)
INSTRUCTION = "Answer with the letter of the correct option."
SPELLINGS = ("{0}", "({0})", "{0}.", "{0}) {1}", "The answer is ({0}).", "**{0}**", "Answer: {0}", "\\boxed{{{0}}}",
             "Let me see. It cannot be the others, so the answer is {0}", "{1}")  # fmt: skip


class Rates(NamedTuple):
    """Of one file."""

    texts: int
    declining: int
    """Whole texts that are taken for refusals."""
    beginnings: int
    """Texts whose beginning is."""
    forms: dict[str, int]
    """Prompts by the form that is found in them as they are."""
    spelled: int
    """Answers in the usual spellings, to prompts with options."""
    lost: int
    """... that are not found again."""


def rates_of(texts: Iterator[str]) -> Rates:
    """Measure one file."""
    count = declining = beginnings = spelled = lost = 0
    forms: dict[str, int] = {}
    for text in texts:
        count += 1
        declining += declines(text)
        beginnings += declines(text[:BEGINNING_CHARS])
        kind = form_of(text).kind
        forms[kind or "none"] = forms.get(kind or "none", 0) + 1
        form = form_of(f"{text}\n{INSTRUCTION}")
        if form.kind == "choice":
            spelled += len(form.options) * len(SPELLINGS)
            lost += _lost(form)
    return Rates(count, declining, beginnings, forms, spelled, lost)


def _lost(form: TextForm) -> int:
    """Answers that are not found, or taken for another."""
    wordings = [wording for _, wording in form.options]
    missed = 0
    for letter, wording in form.options:
        for spelling in SPELLINGS:
            said = spelling.format(letter, wording)
            alone = spelling == "{1}" and sum(wording in each for each in wordings) != 1
            missed += not alone and asked_answer(form, said) != letter
    return missed


def _texts(path: Path, column: str) -> Iterator[str]:
    content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    for row in csv.DictReader(io.StringIO(content.decode("utf-8"), newline="")):
        yield row[column]


@click.command()
@click.option(
    "--data", type=click.Path(exists=True, file_okay=False, path_type=Path), envvar="LOCUM_DATA", required=True
)
def main(data: Path) -> None:
    """Print a table for docs/cascade.md."""
    csv.field_size_limit(2**24)
    click.echo("| file | texts | taken for a refusal | their beginnings | forms found | spelled answers not found |")
    click.echo("|---|---|---|---|---|---|")
    for name, column in FILES:
        found = rates_of(_texts(data / name, column))
        forms = ", ".join(f"{kind} {count:,}" for kind, count in sorted(found.forms.items()))
        click.echo(
            f"| `{name}` | {found.texts:,} | {found.declining} | {found.beginnings} | {forms} | "
            f"{found.lost:,} of {found.spelled:,} |"
        )


if __name__ == "__main__":
    main()
