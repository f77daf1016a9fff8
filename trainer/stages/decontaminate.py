"""Decontaminate: nothing that the student will be judged by may be in what it learns from.

Four nets, from cheap to dear: the same text, the same words in another order, a shared run of words, and a near
embedding, which is the one that catches paraphrases. What a template makes all requests share does not count.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence, Set
from pathlib import Path
from typing import TYPE_CHECKING

from trainer.evaluation.dataset import Case, load_cases
from trainer.recipe import Recipe
from trainer.similarity.texts import NotText, Templates, digest, ngrams, normalise, prompt_of, words
from trainer.similarity.vectors import Embed, Vectors, embedder, windows
from trainer.stage import Json, StageContext, StageError, Summary
from trainer.tables import EXAMPLES, Example, Filter, count_rows, read_examples

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Matrix = NDArray[np.float32]

PROGRESS_ROWS = 500
MIN_WORDS = 5
"""Shorter texts are compared as they are, not by their words in any order: `yes please` leaks nothing."""
MIN_CONTAINED_WORDS = 8
"""A shorter evaluation text makes no leak by being part of a longer request."""
MAX_WINDOWS = 64
"""Of one request, from its beginning."""
BATCH_WINDOWS = 1024
FIXES = {
    "cosine": "decontaminate.cosine",
    "ngram": "decontaminate.ngram",
    "same_text": "other traffic than the evaluation set",
    "same_words": "other traffic than the evaluation set",
}


class Decontaminate:
    name = "decontaminate"
    needs = ("dedupe",)
    version = 3

    def __init__(self, embed: Embed | None = None) -> None:
        """`embed` replaces the encoder of the training environment."""
        self._embed = embed

    def key(self, recipe: Recipe) -> Json:
        """The encoder is in the address already, by the stage dedupe."""
        options = recipe.decontaminate
        return {"ngram": options.ngram, "cosine": options.cosine, "evaluation": recipe.evaluate.sha256}

    def run(self, context: StageContext) -> Summary:
        recipe, options = context.recipe, context.recipe.decontaminate
        source = context.inputs["dedupe"] / EXAMPLES
        cases = load_cases(Path(recipe.evaluate.dataset), "evaluate.dataset", sha256=recipe.evaluate.sha256)
        judged = [turn for case in cases for turn in _case_turns(case)]
        templates = Templates([*judged, *(turn for example in read_examples(source) for turn in _turns(example))])
        sealed = SealedSet(cases, templates, options.ngram)
        leaks: dict[int, tuple[str, str]] = {}
        total = count_rows(source)
        for number, example in enumerate(read_examples(source)):
            if number % PROGRESS_ROWS == 0:
                context.progress(number, total, "rows")
            if (found := sealed.leak(example)) is not None:
                leaks[number] = found
        vectors = Vectors(context.folder, known=_known(context))
        if options.cosine < 1:
            leaks |= self._by_cosine(context, source, sealed, vectors, leaks.keys())
        with Filter(context.folder) as table:
            for number, example in enumerate(read_examples(source)):
                if number in leaks:
                    table.drop(example.decision_id, *leaks[number])
                else:
                    table.keep(example)
        return table.summary(
            FIXES, evaluation_sha256=recipe.evaluate.sha256, cases=len(cases), leaked_cases=len(_cases_of(leaks))
        )

    def _by_cosine(
        self, context: StageContext, source: Path, sealed: SealedSet, vectors: Vectors, known: Set[int]
    ) -> dict[int, tuple[str, str]]:
        """Leaks among the rows that are not known to be one."""
        import numpy as np  # noqa: PLC0415 - heavy

        names, pieces = sealed.windows()
        keys: list[bytes] = []
        owners: list[int] = []

        def texts() -> Iterator[str]:
            yield from pieces
            for number, example in enumerate(read_examples(source)):
                for text in [] if number in known else sealed.texts_of(example):
                    keys.append(digest(text))
                    owners.append(number)
                    yield text

        vectors.add(texts(), self._embed or embedder(context.recipe), context.progress)
        judged = vectors.stack([digest(piece) for piece in pieces])
        found: dict[int, tuple[str, str]] = {}
        for start in range(0, len(keys), BATCH_WINDOWS):
            near = vectors.stack(keys[start : start + BATCH_WINDOWS]) @ judged.T
            best = near.argmax(axis=1)
            for at in np.flatnonzero(near.max(axis=1) >= context.recipe.decontaminate.cosine).tolist():
                detail = f"case {names[int(best[at])]}, cosine {float(near[at, best[at]]):.3f}"
                found.setdefault(owners[start + at], ("cosine", detail))
        return found


class SealedSet:
    """What of the evaluation set is compared, with the case that each piece comes from."""

    def __init__(self, cases: Sequence[Case], templates: Templates, size: int) -> None:
        self._templates = templates
        self._size = size
        self._texts: dict[bytes, str] = {}
        self._bags: dict[bytes, str] = {}
        self._ngrams: dict[bytes, str] = {}
        self._short: dict[int, dict[bytes, str]] = {}
        """Texts shorter than the n-gram, whole, by their number of words."""
        self._turns: list[tuple[str, str]] = []
        for case in cases:
            for turn in _case_turns(case):
                self._add(case.id, templates.strip(turn))

    def _add(self, case_id: str, turn: str) -> None:
        tokens = words(turn)
        self._turns.append((case_id, turn))
        self._texts.setdefault(digest(normalise(turn)), case_id)
        if len(tokens) >= MIN_WORDS:
            self._bags.setdefault(digest(*sorted(tokens)), case_id)
        for each in ngrams(tokens, self._size):
            self._ngrams.setdefault(each, case_id)
        if MIN_CONTAINED_WORDS <= len(tokens) < self._size:
            whole = next(ngrams(tokens, len(tokens)))
            self._short.setdefault(len(tokens), {}).setdefault(whole, case_id)

    def leak(self, example: Example) -> tuple[str, str] | None:
        """(cause, detail) of a leak that needs no embedding."""
        turns = [self._templates.strip(turn) for turn in _turns(example)]
        for turn in turns:
            if (case_id := self._texts.get(digest(normalise(turn)))) is not None:
                return "same_text", f"case {case_id}"
        for text in [*turns, _context(example), example.completion, example.correction or ""]:
            tokens = words(text)
            if len(tokens) >= MIN_WORDS and (case_id := self._bags.get(digest(*sorted(tokens)))) is not None:
                return "same_words", f"case {case_id}"
            for size, known in ((self._size, self._ngrams), *self._short.items()):
                for each in ngrams(tokens, size):
                    if each in known:
                        return "ngram", f"case {known[each]}"
        return None

    def windows(self) -> tuple[list[str], list[str]]:
        """(case ids, texts) to embed."""
        pairs = [(case_id, piece) for case_id, turn in self._turns for piece in windows(normalise(turn))]
        return [case_id for case_id, _ in pairs], [piece for _, piece in pairs]

    def texts_of(self, example: Example) -> list[str]:
        """What of an example is embedded: its user turns, in the form in which dedupe has embedded the last one."""
        turns = [normalise(self._templates.strip(turn)) for turn in _turns(example)]
        return [piece for turn in turns for piece in windows(turn) if piece][:MAX_WINDOWS]


def _turns(example: Example) -> tuple[str, ...]:
    try:
        return prompt_of(example.messages).user_turns
    except NotText:
        return ()


def _context(example: Example) -> str:
    """All that stands before the last question: examples in a system prompt and earlier answers can leak as well."""
    try:
        return prompt_of(example.messages).context
    except NotText:
        return ""


def _case_turns(case: Case) -> list[str]:
    """The question of a case and, where it is long enough to identify it, its context. Raises: StageError."""
    users = [message.content for message in case.messages if message.role == "user"]
    if not users:
        raise StageError(f"evaluate.dataset: the case {case.id} has no message of the role user")
    return [users[-1], *([case.context] if case.context else [])]


def _known(context: StageContext) -> Vectors:
    dim = context.summaries["dedupe"].get("embedding_dim")
    return Vectors.read(context.inputs["dedupe"], dim if isinstance(dim, int) else 0)


def _cases_of(leaks: dict[int, tuple[str, str]]) -> set[str]:
    return {detail.partition(",")[0] for _, detail in leaks.values()}


STAGE = Decontaminate()
