"""The report's plots as inline SVG. Drawn by hand: colours come from the page's CSS, so they follow light and dark."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

from trainer.evaluation.gate import Check

_WIDTH = 760
_LABEL_WIDTH = 230
_ROW_HEIGHT = 22
_SQUARE = 300
_LEFT, _TOP = 44, 14


def intervals(checks: Sequence[Check]) -> str:
    """A forest plot: difference to the reference with its bounds and the margin, one row a check."""
    if not checks:
        return ""
    reach = max(0.02, *(max(abs(each.low), abs(each.high)) for each in checks))
    reach = max(reach, *(each.margin for each in checks if each.margin < 1), 0.0) * 1.05
    plot = _WIDTH - _LABEL_WIDTH - 20
    height = _ROW_HEIGHT * len(checks) + 46

    def x(value: float) -> float:
        return round(_LABEL_WIDTH + plot * (max(-reach, min(reach, value)) + reach) / (2 * reach), 1)

    parts = [_open(_WIDTH, height, "Differences in accuracy with the bounds of the tests")]
    bottom = height - 30
    parts.append(f'<line class="axis" x1="{x(0)}" y1="6" x2="{x(0)}" y2="{bottom}"/>')
    for index, each in enumerate(checks):
        y = 18 + index * _ROW_HEIGHT
        parts.append(f'<text x="{_LABEL_WIDTH - 10}" y="{y + 4}" text-anchor="end">{escape(_short(each.name))}</text>')
        if each.margin < 1:
            parts.append(
                f'<line class="margin" x1="{x(-each.margin)}" y1="{y - 8}" x2="{x(-each.margin)}" y2="{y + 8}"/>'
            )
        parts.append(f'<line class="{each.outcome}" x1="{x(each.low)}" y1="{y}" x2="{x(each.high)}" y2="{y}"/>')
        title = f"{each.name}: {each.difference:+.1%} [{each.low:+.1%}, {each.high:+.1%}], n = {each.n}, {each.outcome}"
        parts.append(
            f'<circle class="{each.outcome}" cx="{x(each.difference)}" cy="{y}" r="4">'
            f"<title>{escape(title)}</title></circle>"
        )
    for value in (-reach / 1.05, 0.0, reach / 1.05):
        parts.append(f'<text x="{x(value)}" y="{bottom + 18}" text-anchor="middle">{value * 100:+.1f} points</text>')
    return "".join([*parts, "</svg>"])


def reliability(bins: Sequence[Mapping[str, float]]) -> str:
    """Stated against observed share of right answers; the area of a dot grows with its cases."""
    if not bins:
        return ""
    total = sum(each["n"] for each in bins)
    size = _SQUARE

    def at(stated: float, observed: float) -> tuple[float, float]:
        return round(_LEFT + stated * size, 1), round(_TOP + (1 - observed) * size, 1)

    (x0, y0), (x1, y1) = at(0, 0), at(1, 1)
    parts = [
        _open(size + 64, size + 60, "Reliability: stated confidence against observed accuracy"),
        f'<rect class="frame" x="{x0}" y="{y1}" width="{size}" height="{size}"/>',
        f'<line class="margin" x1="{x0}" y1="{y0}" x2="{x1}" y2="{y1}"/>',
    ]
    points = [at(each["mean_confidence"], each["accuracy"]) for each in bins]
    parts.append(f'<polyline class="curve" points="{" ".join(f"{x},{y}" for x, y in points)}"/>')
    for (x, y), each in zip(points, bins, strict=True):
        radius = round(3 + 9 * (each["n"] / total) ** 0.5, 1)
        parts.append(
            f'<circle class="dot" cx="{x}" cy="{y}" r="{radius}"><title>stated {each["mean_confidence"]:.2f}, '
            f"right {each['accuracy']:.2f}, {each['n']:.0f} cases</title></circle>"
        )
    for value in (0.0, 0.5, 1.0):
        x, y = at(value, value)
        parts.append(f'<text x="{x}" y="{y0 + 18}" text-anchor="middle">{value:g}</text>')
        parts.append(f'<text x="{x0 - 6}" y="{y + 4}" text-anchor="end">{value:g}</text>')
    parts.append(f'<text x="{x0 + size / 2}" y="{y0 + 38}" text-anchor="middle">exp(mean logprob)</text>')
    return "".join([*parts, "</svg>"])


def _open(width: int, height: int, title: str) -> str:
    return (
        f'<svg viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img" '
        f'aria-label="{escape(title)}" xmlns="http://www.w3.org/2000/svg">'
    )


def _short(name: str) -> str:
    return name if len(name) <= 32 else name[:31] + "…"
