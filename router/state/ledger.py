"""Rates, budgets and slots in memory: the same rules as in `script.lua`, which the same tests run against."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import msgspec

from router.state.base import SLOT_RETRY_S, Adjust, Budget, Claim, Period, Rate, Slots, Verdict
from router.state.periods import window_at

HELD_S = 900.0
"""An unsettled claim is known to be its holder's for this long after it was made or renewed. Settled later, the real
usage is charged on top of it."""
SETTLED_S = 60.0
"""... and a settled one is known to be settled for this long: so late may a lost call be repeated."""
MAX_SETTLED = 50_000
SWEEP_S = 60.0
TOLERANCE = 1e-9
"""Of a limit: sums of decimal fractions (0.1 USD) are not exact."""

Field = tuple[str, str]
"""Kind and key of a claim."""


@dataclass(slots=True)
class Bucket:
    level: float
    at_s: float
    per_minute: float


class Take(msgspec.Struct, gc=False):
    """What one claim would find and take."""

    admitted: bool
    retry_after_s: float
    left: float
    """Before it is taken."""
    amount: float
    reset_s: float
    bucket: Bucket | None = None
    """Of a rate."""
    spent: float = 0.0
    """Of a budget, and in which window."""
    window: int = 0


class Held(msgspec.Struct, frozen=True, gc=False):
    """What a claim took."""

    amount: float
    window: int | None = None
    """Of a budget."""
    ttl_s: float = 0.0


NEVER_CLAIMED = Held(0.0)


@dataclass(slots=True)
class Holding:
    """The claims of one holder; None stands for a settled one."""

    expires_s: float
    claims: dict[Field, Held | None] = field(default_factory=dict)


@dataclass(slots=True)
class Places:
    """Who has a slot of one key, and until when. They are looked through only when one may have expired: a tenant may
    have thousands."""

    ends_s: dict[str, float] = field(default_factory=dict)
    earliest_s: float = math.inf
    """None ends before this."""

    def take(self, holder: str, end_s: float) -> None:
        self.ends_s[holder] = end_s
        self.earliest_s = min(self.earliest_s, end_s)

    def expire(self, now_s: float) -> None:
        if now_s >= self.earliest_s:
            self.ends_s = {holder: end_s for holder, end_s in self.ends_s.items() if end_s > now_s}
            self.earliest_s = min(self.ends_s.values(), default=math.inf)


class Ledger:
    """The claims of all holders. Synchronous, therefore atomic among the tasks of one process."""

    def __init__(self, clock: Callable[[], float], *, max_settled: int = MAX_SETTLED) -> None:
        """
        Args:
            clock: epoch time in seconds.
            max_settled: holders that are remembered after they have settled.
        """
        self._clock = clock
        self._max_settled = max_settled
        self._buckets: dict[str, Bucket] = {}
        self._spent: dict[tuple[Period, str], tuple[int, float]] = {}
        self._slots: dict[str, Places] = {}
        self._holdings: dict[str, Holding] = {}
        self._settled: OrderedDict[str, float] = OrderedDict()  # in the order in which the records end
        self._swept_s = clock()

    def admit(self, claims: Sequence[Claim], holder: str) -> Verdict:
        """Take all claims or none."""
        now_s = self._clock()
        self._forget(now_s)
        holding = self._holdings.get(holder)
        takes = [self._examine(claim, holder, holding, now_s) for claim in claims]
        resets = tuple([take.reset_s for take in takes])
        if not all([take.admitted for take in takes]):
            denied = [index for index, take in enumerate(takes) if not take.admitted]
            worst = max(denied, key=lambda index: takes[index].retry_after_s)
            left = tuple(max(0.0, take.left) for take in takes)
            return Verdict(False, worst, takes[worst].retry_after_s, left, resets)
        if holding is None:
            holding = self._holdings[holder] = Holding(now_s + HELD_S)
            self._settled.pop(holder, None)
        held = holding.claims
        for claim, take in zip(claims, takes, strict=True):
            name = field_of(claim)
            if name not in held:
                held[name] = self._take(claim, take, holder, now_s)
        return Verdict(True, None, 0.0, tuple([max(0.0, take.left - take.amount) for take in takes]), resets)

    def settle(self, adjustments: Sequence[Adjust], holder: str) -> None:
        """Correct claims to the real usage, each once."""
        now_s = self._clock()
        self._forget(now_s)
        if holder in self._settled:
            return
        holding = self._holdings.setdefault(holder, Holding(now_s + HELD_S))
        for adjust in adjustments:
            name = field_of(adjust.claim)
            held = holding.claims.get(name, NEVER_CLAIMED)
            if held is not None:
                self._correct(adjust, held, holder, now_s)
                holding.claims[name] = None
        if not any(holding.claims.values()):
            del self._holdings[holder]
            self._settled[holder] = now_s + SETTLED_S

    def holds(self, holder: str) -> bool:
        return holder in self._holdings

    def renew(self, holders: Sequence[str]) -> None:
        """Restart the time to live of what these holders have."""
        now_s = self._clock()
        self._forget(now_s)
        for holder in holders:
            holding = self._holdings.get(holder)
            if holding is None:
                continue
            holding.expires_s = now_s + HELD_S
            for (kind, key), held in holding.claims.items():
                places = self._slots.get(key)
                if kind == "slots" and held is not None and places is not None and holder in places.ends_s:
                    places.take(holder, now_s + held.ttl_s)

    def _examine(self, claim: Claim, holder: str, holding: Holding | None, now_s: float) -> Take:
        ours = holding is not None and field_of(claim) in holding.claims
        if isinstance(claim, Rate):
            bucket = self._bucket(claim, now_s)
            return _examined(claim, bucket, 0.0 if ours else claim.amount, ours)
        if isinstance(claim, Budget):
            window = window_at(now_s, claim.resets)
            spent = self._spent_in(claim, window.number)
            left = claim.limit - spent
            amount = 0.0 if ours else claim.amount
            admitted = ours or (left > claim.limit * TOLERANCE and amount <= left + claim.limit * TOLERANCE)
            wait_s = math.inf if amount > claim.limit or claim.limit <= 0 else window.end_s - now_s
            rest_s = window.end_s - now_s
            return Take(admitted, 0.0 if admitted else wait_s, left, amount, rest_s, None, spent, window.number)
        places = self._places(claim.key, now_s)
        ours = ours or holder in places
        left = claim.limit - len(places)
        wait_s = SLOT_RETRY_S if claim.limit > 0 else math.inf
        return Take(ours or left >= 1, 0.0 if ours or left >= 1 else wait_s, left, 0.0 if ours else 1.0, 0.0)

    def _take(self, claim: Claim, found: Take, holder: str, now_s: float) -> Held:
        if found.bucket is not None:
            found.bucket.level -= found.amount
            return Held(found.amount)
        if isinstance(claim, Budget):
            self._spent[claim.resets, claim.key] = (found.window, found.spent + claim.amount)
            return Held(claim.amount, found.window)
        assert isinstance(claim, Slots)  # noqa: S101 - a rate has a bucket
        places = self._slots.get(claim.key)
        if places is None:
            places = self._slots[claim.key] = Places()
        places.take(holder, now_s + claim.ttl_s)
        return Held(1.0, ttl_s=claim.ttl_s)

    def _correct(self, adjust: Adjust, held: Held, holder: str, now_s: float) -> None:
        claim = adjust.claim
        if isinstance(claim, Slots):
            self._places(claim.key, now_s).pop(holder, None)
            return
        surplus = held.amount - adjust.actual_amount
        if isinstance(claim, Rate):
            if surplus:
                bucket = self._bucket(claim, now_s)
                bucket.level = min(claim.per_minute, bucket.level + surplus)
            return
        window = window_at(now_s, claim.resets).number
        if held.window in (None, window):  # one that is over does not matter any more
            self._spent[claim.resets, claim.key] = (window, max(0.0, self._spent_in(claim, window) - surplus))

    def _bucket(self, claim: Rate, now_s: float) -> Bucket:
        """The bucket of a rate, filled up to now."""
        bucket = self._buckets.get(claim.key)
        if bucket is None:
            bucket = self._buckets[claim.key] = Bucket(claim.per_minute, now_s, claim.per_minute)
            return bucket
        per_minute = bucket.per_minute = claim.per_minute
        if now_s > bucket.at_s:
            bucket.level += (now_s - bucket.at_s) * per_minute / 60
            bucket.at_s = now_s
        bucket.level = min(bucket.level, per_minute)
        return bucket

    def _spent_in(self, claim: Budget, window: int) -> float:
        then, spent = self._spent.get((claim.resets, claim.key), (window, 0.0))
        return spent if then == window else 0.0

    def _places(self, key: str, now_s: float) -> dict[str, float]:
        """The holders that have a slot now, those left out whose time is over."""
        places = self._slots.get(key)
        if places is None:
            return {}
        places.expire(now_s)
        return places.ends_s

    def _forget(self, now_s: float) -> None:
        """Drop what has ended, settled holders at once and the rest every minute: memory stays bounded."""
        settled = self._settled
        while settled and (next(iter(settled.values())) <= now_s or len(settled) > self._max_settled):
            settled.popitem(last=False)
        if now_s - self._swept_s >= SWEEP_S:
            self._swept_s = now_s
            self._sweep(now_s)

    def _sweep(self, now_s: float) -> None:
        self._buckets = {
            key: bucket
            for key, bucket in self._buckets.items()
            if bucket.level + (now_s - bucket.at_s) * bucket.per_minute / 60 < bucket.per_minute
        }
        self._spent = {
            (period, key): (window, spent)
            for (period, key), (window, spent) in self._spent.items()
            if window == window_at(now_s, period).number
        }
        self._holdings = {holder: holding for holder, holding in self._holdings.items() if holding.expires_s > now_s}
        self._slots = {key: places for key, places in self._slots.items() if self._places(key, now_s)}


def _examined(claim: Rate, bucket: Bucket, amount: float, ours: bool) -> Take:
    level, per_minute = bucket.level, claim.per_minute
    admitted = ours or amount - level <= per_minute * TOLERANCE
    wait_s = 0.0
    if not admitted:
        wait_s = (amount - level) * 60 / per_minute if amount <= per_minute > 0 else math.inf
    full_s = (per_minute - level + amount) * 60 / per_minute if per_minute > 0 else 0.0
    return Take(admitted, wait_s, level, amount, full_s, bucket)


def field_of(claim: Claim) -> Field:
    """What tells a claim from the others of its holder."""
    if isinstance(claim, Budget):
        return ("budget_day" if claim.resets == "day" else "budget_month"), claim.key
    return ("rate" if isinstance(claim, Rate) else "slots"), claim.key
