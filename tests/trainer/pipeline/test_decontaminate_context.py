"""A sealed question that does not come as the question of a request."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from trainer.evaluation.dataset import Case, Message
from trainer.similarity.texts import Templates
from trainer.stages.decontaminate import SealedSet
from trainer.tables import Example

QUESTION = "Why was my card declined at the grocery store on the corner of the main street yesterday evening"


@pytest.mark.parametrize("role", ["system", "assistant"])
def test_sealed_question_is_found_in_the_turns_before_the_question(example: Callable[..., Example], role: str) -> None:
    sealed = SealedSet([Case(id="c", messages=(Message("user", QUESTION),), label="x")], Templates([QUESTION]), 13)

    def row(text: str) -> Example:
        turns = [{"role": role, "content": text}, {"role": "user", "content": "Where is my parcel?"}]
        return example(0, messages=turns)

    assert sealed.leak(row(f"Example: {QUESTION} -> declined_payment")) == ("ngram", "case c")
    assert sealed.leak(row("Name the intent of the message.")) is None
