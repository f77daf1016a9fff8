"""The figures of a run as Markdown tables, by the names under which they stand in docs/commit-window.md."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from pathlib import Path

from policies.intervals import Estimate
from trainer.window.analysis import DEFAULTS, ENOUGH, Analysis, Size, default_window, enough
from trainer.window.delays import SIZES as DELAYS
from trainer.window.delays import WINDOWS, Delays
from trainer.window.halves import SHARE

SHOWN = (1, 4, 8, 16, 24, 32, 48, 64, 128, 0)
"""Windows; 0: the whole answer."""


def tables(found: Sequence[Analysis], delays: Delays, about: Callable[[str], str]) -> dict[str, str]:
    """Name → table.

    Args:
        about: what the tasks of a family are.
    """
    made = {"delays": _delays(delays)}
    if found:
        made |= {
            "answers": _answers(found, about),
            "windows": _windows(found),
            "gains": _gains(found),
            "curves": _curves(found),
            "growths": _growths(found),
            "alarms": _alarms(found),
        }
    return {name: "\n".join(lines) for name, lines in made.items()}


def write_into(page: Path, made: dict[str, str]) -> None:
    """Put the tables between the marks of a page. Raises: OSError, ValueError: it lacks marks."""
    text = page.read_text(encoding="utf-8")
    for name, table in made.items():
        mark, end = f"<!-- {name}: generated -->\n", "\n<!-- end -->"
        before, begun, rest = text.partition(mark)
        _, ended, after = rest.partition(end)
        if not (begun and ended):
            raise ValueError(f"{page}: has no lines {mark.strip()} and {end.strip()}")
        text = f"{before}{mark}{table}{end}{after}"
    page.write_text(text, encoding="utf-8")


def _answers(found: Sequence[Analysis], about: Callable[[str], str]) -> list[str]:
    lines = _head("family", "what the student does", "answers", "right", "tokens (10 % / median / 90 %)")
    for each in found:
        lengths = f"{each.tokens_p10:.0f} / {each.tokens_p50:.0f} / {each.tokens_p90:.0f}"
        lines.append(_row(each.family, about(each.family), f"{each.answers}", f"{each.right:.0%}", lengths))
    return lines


def _windows(found: Sequence[Analysis]) -> list[str]:
    titles = [f"{each.family}: {what}" for each in found for what in ("AUROC (95 %)", f"wrong among the {SHARE:.0%}")]
    lines = _head("window", *titles)
    for tokens in SHOWN:
        cells = []
        for each in found:
            size = each.size(tokens)
            cells += [f"{size.auroc:.3f} [{size.low:.3f}, {size.high:.3f}]", _share(size.hit)]
        lines.append(_row(_name(tokens), *cells))
    return [*lines, _row("by lot", *(cell for each in found for cell in ("0.500", f"{1 - each.right:.0%}")))]


def _gains(found: Sequence[Analysis]) -> list[str]:
    lines = _head("window", *(each.family for each in found), "mean")
    for tokens in DEFAULTS:
        gains = [each.gain(tokens) for each in found]
        lines.append(_row(_name(tokens), *(f"{gain:.0%}" for gain in (*gains, statistics.mean(gains)))))
    needed = ", ".join(f"{each.family} {enough(each) or 'none'}" for each in found)
    return [
        *lines,
        "",
        f"Smallest windows that gain {ENOUGH:.0%}: {needed}. The middle one: {default_window(found) or 'none'}.",
    ]


def _curves(found: Sequence[Analysis]) -> list[str]:
    titles = [f"{each.family}: {what}" for each in found
              for what in ("end within", "ECE, curve of whole answers", "of prefixes")]  # fmt: skip
    lines = _head("window", *titles)
    for tokens in SHOWN[:-1]:
        lines.append(_row(_name(tokens), *(cell for each in found for cell in _calibration(each.size(tokens)))))
    return lines


def _calibration(size: Size) -> list[str]:
    return [
        f"{size.whole_share:.0%}",
        *("-" if ece is None else f"{ece:.3f}" for ece in (size.ece_whole, size.ece_prefix)),
    ]


def _growths(found: Sequence[Analysis]) -> list[str]:
    what = ("held", "escalated", "wrong found", "right escalated")
    lines = _head("window", "band", *(f"{each.family}: {' / '.join(what)}" for each in found))
    for same in zip(*(each.growths for each in found), strict=True):
        first = same[0]
        name = f"{first.tokens} to {first.max_tokens}" if first.band else f"{first.tokens}"
        cells = [f"{each.mean_tokens:.0f} / {each.escalated:.0%} / {each.wrong_found:.0%} / {each.right_lost:.1%}"
                 for each in same]  # fmt: skip
        lines.append(_row(name, f"{first.band:g}", *cells))
    return list(dict.fromkeys(lines))  # without a band it does not matter how far a window could grow


def _alarms(found: Sequence[Analysis]) -> list[str]:
    titles = [f"{each.family}: {what} stopped" for each in found for what in ("wrong", "right")]
    lines = _head("window", "rings above", *titles)
    for same in zip(*(each.alarms for each in found), strict=True):
        cells = [_share(share) for each in same for share in (each.wrong_stopped, each.right_stopped)]
        lines.append(_row(f"{same[0].window_tokens}", f"{same[0].threshold:g}", *cells))
    for window in found[0].chosen_alarms:
        chosen = [" and ".join("none" if one is None else f"{one:g}" for one in each.chosen_alarms[window])
                  for each in found]  # fmt: skip
        lines.append(_row(f"{window}", "chosen by the halves", *(cell for each in chosen for cell in (each, ""))))
    return lines


def _delays(delays: Delays) -> list[str]:
    if not delays.added:
        return ["Not measured yet."]
    at_once = sorted({delay.concurrency for delay in delays.added})
    titles = [f"added, {number} at a time (median / 90 %)" for number in at_once]
    lines = _head("window", *titles, "TTFT through the gateway, alone (median)")
    by_size = {(delay.tokens, delay.concurrency): delay for delay in delays.added}
    for tokens in sorted({*DELAYS, *WINDOWS}):
        cells = []
        for number in at_once:
            delay = by_size.get((tokens, number))
            cells.append("0" if delay is None else f"{delay.p50_s:.2f} / {delay.p90_s:.2f} s")
        measured = delays.gateway_ttft_s.get(tokens)
        cells.append(f"{statistics.median(measured):.2f} s" if measured else "-")
        lines.append(_row(f"{tokens}" if tokens else "none", *cells))
    busy = "is not known" if delays.busy is None else f"was {delays.busy:.0%} of the cores"
    return [*lines, "", f"What other processes used when this measurement began {busy}."]


def _name(tokens: int) -> str:
    return f"{tokens}" if tokens else "whole answer"


def _share(share: Estimate | None) -> str:
    return "-" if share is None else f"{share.value:.1%} [{100 * share.low:.0f}, {100 * share.high:.0f}]"


def _head(*titles: str) -> list[str]:
    return [_row(*titles), "|" + len(titles) * "---|"]


def _row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"
