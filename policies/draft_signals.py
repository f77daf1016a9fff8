"""What is known about a student's answer when a cascade judges it: the features of its score, and their names.

The gateway measures them while the answer passes (router/logprob_tap.py) and keeps them in the record, so that the same
decision can be taken again offline, and a score be learned from them. A signal that is None is missing, which says
something by itself: an answer that states no confidence, or of which no second sample was asked for.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from policies.base import RequestFeatures


class DraftSignal(enum.StrEnum):
    """A measurement of a draft that is too expensive to take of every one."""

    AGREEMENT = "agreement"
    """The student is asked once more, and the two answers are compared."""


class DraftSignals(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Measurements of one draft. Log probabilities and entropies in nats, over the answer without its stop token."""

    mean_logprob: float | None = None
    """As `policies.drafts.logprobs.mean_logprob` defines it."""
    min_logprob: float | None = None
    logprob_q10: float | None = None
    """The 10 % quantile of the tokens' logprobs, interpolated linearly between the two nearest tokens."""
    mean_margin: float | None = None
    """Logprob of the most likely token less that of the second, averaged; None without `top_logprobs`."""
    min_margin: float | None = None
    mean_entropy: float | None = None
    """Of the next token: over the most likely ones that the backend told, and all others as one more outcome."""
    tokens: int | None = None
    """Of the answer as it was judged, its stop token included."""
    prefix_means: tuple[float, ...] = ()
    """Mean logprob of the first 4, 8, 16, ... tokens (`PREFIX_TOKENS`), as far as the answer reached: what a commit
    window of that size would have seen, so that a score of prefixes can be fitted and replayed."""
    stated_confidence: float | None = None
    """P(right) that the answer itself claims, in [0, 1]."""
    agreement: float | None = None
    """How far a second sample says the same, in [0, 1]."""
    failed: tuple[str, ...] | None = None
    """Validity checks that it does not pass, the gravest first (policies/drafts/validity.py); None: not checked."""
    score: float | None = None
    """P(the student is inadequate) as `scored_by` gave it: a model may read texts, which a record need not have."""
    scored_by: str | None = None
    """Hash of that model."""
    unavailable: tuple[DraftSignal, ...] = ()
    """Asked for and not delivered: the second sample failed, came too late, or there was no room for one."""

    @property
    def valid(self) -> float | None:
        """1.0: every check passed, 0.0: one did not, None: not checked."""
        return None if self.failed is None else float(not self.failed)


NO_DRAFT_SIGNALS = DraftSignals()
PREFIX_TOKENS = (4, 8, 16, 32, 64, 128, 256)
"""At which the mean of a prefix is kept."""

ANSWER_NAMES = (
    "mean_logprob",
    "min_logprob",
    "logprob_q10",
    "mean_margin",
    "min_margin",
    "mean_entropy",
    "tokens",
    "stated_confidence",
    "agreement",
    "valid",
)
"""Signals of the answer. A file for `locum evaluate` may have columns of these names, or map its own to them."""
NEED_TOP_LOGPROBS = frozenset({"mean_margin", "min_margin", "mean_entropy"})
"""Those for which the backend has to tell the alternatives of every token."""
PROMPT_NAMES = ("prompt_tokens", "retrieval_confidence", "reasoning_effort")
"""Signals of the request. Cues in its text are features of the text (policies/scoring/text.py)."""
NAMES = (*ANSWER_NAMES, *PROMPT_NAMES)
TAG = "tag."
"""`tag.subject=law` is 1 where the request has the tag `subject` with the value `law`, 0 elsewhere; `tag.subject=` is 1
where it has no such tag. A file for `locum evaluate` has them as one column of words, mapped to `tag.subject`."""
EFFORTS = {"none": 0.0, "minimal": 0.1, "low": 0.25, "medium": 0.5, "high": 0.75, "xhigh": 0.9, "max": 1.0}


def values(signals: DraftSignals, features: RequestFeatures) -> dict[str, float | None]:
    """Every signal under its name, the request's among them; None: missing."""
    found: dict[str, float | None] = {name: getattr(signals, name) for name in ANSWER_NAMES}
    measured, effort = features.signals.prompt_tokens, features.reasoning_effort
    found["prompt_tokens"] = features.approx_prompt_tokens if measured is None else measured
    found["retrieval_confidence"] = features.retrieval_confidence
    found["reasoning_effort"] = None if effort is None else EFFORTS.get(effort.strip().lower())
    return found


def tag_values(names: Iterable[str], tags: Mapping[str, str]) -> dict[str, float]:
    """Those of the names that ask for a tag of the request."""
    asked = ((name, name.removeprefix(TAG).partition("=")) for name in names if name.startswith(TAG))
    return {name: float(tags.get(tag, "").strip() == value) for name, (tag, _, value) in asked}


def unmeasured(names: Iterable[str]) -> list[str]:
    """Those that no gateway knows, sorted."""
    return sorted(name for name in set(names) - set(NAMES) if not (name.startswith(TAG) and "=" in name))
