"""Notes about orders, of which one is to be quoted: what goes wrong goes wrong from the first word.

The name that a note begins with decides which one is copied; what follows is a copy of that note, or of two mixed.
"""

from __future__ import annotations

import random
from collections.abc import Callable

from trainer.window.tickets import FIRST_NAMES, LAST_NAMES, MONTHS, PRODUCTS

CITIES = ("London", "Chicago", "Berlin", "Madrid", "Toronto", "Oslo", "Dublin", "Lisbon", "Vienna", "Boston", "Seattle",
          "Prague", "Zurich", "Denver", "Milan", "Athens")  # fmt: skip
NOTE = (
    "{name} ordered {pieces} pieces of {product} on {day} {month} for {dollars}.{cents:02} dollars, to be sent to "
    "{city}. The parcel left our warehouse {days} days later and weighed {weight} kilograms."
)


def by_name(draw: random.Random) -> tuple[str, str]:
    """Three notes, and the first name of one."""
    return _quoted(draw, 3, "What did {first} order?")


def by_city(draw: random.Random) -> tuple[str, str]:
    """Two notes, and the city in the middle of one."""
    return _quoted(draw, 2, "Which order goes to {city}?")


def _quoted(draw: random.Random, count: int, question: str) -> tuple[str, str]:
    firsts, cities, products = (draw.sample(each, count) for each in (FIRST_NAMES, CITIES, PRODUCTS))
    notes = [
        NOTE.format(
            name=f"{first} {draw.choice(LAST_NAMES)}", pieces=draw.randint(2, 9), product=product,
            day=draw.randint(1, 28), month=draw.choice(MONTHS), dollars=draw.randint(5, 299), cents=draw.randint(0, 99),
            city=city, days=draw.randint(2, 9), weight=draw.randint(2, 40),
        )
        for first, city, product in zip(firsts, cities, products, strict=True)
    ]  # fmt: skip
    chosen = draw.randrange(count)
    asked = question.format(first=firsts[chosen], city=cities[chosen])
    return "Orders:\n" + "\n".join(notes) + f"\n\n{asked} Quote the note.", notes[chosen]


KINDS: dict[str, Callable[[random.Random], tuple[str, str]]] = {"by_name": by_name, "by_city": by_city}
