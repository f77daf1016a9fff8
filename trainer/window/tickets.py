"""Messages of customers, to be filed as JSON records: the queue that they belong to, and what they name.

What goes wrong goes wrong early, where the message is misunderstood: the queue is the first word of the record, and
the fields behind it are copied with as much confidence as behind the right one.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from functools import partial

FIRST_NAMES = ("Maria", "John", "Aisha", "Peter", "Elena", "Omar", "Grace", "Tom", "Ingrid", "Rahul", "Sofia", "David",
               "Chloe", "Victor", "Nadia", "Henry")  # fmt: skip
LAST_NAMES = ("Lopez", "Miller", "Khan", "Brown", "Novak", "Haddad", "Jensen", "Walker", "Rossi", "Patel", "Fischer",
              "Moreau", "Clarke", "Sato", "Nowak", "Evans")  # fmt: skip
PRODUCTS = ("desk lamp", "coffee maker", "office chair", "phone case", "water bottle", "bookshelf", "keyboard",
            "winter jacket", "toaster", "backpack", "garden hose", "kitchen scale")  # fmt: skip
MONTHS = ("January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November",
          "December")  # fmt: skip


PROBLEMS = {
    "billing": (
        "You charged my card twice: {amount} dollars for the {product}.",
        "My invoice for the {product} says {amount} dollars, which is too much.",
        "I was billed {amount} dollars for the {product} again.",
    ),
    "delivery": (
        "The {product} for {amount} dollars has not arrived yet.",
        "I am still waiting for the {product}, price {amount} dollars.",
        "The parcel with the {product} ({amount} dollars) was never brought to me.",
    ),
    "return": (
        "The {product} for {amount} dollars is broken and I want to send it back.",
        "The {product} does not work, please take it back and pay me the {amount} dollars.",
        "I do not like the {product}. How do I return it and get {amount} dollars back?",
    ),
}
"""Queue → what is said in messages that belong there."""
ORDERS = ("My order number is {order}, from {date}.", "It is order {order} of {date}.",
          "Order {order}, placed on {date}.", "I ordered it on {date}, number {order}.")  # fmt: skip
GREETINGS = ("Hello, my name is {name}.", "Hi, this is {name}.")


def ticket(queue: str, problem: str, draw: random.Random) -> tuple[str, str]:
    """A message and its record. The problem stands at its end: a sentence later this student has forgotten it."""
    facts = {
        "name": f"{draw.choice(FIRST_NAMES)} {draw.choice(LAST_NAMES)}",
        "order": str(draw.randint(10_000, 99_999)),
        "product": draw.choice(PRODUCTS),
        "amount": f"{draw.randint(5, 299)}.{draw.randint(0, 99):02}",
        "date": f"{draw.randint(1, 28)} {draw.choice(MONTHS)}",
    }
    said = (draw.choice(GREETINGS), draw.choice(ORDERS), problem)
    return " ".join(said).format(**facts), json.dumps({"queue": queue, **facts})


KINDS: dict[str, Callable[[random.Random], tuple[str, str]]] = {
    f"{queue}{place}": partial(ticket, queue, problem)
    for queue, problems in PROBLEMS.items()
    for place, problem in enumerate(problems)
}
