"""What a case is, and how it ends."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import msgspec

from loadtests.faults.stage import Stage
from loadtests.faults.system import Setting

MEBIBYTE = 2**20


class Verdict(msgspec.Struct, frozen=True):
    """Whether the gateway did what it must, and a sentence about what the client really saw."""

    passed: bool
    saw: str


class Untouched(RuntimeError):
    """The first upstream was not asked, so nothing was tested: the gateway keeps away from it after an earlier case."""


Judge = Callable[[Stage, str], Awaitable[Verdict]]
"""Plays a case, given its directive, and judges it from the client's bytes and what the upstream saw."""


class Case(msgspec.Struct, frozen=True, kw_only=True):
    """One row of the table."""

    name: str
    title: str
    """What happens, as the report says it."""
    upstream: str = ""
    """The first upstream's directives (`loadtests.fake_backend`)."""
    must: str
    """What a correct gateway does."""
    judge: Judge
    setting: Setting = "alone"
    ends_process: bool = False
    """The gateway does not survive it, or is not to be trusted with another case afterwards."""
