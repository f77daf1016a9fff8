"""What measuring quality may cost in a day, over all workers and replicas."""

from __future__ import annotations

from router.errors import StateUnavailable
from router.state import Adjust, Budget, Store


class DailyBudget:
    """A budget of the shared state. Days are UTC."""

    def __init__(self, store: Store, name: str, limit_usd: float | None) -> None:
        """
        Args:
            name: under which all processes share it.
            limit_usd: None: no limit.
        """
        self._store = store
        self._name = name
        self._limit_usd = limit_usd

    async def reserve(self, holder: str, estimated_usd: float) -> bool:
        """Take what a call may cost at most. False: the budget does not allow it, or cannot be asked."""
        if self._limit_usd is None:
            return True
        try:
            verdict = await self._store.admit(
                [self._claim(self._limit_usd, estimated_usd)], holder=self._holder(holder)
            )
        except StateUnavailable:
            return False
        return verdict.admitted

    async def settle(self, holder: str, estimated_usd: float, spent_usd: float | None) -> None:
        """Correct what was taken to what was spent; None: nobody knows, the estimate stands."""
        if self._limit_usd is not None:
            claim = self._claim(self._limit_usd, estimated_usd)
            actual_usd = estimated_usd if spent_usd is None else spent_usd
            await self._store.settle([Adjust(claim, actual_usd)], holder=self._holder(holder))

    def _claim(self, limit_usd: float, amount_usd: float) -> Budget:
        return Budget(f"quality/{self._name}/usd", limit_usd, amount_usd, "day")

    def _holder(self, holder: str) -> str:
        return f"{self._name}/{holder}"
