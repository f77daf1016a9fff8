"""State that processes and replicas share: `memory://`, or `redis://` for several machines."""

from router.state.base import Adjust, Budget, Claim, Document, Period, Rate, Slots, Store, Verdict

__all__ = ["Adjust", "Budget", "Claim", "Document", "Period", "Rate", "Slots", "Store", "Verdict"]
