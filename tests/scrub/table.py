"""How much the built-in engine finds, and how much it takes for personal that is not: `python -m tests.scrub.table`."""

from __future__ import annotations

import csv
import gzip
import io
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

import click

from router.scrub.engine import BuiltInEngine
from router.scrub.findings import Finding, apart
from router.scrub.patterns import PATTERNS
from tests.scrub.corpus import Sample, hard, negatives, positives

ENGINE = BuiltInEngine(list(PATTERNS), {})
FILES = {
    "banking77": ("banking77/train.csv", "text"),
    "MMLU": ("routellm/mmlu.csv.gz", "prompt"),
    "GSM8K": ("routellm/gsm8k.csv.gz", "prompt"),
    "MMLU-Pro": ("mmlu_pro_cascade/questions.csv.gz", "prompt"),
}
"""Public texts without personal data: (file, column) below the folder that is given."""


class Row:
    """Of one kind."""

    def __init__(self) -> None:
        self.values = self.exact = self.other_kind = self.partly = self.missed = 0


def findings(text: str) -> list[Finding]:
    data = text.encode()
    return apart(ENGINE.find(data), len(data))


def recall(samples: Iterable[Sample]) -> dict[str, Row]:
    """What becomes of the values of each kind. A secret's or a number's label in front of it may stay."""
    rows: dict[str, Row] = {}
    for sample in samples:
        row = rows.setdefault(sample.kind, Row())
        row.values += 1
        data, found = sample.text.encode(), findings(sample.text)
        start = data.index(sample.value.encode())
        end = start + len(sample.value.encode())
        hits = [each for each in found if each.start < end and each.end > start]
        tail = [each for each in hits if each.end >= end or data[each.end : end] in (b"@db.internal/x",)]
        if tail and any(each.kind == sample.kind for each in tail):
            row.exact += 1
        elif tail:
            row.other_kind += 1
        elif hits:
            row.partly += 1
        else:
            row.missed += 1
    return rows


def false_findings(texts: Iterable[str]) -> tuple[int, int, Counter[str], list[str]]:
    """Texts, characters, findings by kind, and what they were."""
    count = size = 0
    kinds: Counter[str] = Counter()
    shown = []
    for text in texts:
        count += 1
        size += len(text)
        for each in findings(text):
            kinds[each.kind] += 1
            shown.append(
                f"{each.kind}: {text.encode()[max(0, each.start - 30) : each.end + 10].decode('utf-8', 'replace')!r}"
            )
    return count, size, kinds, shown


def texts_of(folder: Path, file: str, column: str) -> Iterator[str]:
    path = folder / file
    data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    for row in csv.DictReader(io.StringIO(data.decode())):
        yield row[column]


@click.command()
@click.option("--data", type=click.Path(path_type=Path, file_okay=False, exists=True), envvar="LOCUM_DATA",
              help="Folder with public data sets.")  # fmt: skip
@click.option("--samples", default=1000, show_default=True, help="Of each kind.")
@click.option("--show", is_flag=True, help="Print what was taken for personal in texts that hold nothing.")
def main(data: Path | None, samples: int, show: bool) -> None:
    """Print both tables, as Markdown."""
    print("| kind | values | found | as another kind | in part | missed |\n|---|---|---|---|---|---|")
    for note, made in (("", positives(samples)), (", hard forms", hard(samples))):
        for kind, row in recall(made).items():
            share = f"{row.exact / row.values:.1%} | {row.other_kind} | {row.partly} | {row.missed}"
            print(f"| `{kind}`{note} | {row.values} | {share} |")
    sources = {"look-alikes (made)": [sample.text for sample in negatives(samples * 10)]}
    for name, (file, column) in FILES.items():
        if data is not None and (data / file).exists():
            sources[name] = list(texts_of(data, file, column))
    print("\n| texts without personal data | texts | million characters | found by mistake |\n|---|---|---|---|")
    for name, texts in sources.items():
        count, size, kinds, shown = false_findings(texts)
        wrong = ", ".join(f"{kind} {number}" for kind, number in kinds.most_common()) or "nothing"
        print(f"| {name} | {count} | {size / 1e6:.2f} | {wrong} |")
        if show:
            print("\n".join(shown[:60]))


if __name__ == "__main__":
    main()
