"""The bounded memory of cached values, and the bound of a ledger's memory."""

from __future__ import annotations

from router.state.base import Adjust, Rate, Slots
from router.state.ledger import Ledger
from router.state.memory import MemoryStore
from router.state.values import ENTRY_OVERHEAD_BYTES, Values
from tests.router.state.conftest import Clock


def test_values_displace_the_least_recently_used_when_full() -> None:
    values = Values(Clock(0.0), max_bytes=3 * (ENTRY_OVERHEAD_BYTES + 101))
    for key in "abc":
        values.put(key, b"x" * 100, ttl_s=60)
    assert values.get("a") is not None
    values.put("d", b"x" * 100, ttl_s=60)
    assert [key for key in "abcd" if values.get(key) is not None] == ["a", "c", "d"]
    values.put("e", b"x" * 2000, ttl_s=60)  # larger than everything
    assert values.get("e") is None
    assert values.size_bytes == 3 * (ENTRY_OVERHEAD_BYTES + 101)


def test_values_give_their_bytes_back_when_they_are_replaced_or_expire() -> None:
    clock = Clock(0.0)
    values = Values(clock, max_bytes=10_000)
    values.put("a", b"x" * 100, ttl_s=10)
    values.put("a", b"x", ttl_s=10)
    assert values.size_bytes == ENTRY_OVERHEAD_BYTES + 2
    clock.now_s = 10.0
    assert values.get("a") is None
    assert values.size_bytes == 0


def test_ledger_forgets_what_is_over() -> None:
    clock = Clock(1_000_000.0)
    ledger = Ledger(clock, max_settled=100)
    claims = [Rate("r", 1e9, 1), Slots("s", 10**9, 30)]
    for number in range(300):
        ledger.admit(claims, str(number))
        ledger.settle([Adjust(claim, 1) for claim in claims], str(number))
    ledger.admit(claims, "killed")
    assert len(vars(ledger)["_settled"]) == 100
    clock.now_s += 10_000
    ledger.admit([Rate("other", 60, 1)], "next")
    sizes = {name: len(vars(ledger)[name]) for name in ("_buckets", "_slots", "_holdings", "_settled")}
    assert sizes == {"_buckets": 1, "_slots": 0, "_holdings": 1, "_settled": 0}


async def test_documents_keep_a_bounded_history() -> None:
    store = MemoryStore(max_value_bytes=0)
    for number in range(120):
        await store.write_document("d", b"%d" % number, expected_version=None)
    history = await store.document_history("d")
    assert (len(history), history[0].version, history[-1].version) == (100, 120, 21)
