"""Moments as people type them: a time ago, or a date."""

from __future__ import annotations

import re
import time
from datetime import UTC, datetime

import click

UNITS_S = {"m": 60.0, "h": 3600.0, "d": 86_400.0}


def moment(ctx: click.Context, param: click.Parameter, value: str | None) -> float:
    """Callback of an option: Unix time in seconds, 0 when nothing was typed. Raises: click.BadParameter."""
    text = (value or "").strip()
    if not text:
        return 0.0
    if ago := re.fullmatch(r"(\d{1,9}(?:\.\d{1,9})?)([mhd])", text, re.ASCII):
        return time.time() - float(ago[1]) * UNITS_S[ago[2]]
    try:
        found = datetime.fromisoformat(text)
    except ValueError as exc:
        raise click.BadParameter(
            f"{text!r} is no time: use 90m, 12h, 7d or a date such as 2026-11-01T12:00 (UTC)", ctx, param
        ) from exc
    return (found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp()
