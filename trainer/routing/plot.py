"""The picture of an evaluation: quality over the share of strong calls, with the interval of `score`."""

from __future__ import annotations

import io

import numpy as np

from trainer.routing import measures
from trainer.routing.baselines import ORACLE, PROMPT_LENGTH, RANDOM
from trainer.routing.evaluation import SCORE, Evaluation
from trainer.routing.figures import GRID
from trainer.routing.outcomes import Floats, Outcomes

SIZE_INCHES = (7.2, 4.6)
DPI = 144
LINES = {
    SCORE: {"color": "#1f5fa8", "linewidth": 2.2, "zorder": 5},
    RANDOM: {"color": "#777777", "linewidth": 1.2, "linestyle": ":"},
    PROMPT_LENGTH: {"color": "#b07a2a", "linewidth": 1.3, "linestyle": "--"},
    ORACLE: {"color": "#2c8a4b", "linewidth": 1.3, "linestyle": "-."},
}


def accuracy_curve(rows: Outcomes, score: Floats) -> Floats:
    """[101], quality at each share of GRID, rows of equal score in random order."""
    exact = measures.curve(measures.ranking(score), np.ones((1, len(rows))), rows.advantage)
    return np.asarray(rows.weak.mean() + np.interp(GRID, exact.shares[0], exact.gains[0]))


def png(evaluation: Evaluation, title: str) -> bytes:
    """The picture as a PNG file."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: PLC0415 - heavy
    from matplotlib.figure import Figure  # noqa: PLC0415

    scored, band = evaluation.scored, evaluation.band
    figure = Figure(figsize=SIZE_INCHES, dpi=DPI, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    percent = 100 * GRID
    axes.fill_between(percent, 100 * band.low, 100 * band.high, color="#1f5fa8", alpha=0.16, linewidth=0)
    drawn = {SCORE: scored.scores[SCORE], **{name: scored.scores[name] for name in scored.others}, **scored.baselines}
    for name, values in drawn.items():
        label = f"score ({scored.recommended.name})" if name == SCORE else name.replace("_", " ")
        style = LINES.get(name, {"linewidth": 1.1, "alpha": 0.8})
        axes.plot(percent, 100 * accuracy_curve(scored.rows, values), label=label, **style)
    for value, name in ((scored.rows.weak.mean(), "weak"), (scored.rows.strong.mean(), "strong")):
        axes.axhline(100 * value, color="#bbbbbb", linewidth=0.9, zorder=0)
        axes.annotate(f"all {name}", (100, 100 * value), (-4, 3), textcoords="offset points", ha="right", fontsize=8)
    axes.axvline(100 * evaluation.plan.share, color="#bbbbbb", linewidth=0.9, linestyle=":", zorder=0)
    axes.set(xlabel="calls to the strong model, %", ylabel="quality, %", title=title, xlim=(0, 100))
    axes.grid(alpha=0.2)
    axes.legend(fontsize=8, loc="lower right", framealpha=0.9)
    out = io.BytesIO()
    canvas.print_png(out)
    return out.getvalue()
