"""The picture of a run: how much a window sees in every family of tasks, and what it costs, over its size."""

from __future__ import annotations

import io
from collections.abc import Sequence

from trainer.window.analysis import Analysis
from trainer.window.delays import Delays

SIZE_INCHES = (7.6, 4.8)
DPI = 120
COLOURS = ("#1f5fa8", "#2b8a5a", "#7a4fa3", "#555555")
RUST = "#b2502d"


def png(found: Sequence[Analysis], delays: Delays) -> bytes:
    """The picture as a PNG file."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: PLC0415 - heavy
    from matplotlib.figure import Figure  # noqa: PLC0415

    figure = Figure(figsize=SIZE_INCHES, dpi=DPI, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for place, each in enumerate(found):
        colour = COLOURS[place % len(COLOURS)]
        windows = [size for size in each.sizes if size.tokens]
        tokens = [size.tokens for size in windows]
        low, high = [size.low for size in windows], [size.high for size in windows]
        axes.fill_between(tokens, low, high, color=colour, alpha=0.13, linewidth=0)
        axes.plot(tokens, [size.auroc for size in windows], color=colour, linewidth=2.2, marker="o", markersize=4,
                  label=f"{each.family}: {each.answers} answers, {each.right:.0%} right")  # fmt: skip
        axes.axhline(each.size(0).auroc, color=colour, linewidth=1.0, linestyle=":")
    axes.set_xscale("log", base=2)
    ticks = [size.tokens for size in found[0].sizes if size.tokens]
    axes.set_xticks(ticks, [str(one) for one in ticks])
    axes.set(xlabel="commit window, tokens", ylim=(0.4, 1.0))
    axes.set_ylabel('AUROC of "the answer is wrong", 95 % (dotted: whole answer)')
    axes.set_title("What the first tokens say")
    axes.legend(framealpha=0.9, edgecolor="none", loc="upper left", fontsize=9)
    axes.grid(alpha=0.2)
    least = min((delay.concurrency for delay in delays.added), default=None)
    waits = [delay for delay in delays.added if delay.concurrency == least]
    if waits:
        right = axes.twinx()
        right.plot([delay.tokens for delay in waits], [delay.p50_s for delay in waits], color=RUST, linestyle="--")
        right.set_ylim(bottom=0)
        right.set_ylabel(f"added time to first token, s (median, {least} at a time)", color=RUST)
    out = io.BytesIO()
    canvas.print_png(out)  # type: ignore[no-untyped-call]
    return out.getvalue()
