"""A process that claims as much as it gets: `claimant.py redis URL PREFIX NAME` or `claimant.py remote SOCKET - NAME`.

Prints how many requests each limit admitted, as JSON.
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

from router.config import StateConfig
from router.state.base import Adjust, Budget, Slots
from router.state.linked import LinkedStore, Wire
from router.state.redis import RedisWire
from router.state.remote import SocketWire

PATIENT_S = 60.0
BUDGET = Budget("shared", limit=1000, amount=7, resets="month")
SLOTS = Slots("shared", limit=25, ttl_s=600)


async def main(kind: str, place: str, prefix: str, name: str) -> dict[str, int]:
    wire: Wire
    if kind == "redis":
        wire = RedisWire(StateConfig(url=place, key_prefix=prefix, timeout_s=PATIENT_S), {})
    else:
        wire = SocketWire(Path(place))
    async with LinkedStore(wire, timeout_s=PATIENT_S) as store:
        while store.failure is not None:  # noqa: ASYNC110 - a busy machine
            await asyncio.sleep(0.05)
        sys.stdin.readline()  # all start at the same time
        budgets = await asyncio.gather(*(store.admit([BUDGET], holder=f"{name}-b{n}") for n in range(100)))
        slots = await asyncio.gather(*(store.admit([SLOTS], holder=f"{name}-s{n}") for n in range(40)))
        admitted = [n for n, verdict in enumerate(budgets) if verdict.admitted]
        for n in admitted:
            await store.settle([Adjust(BUDGET, BUDGET.amount)], holder=f"{name}-b{n}")
    return {"budget": len(admitted), "slots": sum(verdict.admitted for verdict in slots)}


if __name__ == "__main__":
    print(json.dumps(asyncio.run(main(*sys.argv[1:]))))
