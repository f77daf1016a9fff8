"""The log as columns: what replay looks at, one numpy array a field, one row a decision record.

Text is not kept. What a policy would read in it is a number here: the score of `long_reasoning`, and whether a draft is
empty. How columns are made of records stands in policies/replay/extract.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Codes = NDArray[np.int32]
Small = NDArray[np.int8]
Flags = NDArray[np.bool_]
Floats = NDArray[np.float64]
Rows = NDArray[np.intp]

UNKNOWN = -1
"""Stands for an absent count."""
NONE, STUDENT, TEACHER = 0, 1, 2
"""Codes of a route."""
ROUTES = {"student": STUDENT, "teacher": TEACHER}
EFFORT_OTHER, EFFORT_HIGH, EFFORT_LOW = 0, 1, 2
FINISH_UNKNOWN, FINISH_OTHER, FINISH_LENGTH, FINISH_CALL = 0, 1, 2, 3
TagSet = tuple[tuple[str, str], ...]
T = TypeVar("T")


@dataclass(frozen=True)
class Columns:
    """One row a record that has features. NaN or UNKNOWN where a record is silent."""

    ids: Ints
    """`id_of` the decision id."""
    created_s: Floats
    purpose: Codes
    """Index into `names`, as are `student`, `teacher`, `tenant`, `version`."""
    student: Codes
    teacher: Codes
    tenant: Codes
    version: Codes
    tags: Codes
    """Index into `tag_sets`."""
    route: Small
    """Who answered."""
    decided: Small
    """The route that the policies chose before generation."""
    propensity: Floats
    """With which they chose it."""
    review_propensity: Floats
    """With which the draft was thrown away, or was not; 1 where nothing was drawn."""
    forced: Flags
    answered: Flags
    """A whole answer went out."""
    fell_back: Flags
    """Another model answered than was chosen: it failed, or its budget was spent."""
    continued: Flags
    """The student began the answer, and a teacher ended it."""
    cached: Flags
    full: Flags
    """Captured with texts."""
    stream: Flags
    reviewable: Flags
    """A cascade would judge the student's answer to it."""
    prompt_bytes: Ints
    message_count: Ints
    approx_prompt_tokens: Ints
    requested_output_tokens: Ints
    student_window_tokens: Ints
    prompt_tokens: Ints
    """By the student's tokenizer, where it was asked."""
    has_tools: Flags
    has_response_format: Flags
    has_images: Flags
    effort: Small
    has_text: Flags
    """The last user turn is there and not blank, or was when the request was decided."""
    reasoning_score: Floats
    """`long_reasoning`'s linear score: as it was recorded, else from the text."""
    embedding_score: Floats
    """The score of its embedding head, where that decided."""
    retrieval_attempted: Flags
    retrieval_confidence: Floats
    chunk_count: Ints
    scored_count: Ints
    """Of `scores`."""
    similarity_count: Ints
    """Of `similarities`; UNKNOWN: not measured."""
    used_prompt_tokens: Ints
    """Of the answer, as the backend counted, like the next one."""
    used_completion_tokens: Ints
    cost_usd: Floats
    counterfactual_cost_usd: Floats
    draft_cost_usd: Floats
    latency_s: Floats
    ttft_s: Floats
    answer_logprob: Floats
    """Mean logprob of the answer."""
    answer_finish: Small
    answer_empty: Flags
    has_draft: Flags
    draft_logprob: Floats
    draft_tokens: Ints
    draft_finish: Small
    draft_empty: Flags
    draft_prefix: Flags
    draft_escalated: Flags
    draft_failed: Ints
    """Validity checks that it did not pass, one bit each in the order of `CHECKS`; UNKNOWN: not checked."""
    draft_agreement: Floats
    """With its second sample."""
    prefix_count: Ints
    """Of `prefix_means`."""
    scores: Floats
    """Scores of the chunks of all rows one after the other, best first within a row."""
    similarities: Floats
    prefix_means: Floats
    """Mean logprobs of the first tokens of all drafts, at `PREFIX_TOKENS` as far as each reached."""
    names: tuple[str, ...] = ()
    tag_sets: tuple[TagSet, ...] = ()

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, rows: Rows) -> Columns:
        """These rows, in this order."""
        taken: dict[str, Any] = {name: getattr(self, name)[rows] for name in ROW_FIELDS}
        for values, counts in _RAGGED:
            taken[values] = _take_ragged(getattr(self, values), np.maximum(getattr(self, counts), 0), rows)
        return Columns(**taken, names=self.names, tag_sets=self.tag_sets)

    def code_of(self, name: str) -> int:
        """Index of a name; UNKNOWN when no record has it."""
        return self.names.index(name) if name in self.names else UNKNOWN


_NAMED = ("purpose", "student", "teacher", "tenant", "version")
_RAGGED = (("scores", "scored_count"), ("similarities", "similarity_count"), ("prefix_means", "prefix_count"))
_LONG = tuple(values for values, _ in _RAGGED)
ROW_FIELDS = tuple(each.name for each in fields(Columns) if each.name not in (*_LONG, "names", "tag_sets"))
_DTYPES: dict[str, Any] = {
    "Ints": np.int64, "Codes": np.int32, "Small": np.int8, "Flags": np.bool_, "Floats": np.float64,
}  # fmt: skip
FIELD_DTYPES = tuple(_DTYPES[str(each.type)] for each in fields(Columns) if each.name in ROW_FIELDS)


def columns_of(
    rows: Sequence[NDArray[Any]], ragged: Sequence[Floats], names: tuple[str, ...], tag_sets: tuple[TagSet, ...]
) -> Columns:
    """Columns from arrays in the order of `ROW_FIELDS`."""
    given: dict[str, Any] = dict(zip((*ROW_FIELDS, *_LONG), (*rows, *ragged), strict=True))
    return Columns(**given, names=names, tag_sets=tag_sets)


def joined(parts: Sequence[Columns]) -> Columns:
    """Parts one after the other, with codes that mean the same in all of them. There is one part at least."""
    names, of_names = _merged([part.names for part in parts])
    tag_sets, of_tags = _merged([part.tag_sets for part in parts])
    recode = dict.fromkeys(_NAMED, of_names) | {"tags": of_tags}
    given: dict[str, Any] = {}
    for name in (*ROW_FIELDS, *_LONG):
        arrays = [getattr(part, name) for part in parts]
        if name in recode:
            arrays = [codes[array] for codes, array in zip(recode[name], arrays, strict=True)]
        given[name] = np.concatenate(arrays)
    return Columns(**given, names=names, tag_sets=tag_sets)


def _merged(given: Sequence[tuple[T, ...]]) -> tuple[tuple[T, ...], list[Codes]]:
    """Every meaning once; and of each part, what its codes become."""
    codes: dict[T, int] = {}
    tables = [np.array([codes.setdefault(each, len(codes)) for each in meanings], np.int32) for meanings in given]
    return tuple(codes), tables


def _take_ragged(values: Floats, counts: Ints, rows: Rows) -> Floats:
    """The values of these rows, one row after the other."""
    ends = np.cumsum(counts)
    starts, lengths = (ends - counts)[rows], counts[rows]
    before = np.cumsum(lengths) - lengths
    taken: Floats = values[np.arange(lengths.sum()) + np.repeat(starts - before, lengths)]
    return taken
