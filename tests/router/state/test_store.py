"""What every kind of store does: the same suite runs against memory, Redis and the socket of a parent process."""

from __future__ import annotations

import asyncio
import math
from datetime import UTC, datetime

import pytest

from router.errors import VersionConflict
from router.state.base import Adjust, Budget, Rate, Slots
from tests.router.state.conftest import Setup

TOKENS = Rate("tokens", per_minute=6000, amount=1000)
DAY = Budget("usd", limit=1.0, amount=0.4, resets="day")
MONTH = Budget("usd", limit=2.0, amount=0.4, resets="month")
SLOT = Slots("requests", limit=2, ttl_s=30)


def epoch(*date: int) -> float:
    return datetime(*date, tzinfo=UTC).timestamp()  # type: ignore[arg-type]


async def test_rate_admits_its_capacity_and_tells_the_wait_when_empty(shared: Setup) -> None:
    verdicts = [await shared.store.admit([TOKENS], holder=str(number)) for number in range(7)]
    assert [verdict.admitted for verdict in verdicts] == [True] * 6 + [False]
    assert verdicts[0].remaining[0] == pytest.approx(5000, abs=50)
    assert verdicts[0].reset_s[0] == pytest.approx(10, abs=0.5)
    assert verdicts[6].denied_by == 0
    assert verdicts[6].retry_after_s == pytest.approx(10, abs=0.5)


async def test_rate_refills_evenly_when_time_passes(shared: Setup) -> None:
    start_s = shared.clock()
    for number in range(6):
        await shared.store.admit([TOKENS], holder=str(number))
    shared.clock.move_to(start_s + 5)
    assert not (await shared.store.admit([TOKENS], holder="early")).admitted
    shared.clock.move_to(start_s + 10.5)
    assert (await shared.other.admit([TOKENS], holder="in time")).admitted
    shared.clock.move_to(start_s + 3600)
    assert (await shared.store.admit([TOKENS], holder="late")).remaining[0] == pytest.approx(5000, abs=50)


async def test_rate_says_that_waiting_is_in_vain_when_the_bucket_is_too_small(shared: Setup) -> None:
    verdict = await shared.store.admit([Rate("small", per_minute=10, amount=11)], holder="a")
    assert not verdict.admitted
    assert verdict.retry_after_s == math.inf


async def test_settling_gives_back_what_was_not_used_and_only_once(shared: Setup) -> None:
    await shared.store.admit([TOKENS], holder="a")
    for _ in range(3):
        await shared.store.settle([Adjust(TOKENS, 10)], holder="a")
    probe = await shared.store.admit([Rate("tokens", 6000, 0)], holder="probe")
    assert probe.remaining[0] == pytest.approx(5990, abs=50)


async def test_settling_leaves_a_debt_when_more_was_used(shared: Setup) -> None:
    await shared.store.admit([TOKENS], holder="a")
    await shared.store.settle([Adjust(TOKENS, 9000)], holder="a")
    verdict = await shared.store.admit([TOKENS], holder="b")
    assert verdict.remaining == (0.0,)
    assert verdict.retry_after_s == pytest.approx(40, abs=0.5)


async def test_settling_charges_in_full_when_nothing_was_claimed(shared: Setup) -> None:
    await shared.store.settle([Adjust(DAY, 0.9)], holder="a")
    await shared.store.settle([Adjust(DAY, 0.9)], holder="a")
    verdict = await shared.store.admit([Budget("usd", 1.0, 0.05, "day")], holder="b")
    assert verdict.admitted
    assert verdict.remaining[0] == pytest.approx(0.05)


async def test_claims_are_taken_all_or_none_when_one_is_denied(shared: Setup) -> None:
    claims = [TOKENS, Budget("usd", 0.1, 0.4, "day"), SLOT]
    verdict = await shared.store.admit(claims, holder="a")
    assert (verdict.admitted, verdict.denied_by) == (False, 1)
    assert verdict.remaining == (pytest.approx(6000), pytest.approx(0.1), 2.0)
    untouched = await shared.store.admit([TOKENS, DAY, SLOT], holder="b")
    assert untouched.remaining == (pytest.approx(5000, abs=50), pytest.approx(0.6), 1.0)


async def test_verdict_names_the_longest_wait_when_several_claims_are_denied(shared: Setup) -> None:
    empty = [Rate("r", 60, 60), Budget("b", 1, 1, "month"), Slots("s", 1, 30)]
    assert (await shared.store.admit(empty, holder="a")).admitted
    verdict = await shared.store.admit(empty, holder="b")
    assert verdict.denied_by == 1
    assert verdict.retry_after_s == pytest.approx(verdict.reset_s[1])


async def test_admitting_takes_nothing_more_when_the_answer_was_lost(shared: Setup) -> None:
    claims = [TOKENS, DAY, MONTH, SLOT]
    first = await shared.store.admit(claims, holder="a")
    again = await shared.store.admit(claims, holder="a")
    assert again.admitted
    assert again.remaining == pytest.approx(first.remaining, abs=50)
    assert again.remaining[3] == 1


async def test_budgets_of_day_and_month_are_counted_apart_when_they_share_a_key(shared: Setup) -> None:
    shared.clock.move_to(epoch(2027, 2, 28, 12))
    for number in range(2):
        assert (await shared.store.admit([DAY, MONTH], holder=str(number))).admitted
    verdict = await shared.store.admit([DAY, MONTH], holder="c")
    assert verdict.denied_by == 0
    assert verdict.remaining == pytest.approx((0.2, 1.2))
    assert verdict.reset_s == pytest.approx((12 * 3600, 12 * 3600), abs=5)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ((2027, 12, 31, 23, 59, 50), (2028, 1, 1)),
        ((2028, 2, 29, 23, 59, 50), (2028, 3, 1)),
        ((2027, 4, 30, 23, 59, 50), (2027, 5, 1)),
    ],
)
async def test_budgets_start_anew_when_day_and_month_end(
    shared: Setup, before: tuple[int, ...], after: tuple[int, ...]
) -> None:
    shared.clock.move_to(epoch(*before))
    spent = [Budget("usd", 1, 1, "day"), Budget("usd", 1, 1, "month")]
    assert (await shared.store.admit(spent, holder="a")).reset_s == pytest.approx((10, 10), abs=5)
    assert not (await shared.store.admit(spent, holder="b")).admitted
    shared.clock.move_to(epoch(*after) + 1)
    assert (await shared.other.admit(spent, holder="c")).admitted


async def test_month_goes_on_when_only_the_day_ends(shared: Setup) -> None:
    shared.clock.move_to(epoch(2028, 2, 28, 23, 59, 50))
    spent = [Budget("usd", 1, 1, "day"), Budget("usd", 1, 1, "month")]
    await shared.store.admit(spent, holder="a")
    shared.clock.move_to(epoch(2028, 2, 29) + 1)
    verdict = await shared.store.admit(spent, holder="b")
    assert verdict.denied_by == 1
    assert verdict.remaining == (1.0, 0.0)


async def test_settling_corrects_the_day_of_the_claim_when_midnight_has_passed(shared: Setup) -> None:
    shared.clock.move_to(epoch(2027, 6, 1, 23, 59, 50))
    await shared.store.admit([DAY], holder="a")
    shared.clock.move_to(epoch(2027, 6, 2) + 1)
    await shared.store.admit([DAY], holder="b")
    await shared.store.settle([Adjust(DAY, 0.0)], holder="a")
    verdict = await shared.store.admit([Budget("usd", 1, 0, "day")], holder="c")
    assert verdict.remaining[0] == pytest.approx(0.6)


async def test_spent_budget_admits_nothing_when_the_amount_is_unknown(shared: Setup) -> None:
    for number in range(10):
        assert (await shared.store.admit([Budget("dimes", 1, 0.1, "day")], holder=str(number))).admitted
    assert not (await shared.store.admit([Budget("dimes", 1, 0.0, "day")], holder="zero")).admitted


async def test_small_amounts_are_not_lost_when_the_budget_is_huge(shared: Setup) -> None:
    for number in range(3):
        assert (await shared.store.admit([Budget("usd", 1e9, 1e-8, "day")], holder=str(number))).admitted
    verdict = await shared.store.admit([Budget("usd", 1e-7, 0.0, "day")], holder="small")
    assert verdict.remaining == pytest.approx((7e-8,))


async def test_slot_comes_free_when_it_is_settled(shared: Setup) -> None:
    assert (await shared.store.admit([SLOT], holder="a")).remaining == (1.0,)
    assert (await shared.other.admit([SLOT], holder="b")).remaining == (0.0,)
    denied = await shared.store.admit([SLOT], holder="c")
    assert (denied.admitted, denied.retry_after_s) == (False, 1.0)
    await shared.store.settle([Adjust(SLOT)], holder="a")
    await shared.store.settle([Adjust(SLOT)], holder="a")
    assert (await shared.store.admit([SLOT], holder="c")).admitted
    assert not (await shared.store.admit([SLOT], holder="d")).admitted


async def test_slot_comes_free_when_its_holder_is_not_renewed(shared: Setup) -> None:
    start_s = shared.clock()
    await shared.store.admit([SLOT], holder="dead")
    await shared.store.admit([SLOT], holder="alive")
    for passed_s in (20, 40, 60):
        shared.clock.move_to(start_s + passed_s)
        await shared.store.renew(["alive", "unknown"])
    first, second = [await shared.store.admit([SLOT], holder=name) for name in ("c", "d")]
    assert (first.admitted, second.admitted) == (True, False)


async def test_slot_is_not_resurrected_when_it_is_renewed_too_late(shared: Setup) -> None:
    start_s = shared.clock()
    await shared.store.admit([Slots("one", 1, 30)], holder="stalled")
    shared.clock.move_to(start_s + 31)
    assert (await shared.store.admit([Slots("one", 1, 30)], holder="next")).admitted
    await shared.store.renew(["stalled"])
    await shared.store.settle([Adjust(Slots("one", 1, 30))], holder="next")
    assert (await shared.store.admit([Slots("one", 1, 30)], holder="third")).admitted


async def test_claims_of_a_holder_may_be_settled_one_after_the_other(shared: Setup) -> None:
    await shared.store.admit([TOKENS, SLOT], holder="a")
    await shared.store.settle([Adjust(SLOT)], holder="a")
    await shared.store.settle([Adjust(TOKENS, 0.0)], holder="a")
    verdict = await shared.store.admit([TOKENS, SLOT], holder="b")
    assert verdict.remaining == (pytest.approx(5000, abs=50), 1.0)


async def test_limits_hold_exactly_when_many_ask_at_once(shared: Setup) -> None:
    claims = [Rate("burst", 10_000, 100), Slots("burst", 30, 60)]
    stores = (shared.store, shared.other)
    verdicts = await asyncio.gather(*(stores[n % 2].admit(claims, holder=str(n)) for n in range(300)))
    assert sum(verdict.admitted for verdict in verdicts) == 30
    await asyncio.gather(*(stores[n % 2].settle([Adjust(c, 0) for c in claims], holder=str(n)) for n in range(300)))
    assert (await shared.store.admit(claims, holder="after")).remaining == (pytest.approx(9900, abs=100), 29.0)


async def test_value_is_kept_until_its_time_is_over(shared: Setup) -> None:
    assert await shared.store.get("answer") is None
    await shared.store.put("answer", b"\x00\xff bytes", ttl_s=60)
    assert await shared.other.get("answer") == b"\x00\xff bytes"
    await shared.store.put("brief", b"x", ttl_s=0.001)
    shared.clock.move_to(shared.clock() + 1)
    await asyncio.sleep(0.02)  # Redis ends values by its own clock
    assert await shared.store.get("brief") is None


async def test_document_is_replaced_by_who_has_seen_the_current_version(shared: Setup) -> None:
    assert await shared.store.read_document("policy") is None
    first = await shared.store.write_document("policy", b'{"\xff"', expected_version=0)
    assert first.version == 1
    assert first.written_s == pytest.approx(shared.clock(), abs=5)
    assert await shared.other.read_document("policy") == first
    second = await shared.other.write_document("policy", b"two", expected_version=1)
    with pytest.raises(VersionConflict) as conflict:
        await shared.store.write_document("policy", b"late", expected_version=1)
    assert conflict.value.current_version == 2
    third = await shared.store.write_document("policy", b"three", expected_version=None)
    assert await shared.other.document_history("policy") == [third, second, first]
    assert await shared.other.document_history("policy", limit=1) == [third]
    assert await shared.store.read_document("another") is None


async def test_document_is_written_once_when_many_replace_the_same_version(shared: Setup) -> None:
    writes = [shared.store.write_document("race", b"%d" % n, expected_version=0) for n in range(20)]
    results = await asyncio.gather(*writes, return_exceptions=True)
    assert sum(not isinstance(result, BaseException) for result in results) == 1
    assert all(isinstance(result, VersionConflict) for result in results if isinstance(result, BaseException))


async def test_watching_yields_the_current_version_and_then_each_change(shared: Setup) -> None:
    await shared.store.write_document("policy", b"one", expected_version=0)
    seen = shared.other.watch("policy")
    assert (await anext(seen)).content == b"one"
    await shared.store.write_document("policy", b"two", expected_version=1)
    async with asyncio.timeout(10):
        assert (await anext(seen)).content == b"two"
