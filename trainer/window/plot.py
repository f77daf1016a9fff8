"""The picture of a run: how much a window sees, and what it costs, over its size."""

from __future__ import annotations

import io

from trainer.window.analysis import Analysis

SIZE_INCHES = (7.2, 4.6)
DPI = 120
BLUE, RUST = "#1f5fa8", "#b2502d"


def png(analysis: Analysis) -> bytes:
    """The picture as a PNG file."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: PLC0415 - heavy
    from matplotlib.figure import Figure  # noqa: PLC0415

    figure = Figure(figsize=SIZE_INCHES, dpi=DPI, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    windows = [size for size in analysis.sizes if size.tokens]
    whole = next(size for size in analysis.sizes if not size.tokens)
    tokens = [size.tokens for size in windows]
    axes.fill_between(
        tokens, [size.low for size in windows], [size.high for size in windows], color=BLUE, alpha=0.16, linewidth=0
    )
    axes.plot(tokens, [size.auroc for size in windows], color=BLUE, linewidth=2.2, marker="o", markersize=4)
    axes.axhline(whole.auroc, color=BLUE, linewidth=1.0, linestyle=":")
    axes.annotate(f"whole answer {whole.auroc:.3f}", (tokens[0], whole.auroc), (0, 4), textcoords="offset points",
                  color=BLUE, fontsize=9)  # fmt: skip
    axes.set_xscale("log", base=2)
    axes.set_xticks(tokens, [str(each) for each in tokens])
    axes.set(xlabel="commit window, tokens", ylim=(0.45, 1.0))
    axes.set_ylabel('AUROC of "the answer is wrong", 95 % interval', color=BLUE)
    axes.set_title(f"What the first tokens say: {analysis.answers} answers, {analysis.right:.0%} right")
    axes.grid(alpha=0.2)
    least = min((delay.concurrency for delay in analysis.delays), default=None)
    waits = [delay for delay in analysis.delays if delay.concurrency == least]
    if waits:
        right = axes.twinx()
        right.plot([delay.tokens for delay in waits], [delay.p50_s for delay in waits], color=RUST, linestyle="--")
        right.set_ylim(bottom=0)
        right.set_ylabel(f"added time to first token, s (median, {least} at a time)", color=RUST)
    out = io.BytesIO()
    canvas.print_png(out)  # type: ignore[no-untyped-call]
    return out.getvalue()
