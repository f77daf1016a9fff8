"""Completes a third-party policy: a class needs nothing but `decide`, `review` or `reconsider`; this is the one place
that adds the rest.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from policies.base import (
    Abstain,
    MeasuringReviewer,
    Policy,
    PolicyConfigError,
    RequestFeatures,
    Reviewer,
    RouteDecision,
    Signal,
)
from policies.governor import DailyBudget, Governor
from policies.window import CommitWindow

if TYPE_CHECKING:
    from policies.record import Draft

NAME_PATTERN = re.compile(r"[a-z][a-z0-9_]{0,63}")
MAX_REASONS = 64
"""A policy's reasons are metric labels; more than this is a mistake, such as a reason with a value in it."""


class AdaptedPolicy:
    """A policy with every member that the chain calls, around an object that has at least `decide`.

    What the object lacks: its name is that of the entry point or class, its reasons are unknown (each is reported
    as `other`), and it asks for no signals.
    """

    def __init__(self, inner: Any, *, name: str, reasons: frozenset[str]) -> None:
        self._name = name
        self._reasons = reasons
        self._decide: Callable[[RequestFeatures], RouteDecision | Abstain | None] = inner.decide
        self._needs: Callable[[RequestFeatures], Signal | None] = getattr(inner, "needs", _needs_nothing)
        self._optional_signals: Callable[[], frozenset[Signal]] = getattr(inner, "optional_signals", _no_signals)
        self.artefact_sha256: object = getattr(inner, "artefact_sha256", None)

    @property
    def name(self) -> str:
        return self._name

    @property
    def reasons(self) -> frozenset[str]:
        return self._reasons

    def optional_signals(self) -> frozenset[Signal]:
        return frozenset(self._optional_signals())

    def needs(self, features: RequestFeatures) -> Signal | None:
        return self._needs(features)

    def decide(self, features: RequestFeatures) -> RouteDecision | Abstain | None:
        return self._decide(features)


class AdaptedReviewer:
    """A reviewer with every member that the chain calls, around an object that has at least `review`."""

    def __init__(self, inner: Any, *, name: str, reasons: frozenset[str]) -> None:
        self._name = name
        self._reasons = reasons
        self._review: Callable[[RequestFeatures, Draft], RouteDecision | Abstain | None] = inner.review
        self.commit_window: CommitWindow | None = getattr(inner, "commit_window", None)
        self.alarm: object = getattr(inner, "alarm", None)
        self.artefact_sha256: object = getattr(inner, "artefact_sha256", None)

    @property
    def name(self) -> str:
        return self._name

    @property
    def reasons(self) -> frozenset[str]:
        return self._reasons

    def review(self, features: RequestFeatures, draft: Draft) -> RouteDecision | Abstain | None:
        return self._review(features, draft)


class AdaptedPolicyAndReviewer(AdaptedPolicy, AdaptedReviewer):
    """Around an object that has both."""

    def __init__(self, inner: Any, *, name: str, reasons: frozenset[str]) -> None:
        AdaptedPolicy.__init__(self, inner, name=name, reasons=reasons)
        AdaptedReviewer.__init__(self, inner, name=name, reasons=reasons)


class AdaptedGovernor:
    """A governor with every member that the chain calls, around an object that has at least `reconsider`."""

    def __init__(self, inner: Any, *, name: str, reasons: frozenset[str]) -> None:
        self._name = name
        self._reasons = reasons
        self.reconsider: Callable[[RequestFeatures, RouteDecision, Draft | None], RouteDecision | Abstain | None] = (
            inner.reconsider
        )
        self.draws = bool(getattr(inner, "draws", False))
        self.daily_budget: DailyBudget | None = getattr(inner, "daily_budget", None)

    @property
    def name(self) -> str:
        return self._name

    @property
    def reasons(self) -> frozenset[str]:
        return self._reasons


def adapt(inner: Any, *, type_name: str) -> Policy | Reviewer | Governor:
    """A complete policy, reviewer, governor or several of them from whatever a policy class built; a complete one is
    returned as it is.

    Args:
        type_name: the `type` of the configuration table: an entry point's name or `module:Class`.
    Raises:
        PolicyConfigError: it has no usable `decide`, `review` or `reconsider`, or a member of the wrong kind.
    """
    decides, reviews, governs = (getattr(inner, each, None) is not None for each in ("decide", "review", "reconsider"))
    if not (decides or reviews or governs):
        raise PolicyConfigError(
            f"type: {type_name!r} is not a policy: it has no method decide(features), and no review(features, draft)"
        )
    if governs and (decides or reviews):
        raise PolicyConfigError(
            f"type: {type_name!r}: what reconsiders other policies' decisions (`reconsider`) cannot decide as well"
        )
    for member in ("decide", "review", "reconsider", "needs", "optional_signals", "for_student"):
        value = getattr(inner, member, None)
        if value is not None and not callable(value):
            raise PolicyConfigError(f"type: {type_name!r}: {member} must be a method")
        if inspect.iscoroutinefunction(value):
            raise PolicyConfigError(
                f"type: {type_name!r}: {member} must be a plain method; slow measurements are signals (`needs`)"
            )
    measuring = [each for each in ("measures", "read", "needs_draft") if hasattr(inner, each)]
    if measuring and reviews and not isinstance(inner, MeasuringReviewer):
        raise PolicyConfigError(
            f"type: {type_name!r}: has {measuring[0]}, and a reviewer that measures drafts needs `name`, `reasons`, "
            "`measures`, `read` and `needs_draft`, all of them"
        )
    name, reasons = _checked_name(inner, type_name), _checked_reasons(inner, type_name)
    _check_window(inner, getattr(inner, "commit_window", None), type_name)
    if governs:
        return inner if isinstance(inner, Governor) else AdaptedGovernor(inner, name=name, reasons=reasons)
    if isinstance(inner, Policy) or (isinstance(inner, Reviewer) and not decides):
        return inner  # complete; whether it reviews as well is told by its method
    if decides and reviews:
        return AdaptedPolicyAndReviewer(inner, name=name, reasons=reasons)
    return (AdaptedPolicy if decides else AdaptedReviewer)(inner, name=name, reasons=reasons)


def snake_case(name: str) -> str:
    """`HTTPRouteByTag` → `http_route_by_tag`."""
    spaced = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name)
    return re.sub(r"\W+", "_", spaced).strip("_").lower()


def _checked_name(inner: Any, type_name: str) -> str:
    default = snake_case(type_name.rpartition(":")[2].rpartition(".")[2])
    name = getattr(inner, "name", default)
    if not isinstance(name, str) or not NAME_PATTERN.fullmatch(name):
        raise PolicyConfigError(
            f"type: {type_name!r}: its name {name!r} must be snake_case with at most 64 characters: "
            "it labels metrics and records"
        )
    return name


def _checked_reasons(inner: Any, type_name: str) -> frozenset[str]:
    reasons = getattr(inner, "reasons", ())
    if isinstance(reasons, str) or not isinstance(reasons, frozenset | set | tuple | list):
        raise PolicyConfigError(f"type: {type_name!r}: reasons must be a set of strings")
    bad = [item for item in reasons if not isinstance(item, str) or not NAME_PATTERN.fullmatch(item)]
    if bad or len(reasons) > MAX_REASONS:
        raise PolicyConfigError(
            f"type: {type_name!r}: reasons must be at most {MAX_REASONS} snake_case strings; "
            + (f"{bad[0]!r} is not" if bad else f"there are {len(reasons)}")
        )
    return frozenset(reasons)


def _check_window(inner: object, window: object, type_name: str) -> None:
    alarm = window.late_alarm if isinstance(window, CommitWindow) else None
    if alarm is not None and not callable(getattr(inner, "alarm", None)):
        raise PolicyConfigError(
            f"type: {type_name!r}: its commit_window has a late_alarm, so it needs a method alarm(features, progress)"
        )
    if window is None or (isinstance(window, CommitWindow) and window.tokens >= 1 and window.time_s > 0):
        return
    raise PolicyConfigError(
        f"type: {type_name!r}: commit_window must be None or a CommitWindow of at least 1 token and more than 0 s"
    )


def _needs_nothing(features: RequestFeatures) -> Signal | None:
    return None


def _no_signals() -> frozenset[Signal]:
    return frozenset()
