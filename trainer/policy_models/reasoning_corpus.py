"""Builds the prompts that `long_reasoning` is trained on: public sources with clear licences, several per class.

    python -m trainer.policy_models.reasoning_corpus --checkouts DIR --out trainer/data/reasoning_prompts.csv.gz

DIR holds git checkouts of the repositories in `REPOSITORIES`; `reasoning-gym` must be installed. trainer/data/README.md
names what each source is and why well-known benchmarks are left out.
"""

from __future__ import annotations

import csv
import gzip
import importlib
import inspect
import io
import json
import random
import sys
from collections.abc import Callable, Iterator
from dataclasses import astuple, dataclass
from pathlib import Path

import click

from trainer.policy_models.prompt_templates import DIRECT, REASONING, generate

COLUMNS = ("text", "label", "source", "licence")
MAX_TEXT_CHARS = 1_600
ROWS_PER_SOURCE = 240
ROWS_PER_FAMILY = 110
SEED = 20

REPOSITORIES = {
    "AQuA": "https://github.com/deepmind/AQuA at 26b64ed1f222",
    "self-instruct": "https://github.com/yizhongw/self-instruct at 0b26ccaa4159",
    "oos-eval": "https://github.com/clinc/oos-eval at 828f8093932c",
}

GYM_REASONING = {
    "arithmetic": ("chain_sum", "leg_counting", "time_intervals", "decimal_chain_sum", "gcd", "basic_arithmetic"),
    "algebra": ("simple_equations", "polynomial_equations", "intermediate_integration", "number_sequence"),
    "logic": ("knights_knaves", "zebra_puzzles", "syllogism", "propositional_logic", "self_reference", "aiw"),
    "search": ("jugs", "tower_of_hanoi", "course_schedule", "shortest_path", "countdown", "quantum_lock"),
    "chance_and_space": ("dice", "coin_flip", "simple_geometry", "advanced_geometry", "family_relationships"),
}
GYM_DIRECT = {"text_tasks": ("sentence_reordering", "spell_backward", "needle_haystack", "number_format")}

SEED_TASKS_REASONING = frozenset({22, 35, 40, 45, 50, 83, 91, 106, 109, 121, 130, 136, 141, 144, 145, 155})
SEED_TASKS_LEFT_OUT = frozenset(
    {0, 1, 13, 15, 24, 25, 37, 53, 69, 70, 72, 87, 132, 138, 139, 150, 158, 161, 162, 164, 167, 168, 170}  # unclear
    | {3, 27, 36, 54, 67, 77, 94, 113, 120, 122, 149, 151, 152, 172, 173}  # stereotypes and insults
)

DOCUMENTED_MODULES = (
    "argparse", "asyncio", "base64", "bisect", "collections", "configparser", "contextlib", "copy", "csv", "datetime",
    "decimal", "difflib", "email.message", "enum", "fractions", "functools", "glob", "gzip", "hashlib", "heapq",
    "http.client", "inspect", "io", "ipaddress", "itertools", "json", "logging", "math", "os", "pathlib", "queue",
    "random", "re", "sched", "shutil", "sqlite3", "statistics", "string", "subprocess", "tempfile", "textwrap",
    "threading", "time", "tokenize", "traceback", "typing", "unittest", "urllib.parse", "uuid", "zipfile",
)  # fmt: skip
_DOC_DIRECT = (
    "What does {name} do?",
    "What are the arguments of {name}?",
    "{doc}\n\nWhat does this return?",
    "Summarize this in one sentence.\n\n{doc}",
    "Rewrite the following documentation in plain English:\n{doc}",
    "Context:\n{doc}\n\nQuestion: which function is this about?",
    "How do I use {name}?",
    "Translate into Spanish.\n\n{doc}",
    "Does {name} change its argument in place?",
    "Show a minimal example of {name}.",
)
_DOC_REASONING = (
    "Using {name} and {other}, write a program that keeps {n} results in order while new ones arrive, explain why it "
    "is correct when two of them are equal, and derive its worst-case complexity.",
    "{doc}\n\nGiven this, what happens when it is called {n} times from two threads at once? Work through the "
    "possible orders and say which of them break an invariant.",
    "Compare {name} with {other} for {n} million items: estimate time and memory of both, state your assumptions, and "
    "determine from which size on the second one is better.",
    "Our job calls {name} {n} times and then {other}; it is right on small inputs and wrong on large ones. Which "
    "explanations are consistent with that, and which experiment tells them apart?\n\n{doc}",
    "Prove or refute: {name} followed by {other} gives the same result in either order. Give a counterexample if "
    "there is one.\n\n{doc}",
)
_PASSAGE_DIRECT = (
    "What is this passage about?",
    "Does the text mention an exception?",
    "According to the passage, is this allowed?",
    "Which method is named first?",
    "Answer the question from the text: what is the default?",
    "Rewrite this for beginners.",
    "Translate this paragraph into Portuguese.",
    "is there a difference between the two",
    "Give the passage a title.",
    "Summarize in two sentences.",
)
_PASSAGE_REASONING = (
    "Construct a program for which the rule in this passage gives a surprising result, and derive the result step by "
    "step.",
    "Which two statements of the passage could conflict? Work out a case and determine what must happen.",
    "Suppose the rule were reversed. Which programs would still be right, which not, and why?",
    "Design a test plan that distinguishes every case of the passage with as few tests as possible, and explain why "
    "fewer cannot be enough.",
    "If this is applied {n} times in a row, what is the final result, and is it the same in any order? Justify.",
)


@dataclass(frozen=True)
class Row:
    """One prompt. `label` is 1 when a right answer needs several dependent steps of reasoning."""

    text: str
    label: int
    source: str
    licence: str


def build(checkouts: Path) -> list[Row]:
    """All rows, without duplicates, in a fixed order.

    Raises:
        FileNotFoundError: a checkout is missing.
    """
    sources: list[Iterator[Row]] = [
        _own_templates(),
        _reasoning_gym(),
        _aqua(checkouts / "AQuA"),
        _seed_tasks(checkouts / "self-instruct"),
        _clinc(checkouts / "oos-eval"),
        _python_docs(),
        _python_reference(),
    ]
    rows: dict[str, Row] = {}
    for source in sources:
        for row in source:
            text = row.text.strip()[:MAX_TEXT_CHARS]
            rows.setdefault(text, Row(text, row.label, row.source, row.licence))
    return list(rows.values())


def _seeded() -> random.Random:
    return random.Random(SEED)  # noqa: S311 - the same choice for everybody, no secret


def _own_templates() -> Iterator[Row]:
    for label, families in ((1, REASONING), (0, DIRECT)):
        for name, templates in families.items():
            for text in generate(templates, ROWS_PER_FAMILY, _seeded()):
                yield Row(text, label, f"locum:{name}", "Apache-2.0")


def _reasoning_gym() -> Iterator[Row]:
    create: Callable[..., list[dict[str, str]]] = importlib.import_module("reasoning_gym").create_dataset
    for label, families in ((1, GYM_REASONING), (0, GYM_DIRECT)):
        for family, names in families.items():
            per_task = ROWS_PER_FAMILY // len(names)
            for name in names:
                for entry in create(name, size=per_task, seed=SEED):
                    yield Row(entry["question"], label, f"reasoning_gym:{family}", "Apache-2.0")


def _aqua(folder: Path) -> Iterator[Row]:
    """The development split; half of the rows with their options, as users paste them."""
    lines = (folder / "dev.json").read_text(encoding="utf-8").splitlines()
    for index, line in enumerate(lines[:ROWS_PER_SOURCE]):
        entry = json.loads(line)
        options = "\n" + "\n".join(entry["options"]) if index % 2 else ""
        yield Row(entry["question"] + options, 1, "aqua", "Apache-2.0")


def _seed_tasks(folder: Path) -> Iterator[Row]:
    """Written by people as first examples of what an assistant is asked; labelled by hand (the sets above)."""
    for line in (folder / "data/seed_tasks.jsonl").read_text(encoding="utf-8").splitlines():
        task = json.loads(line)
        number = int(task["id"].removeprefix("seed_task_"))
        if number in SEED_TASKS_LEFT_OUT:
            continue
        given = task["instances"][0]["input"]
        text = task["instruction"] + ("\n\n" + given if given else "")
        yield Row(text, int(number in SEED_TASKS_REASONING), "self_instruct_seed", "Apache-2.0")


def _clinc(folder: Path) -> Iterator[Row]:
    """Short requests to an assistant, 150 intents."""
    entries = json.loads((folder / "data/data_full.json").read_text(encoding="utf-8"))["train"]
    texts = [text for text, intent in entries if intent not in ("calculator", "oos")]
    for text in _seeded().sample(texts, ROWS_PER_SOURCE):
        yield Row(text, 0, "clinc150", "CC-BY-3.0")


def documented_functions() -> list[tuple[str, str]]:
    """(qualified name, docstring) of the standard library's public functions and classes, sorted."""
    found: dict[str, str] = {}
    for module_name in DOCUMENTED_MODULES:
        module = importlib.import_module(module_name)
        for name, value in sorted(vars(module).items()):
            if name.startswith("_") or not callable(value) or getattr(value, "__module__", "") != module_name:
                continue
            doc = inspect.getdoc(value)
            if doc and len(doc) >= 80:
                found[f"{module_name}.{name}"] = doc
    return sorted(found.items())


def _python_docs() -> Iterator[Row]:
    rng = _seeded()
    functions = documented_functions()
    rng.shuffle(functions)
    for label, templates in ((0, _DOC_DIRECT), (1, _DOC_REASONING)):
        for index in range(min(ROWS_PER_SOURCE, len(functions) - 1)):
            name, doc = functions[index]
            filled = templates[index % len(templates)].format(
                name=name, other=functions[index + 1][0], doc=doc[: rng.choice((200, 500, 1_200))], n=rng.randint(2, 90)
            )
            yield Row(filled, label, "python_docs", "PSF-2.0")


def _python_reference() -> Iterator[Row]:
    """Passages of the language reference with a question that is answered by reading, or by thinking about them."""
    rng = _seeded()
    topics: dict[str, str] = importlib.import_module("pydoc_data.topics").topics
    passages = [
        " ".join(paragraph.split())
        for _, text in sorted(topics.items())
        for paragraph in text.split("\n\n")
        if 250 <= len(paragraph) <= 1_400 and "::=" not in paragraph
    ]
    rng.shuffle(passages)
    for label, questions in ((0, _PASSAGE_DIRECT), (1, _PASSAGE_REASONING)):
        for index in range(ROWS_PER_SOURCE // 2):
            question = questions[index % len(questions)]
            question = question.replace("{n}", str(rng.randint(2, 90)))
            pair = (passages[2 * index], question) if index % 2 else (question, passages[2 * index + 1])
            yield Row("\n\n".join(pair), label, "python_reference", "PSF-2.0")


def write(rows: list[Row], out: Path) -> None:
    """A gzipped CSV that is the same bytes for the same rows."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows(astuple(row) for row in rows)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_bytes(gzip.compress(text.getvalue().encode("utf-8"), compresslevel=9, mtime=0))


@click.command()
@click.option("--checkouts", type=click.Path(exists=True, file_okay=False, path_type=Path), required=True)
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), required=True)
def main(checkouts: Path, out: Path) -> None:
    """Build the training prompts of `long_reasoning` from git checkouts and installed packages."""
    try:
        rows = build(checkouts)
    except FileNotFoundError as exc:
        needed = "\n  ".join(f"{name}: {url}" for name, url in REPOSITORIES.items())
        message = f"{exc.filename} is missing; check these out under {checkouts}:\n  {needed}"
        raise click.ClickException(message) from exc
    write(rows, out)
    for source in sorted({row.source for row in rows}):
        labels = [row.label for row in rows if row.source == source]
        click.echo(f"{source:32} {len(labels):5} rows, {sum(labels):5} reasoning")
    click.echo(f"{out}: {len(rows)} rows, {out.stat().st_size:,} bytes, Python {sys.version.split()[0]}")


if __name__ == "__main__":
    main()
