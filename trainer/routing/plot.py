"""The picture of an evaluation: quality over the share of strong calls, with the interval of `score`."""

from __future__ import annotations

import io
import itertools
from typing import Any

from trainer.routing.baselines import ORACLE, PROMPT_LENGTH, RANDOM
from trainer.routing.report import Report

SIZE_INCHES = (7.2, 4.6)
DPI = 120
BLUE = "#1f5fa8"
OTHERS = ("#8a4fa3", "#c2543d", "#3f9c9c")
LINES: dict[str, dict[str, Any]] = {
    RANDOM: {"color": "#777777", "linewidth": 1.2, "linestyle": ":"},
    PROMPT_LENGTH: {"color": "#b07a2a", "linewidth": 1.3, "linestyle": "--"},
    ORACLE: {"color": "#2c8a4b", "linewidth": 1.3, "linestyle": "-."},
}


def png(report: Report, title: str) -> bytes:
    """The picture as a PNG file."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: PLC0415 - heavy
    from matplotlib.figure import Figure  # noqa: PLC0415

    figure = Figure(figsize=SIZE_INCHES, dpi=DPI, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    shares = [100 * point.share for point in report.curve]
    low, high = ([100 * getattr(point, end) for point in report.curve] for end in ("low", "high"))
    axes.fill_between(shares, low, high, color=BLUE, alpha=0.16, linewidth=0)
    axes.plot(
        shares, [100 * point.accuracy for point in report.curve], color=BLUE, linewidth=2.2, zorder=5,
        label=f"score ({report.recommended}), {report.confidence:.0%} interval",
    )  # fmt: skip
    others = itertools.cycle(OTHERS)
    for name, values in report.curves.items():
        style = LINES.get(name, {"linewidth": 1.2, "color": next(others)})
        axes.plot(shares, [100 * value for value in values], label=name.replace("_", " "), **style)
    for name in ("weak", "strong"):
        height = 100 * (report.accuracy[name].estimate or 0.0)
        axes.axhline(height, color="#bbbbbb", linewidth=0.9, zorder=0)
        above = name == "strong"  # the curves begin at weak and rise
        axes.annotate(f"all {name}", (0, height), (4, 3 if above else -10), textcoords="offset points", fontsize=8)
    axes.axvline(100 * report.share, color="#bbbbbb", linewidth=0.9, linestyle=":", zorder=0)
    axes.set(xlabel="calls to the strong model, %", ylabel="quality, %", title=title, xlim=(0, 100))
    axes.grid(alpha=0.2)
    axes.legend(fontsize=8, loc="lower right", framealpha=0.9)
    out = io.BytesIO()
    canvas.print_png(out)  # type: ignore[no-untyped-call]
    return out.getvalue()
