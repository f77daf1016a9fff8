"""The learners that `locum evaluate` compares, by what they may look at. The first of each is the recommended one."""

from __future__ import annotations

from collections.abc import Sequence

from trainer.routing.learner import Learner


def prompt_learners() -> Sequence[Learner]:
    """Routing before generation: from the text alone."""
    from trainer.routing.learners.prompt import PromptLearner  # noqa: PLC0415 - scikit-learn only where it is used
    from trainer.routing.learners.tfidf import TfidfLearner  # noqa: PLC0415

    return PromptLearner(), TfidfLearner()


def draft_learners() -> Sequence[Learner]:
    """The cascade: from the signals of the weak model's answer, and the text where there is one."""
    from trainer.routing.learners.draft import DraftLearner  # noqa: PLC0415 - scikit-learn only where it is used

    return DraftLearner(), DraftLearner(name="draft_without_text", with_text=False)


def frozen_reference() -> Learner:
    """The baseline that the cascade's learners are held against, on the same rows and folds.

    Not called `reference`, which is the module: importing that would take the place of a function of its name.
    """
    from trainer.routing.learners.reference import Reference  # noqa: PLC0415 - scikit-learn only where it is used

    return Reference()
