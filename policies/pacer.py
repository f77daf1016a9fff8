"""One process's part in spreading a budget: quotes for requests, takings from their ends, and the state in between."""

from __future__ import annotations

import copy
from collections.abc import Callable

from policies.base import Quote, RequestFeatures
from policies.governor import DailyBudget
from policies.lengths import Line
from policies.pacing import PacingState, Takings

TokensToUsd = Callable[[float, float], float]
"""Prompt and output tokens of a teacher's answer to its price."""


class Pacer:
    """Pure: whoever owns it brings the state to the other processes and back (router/governance/)."""

    def __init__(self, budget: DailyBudget, *, member: str = "", usd: TokensToUsd | None = None) -> None:
        """
        Args:
            member: name of this process among those that share the budget.
            usd: for a budget in USD.
        Raises:
            ValueError: it is in USD, and nobody knows the price.
        """
        if budget.usd is not None and usd is None:
            raise ValueError("a budget in USD needs the teacher's prices")
        self.budget = budget
        self.unit = "usd" if budget.usd is not None else "1000 tokens"
        self.state = PacingState(unit=self.unit)
        """As it was seen last; while the others are out of reach, as this process goes on by itself."""
        self._member = member
        self._usd = usd
        self._line = Line()
        self._takings = Takings()
        self._unsent = Takings()
        """What has been counted here alone, while the others were out of reach."""
        self._alone = False

    def cost(self, prompt_tokens: float, output_tokens: float) -> float:
        """Of an answer of the teacher, in the unit of the budget."""
        if self.budget.usd is not None and self._usd is not None:
            return self._usd(prompt_tokens, output_tokens)
        return (prompt_tokens + output_tokens) / 1000

    def quote(self, features: RequestFeatures) -> Quote:
        """What the teacher's answer to a request would take, and the price of the moment."""
        prompt_tokens = prompt_of(features)
        tokens = self._line.tokens(self._tag(features), prompt_tokens, features.requested_output_tokens)
        return Quote(price=self.state.price, cost=self.cost(prompt_tokens, tokens), tokens=tokens)

    def wanted(self, now_s: float, quote: Quote, gain: float | None, *, weight: float = 1.0) -> None:
        """The policies would send a request to the teacher at a price of 0.

        Args:
            gain: score less threshold; None: it passes at any price.
            weight: probability with which they would.
        """
        self._takings.want(now_s, gain, quote.cost * weight)

    def spent(
        self, features: RequestFeatures, created_s: float, prompt_tokens: int, output_tokens: int, quote: Quote | None
    ) -> None:
        """The teacher has answered a request. Without a quote it was not asked whether that is worth it."""
        cost = self.cost(prompt_tokens, output_tokens)
        self._takings.spend(created_s, cost, quote.cost if quote is not None else None)
        if quote is None:
            self._takings.want(created_s, None, cost / self.state.correction)
            return
        prompt, requested = prompt_of(features), features.requested_output_tokens
        self._takings.lengths.add(
            self._tag(features), prompt, requested, output_tokens, self._line.raw(prompt, requested)
        )

    def begin_merge(self) -> Takings:
        """What has to be brought to the others; new takings are gathered apart from now on."""
        taken, self._takings = self._takings, Takings()
        return taken

    def merged(self, taken: Takings, stored: PacingState | None, now_s: float) -> PacingState:
        """The state of all with what this process has seen. Changes nothing of this process's own.

        Args:
            stored: what the others know, which is used up; None, or one in another unit: they know nothing, and get
                what is known here.
        """
        state = stored if stored is not None and stored.unit == self.unit else copy.deepcopy(self.state)
        if self._alone and self.state.updated_s > state.updated_s:
            state.share = self.state.share  # the better guess until the others are back as well
        all_taken = Takings()
        all_taken.merge(self._unsent)
        all_taken.merge(taken)
        state.take(all_taken, limit=self.budget.limit, now_s=now_s, member=self._member)
        return state

    def end_merge(self, state: PacingState) -> None:
        """The others have it."""
        self._unsent, self._alone = Takings(), False
        self._use(state)

    def go_alone(self, taken: Takings, now_s: float) -> None:
        """The others are out of reach. They are taken to see what is seen here, and are told later."""
        self._unsent.merge(taken)
        self._alone = True
        members = max(1, len(self.state.members))
        heard = dict.fromkeys(self.state.members, now_s)
        self.state.members = heard  # they are there, they are only not heard
        self.state.take(taken.times(members), limit=self.budget.limit, now_s=now_s, member=self._member)
        self._use(self.state)

    def adopt(self, state: PacingState) -> None:
        """Begin with what was known before a restart."""
        if state.unit == self.unit:
            self._use(state)

    def _use(self, state: PacingState) -> None:
        self.state = state
        self._line = state.lengths.fitted()

    def _tag(self, features: RequestFeatures) -> str:
        return features.tags.get(self.budget.tag, "") if self.budget.tag is not None else ""


def prompt_of(features: RequestFeatures) -> int:
    """Tokens of the prompt, as well as they are known."""
    counted = features.signals.prompt_tokens
    return features.approx_prompt_tokens if counted is None else counted
