"""The cascade's score over all pairs of models in a public file, against the frozen reference."""

from __future__ import annotations

import io
import statistics
from collections.abc import Sequence
from pathlib import Path

import msgspec

from policies.artefact import replace_file
from serving.store import default_cache
from trainer.routing.figures import Estimate
from trainer.routing.learners import draft_learners, frozen_reference
from trainer.routing.pairs import Median, Pair, Questions, measured, median
from trainer.routing.plot import BLUE, DPI
from trainer.routing.results import kept
from trainer.routing.results.section import Found, Note

FILE = "mmlu_pro_cascade/questions.csv.gz"
SEED = 0
TYPICAL = (4.0, 6.0)
"""Points of the gap that a distilled student has to its teacher."""
LEAST = 2.0
"""Of a smaller gap the recovered part is mostly noise."""
SHOWN = (
    ("gpt-4.1-mini", "gpt-4.1"),
    ("gemini-2.0-flash-lite", "gemini-2.0-flash"),
    ("Qwen3-14B-AWQ", "Qwen3-32B"),
)
OTHER_SEEDS = (1, 2, 3, 4)
"""Of those pairs: how much the division into folds matters."""
PICTURE = "routing-pairs.png"


class CascadeResults:
    """Every pair whose strong model is better."""

    name: str = "cascade"
    files: Sequence[str] = (FILE,)
    code: Sequence[str] = (
        "trainer.routing.pairs", "trainer.routing.learners", "trainer.routing.crossfit", "trainer.routing.folds",
        "trainer.routing.groups", "trainer.routing.measures", "trainer.routing.figures", "trainer.routing.reading",
        "policies.scoring",
    )  # fmt: skip

    def measure(self, data: Path, note: Note) -> Found:
        frozen = frozen_reference()
        folder = default_cache() / "routing-results" / f"pairs-{kept.key(self, data)}"
        learners = draft_learners()[0], frozen
        found: list[Pair] = []
        for number, total, pair in measured(Questions.of(data / FILE, SEED), learners, SEED, folder):
            note(f"{number} of {total} pairs")
            found.append(pair)
        again: list[Pair] = []
        for seed in OTHER_SEEDS:
            note(f"other divisions into folds: {seed} of {len(OTHER_SEEDS)}")
            divided = Questions.of(data / FILE, seed)
            again += (pair for _, _, pair in measured(divided, learners, seed, folder, SHOWN))
        return {
            "learners": [learner.name for learner in learners],
            "pairs": msgspec.to_builtins(found),
            "other_seeds": msgspec.to_builtins(again),
        }

    def write(self, found: Found, pictures: Path) -> Sequence[str]:
        pairs = msgspec.convert(found["pairs"], list[Pair])
        again = msgspec.convert(found["other_seeds"], list[Pair])
        one, other = found["learners"]
        replace_file(pictures / PICTURE, picture(pairs, one, other))
        return [
            *medians(pairs, one, other),
            "",
            *divisions([pair for pair in pairs if (pair.weak, pair.strong) in SHOWN] + again, one, other),
            "",
            *table(sorted(pairs, key=lambda pair: (pair.weak, pair.strong) not in SHOWN), one, other),
            "",
            f"![Gap recovered at 20 %: the score against the reference, one point a pair]({PICTURE})",
        ]


def medians(pairs: Sequence[Pair], one: str, other: str) -> list[str]:
    """Over three sets of pairs."""
    sets = {
        f"gap of {TYPICAL[0]:.0f} to {TYPICAL[1]:.0f} points": [
            pair for pair in pairs if TYPICAL[0] <= pair.gap_points <= TYPICAL[1]
        ],
        f"gap of {LEAST:.0f} points or more": [pair for pair in pairs if pair.gap_points >= LEAST],
        "all": list(pairs),
    }
    lines = [
        f"| pairs | n | {one} | {other} | difference | better in | significantly better / worse in |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, part in sets.items():
        if part:
            each = median(part, one, other)
            lines.append(f"| {name} | {each.pairs} | {_row(each)} |")
    return ["Gap recovered by 20 % strong calls, median over pairs:", "", *lines]


def _row(each: Median) -> str:
    better, worse = each.significant
    cells = [_percent(each.one), _percent(each.other), _percent(each.difference, sign=True), str(each.better)]
    return " | ".join([*cells, f"{better} / {worse}"])


def divisions(pairs: Sequence[Pair], one: str, other: str) -> list[str]:
    """The pairs that others published, once a division into folds; the figure of the reference behind the stroke."""
    lines = [
        f"Three pairs by {1 + len(OTHER_SEEDS)} divisions into folds, mean (least to most), {one} / {other}:",
        "",
        "| weak → strong | recovered at 20 % | points left | CPT80 | APGR |",
        "|---|---|---|---|---|",
    ]
    for weak, strong in SHOWN:
        same = [pair for pair in pairs if (pair.weak, pair.strong) == (weak, strong)]
        cells = [
            " / ".join(
                _spread([pair.figures[name][figure].estimate for pair in same], scale, digits) for name in (one, other)
            )
            for figure, scale, digits in (("recovered", 100, 0), ("points_left", 1, 2), ("cpt80", 1, 1), ("apgr", 1, 3))
        ]
        lines.append(f"| {weak} → {strong} | {' | '.join(cells)} |")
    return lines


def _spread(values: Sequence[float | None], scale: float, digits: int) -> str:
    known = [scale * value for value in values if value is not None]
    if not known:
        return "-"
    mean, least, most = (f"{value:.{digits}f}" for value in (statistics.mean(known), min(known), max(known)))
    return f"{mean} ({least}-{most})"


def table(pairs: Sequence[Pair], one: str, other: str) -> list[str]:
    """One line a pair; the figure of the reference behind the stroke."""
    lines = [
        "| weak → strong | gap | recovered at 20 % | difference | points left | CPT80 | APGR |",
        "|---|---|---|---|---|---|---|",
    ]
    for pair in pairs:
        a, b = pair.figures[one], pair.figures[other]
        cells = [
            f"{pair.weak} → {pair.strong}",
            f"{pair.gap_points:.1f}",
            f"{_percent(a['recovered'], interval=False)} / {_percent(b['recovered'], interval=False)}",
            _percent(pair.differences["recovered"], sign=True),
            f"{_number(a['points_left'], 2)} / {_number(b['points_left'], 2)}",
            f"{_number(a['cpt80'], 1)} / {_number(b['cpt80'], 1)}",
            f"{_number(a['apgr'], 3)} / {_number(b['apgr'], 3)}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _percent(of: Estimate, *, sign: bool = False, interval: bool = True) -> str:
    if of.estimate is None:
        return "-"
    shown = f"{100 * of.estimate:{'+' if sign else ''}.0f} %"
    if not interval or of.low is None or of.high is None:
        return shown
    return f"{shown} [{100 * of.low:.0f}, {100 * of.high:.0f}]"


def _number(of: Estimate, digits: int) -> str:
    return "-" if of.estimate is None else f"{of.estimate:.{digits}f}"


def picture(pairs: Sequence[Pair], one: str, other: str) -> bytes:
    """One point a pair with a gap of LEAST points, larger for one of TYPICAL points; above the line it is better."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: PLC0415 - heavy
    from matplotlib.figure import Figure  # noqa: PLC0415

    figure = Figure(figsize=(5.2, 4.8), dpi=DPI, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    shown = [pair for pair in pairs if pair.gap_points >= LEAST]
    points = [
        (
            100 * (pair.figures[other]["recovered"].estimate or 0.0),
            100 * (pair.figures[one]["recovered"].estimate or 0.0),
        )
        for pair in shown
    ]
    sizes = [60 if TYPICAL[0] <= pair.gap_points <= TYPICAL[1] else 18 for pair in shown]
    axes.scatter([x for x, _ in points], [y for _, y in points], s=sizes, color=BLUE, alpha=0.7, linewidth=0)
    axes.axline((0, 0), slope=1, color="#777777", linewidth=1, linestyle=":")
    axes.set(
        xlabel=f"{other}: gap recovered at 20 %, %", ylabel=f"{one}, %",
        title=f"{len(shown)} pairs with a gap of {LEAST:.0f} points or more",
    )  # fmt: skip
    axes.grid(alpha=0.2)
    out = io.BytesIO()
    canvas.print_png(out)  # type: ignore[no-untyped-call]
    return out.getvalue()
