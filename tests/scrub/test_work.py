"""The work that a text can cause is bounded by its length, whatever is in it. Counted, not timed."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from router.scrub import engine as built_in
from router.scrub.engine import BuiltInEngine, PrivateKeys, Search, TooMuchWork
from router.scrub.patterns import PATTERNS

FRAGMENTS = [
    "4", "4111", "4111 ", "4-", "1.", "1:", "a:", "+1", "+49 ", "(415) ", "00", "0171 ", "07", "DE89", "de89 ", "a@", "a@b.",
    "@", "%40", ".", "-", "\\n", "eyJ", "eyJaaaaaaaaaa.", "sk-", "AKIA", "Bearer ", "bearer a", "password=", "phone: ",
    "phone number is ", "ssn ", "x://a:", "x://a:b@", "-----BEGIN PRIVATE KEY-----", "-----END PRIVATE KEY-----", "AAAA" * 4,
    "\0", " ", "\n", "é", "a", "authorization: basic ",
]  # fmt: skip
adversarial = st.lists(st.tuples(st.sampled_from(FRAGMENTS), st.integers(1, 60)), max_size=6).map(
    lambda parts: "".join(text * times for text, times in parts) * 3
)
MOST_WORDS = 25
"""Words in the longest candidate that may be looked at again: an IPv6-like text of 46 characters, one for each."""


class Counting:
    """Stands before a compiled pattern and adds up the bytes that its searches pass: from where one begins to where its
    match ends."""

    def __init__(self, regex: Any) -> None:
        self._regex = regex
        self.groups = regex.groups
        self.read = 0
        self.searches = 0

    def search(self, data: bytes, at: int) -> Any:
        match = self._regex.search(data, at)
        self.searches += 1
        self.read += (len(data) if match is None else match.end()) - at
        return match


@given(adversarial)
@example("4 " * 2_000)
@example("1:" * 2_000)
@example("1." * 2_000)
@example("+1" * 2_000)
@example("4111 " * 1_000)
@example("a@b.cc" * 1_000)
@example("phone: " * 1_000)
@example("sk-" * 2_000)
@example("eyJaaaaaaaaaa." * 500)
@example("DE89 " * 1_000)
def test_every_pattern_reads_a_byte_a_bounded_number_of_times(text: str) -> None:
    data = text.encode()
    for kind, patterns in PATTERNS.items():
        for pattern in patterns:
            search = Search(pattern)
            counting = Counting(search._regex)
            search._regex = counting
            for _ in search(data):
                pass
            assert counting.read <= (MOST_WORDS + 1) * len(data), (kind, pattern.regex)
            assert counting.searches <= len(data) + 1, (kind, pattern.regex)


@given(adversarial)
def test_findings_lie_in_the_text_and_never_overlap_within_a_pattern(text: str) -> None:
    data = text.encode()
    searches: list[Any] = [Search(pattern) for patterns in PATTERNS.values() for pattern in patterns]
    for search in [*searches, PrivateKeys()]:
        spans = [span for span in search(data) if span is not None]
        assert all(0 <= start < end <= len(data) for start, end in spans)
        assert all(before[1] <= after[0] for before, after in itertools.pairwise(spans))


@pytest.mark.parametrize("pattern", [pattern.regex for patterns in PATTERNS.values() for pattern in patterns])
def test_pattern_that_looks_again_within_what_it_refused_is_bounded(pattern: str) -> None:
    found = next(each for patterns in PATTERNS.values() for each in patterns if each.regex == pattern)
    if found.retries:
        assert built_in._unbounded(pattern) is None


def test_search_is_given_up_when_a_text_holds_nothing_but_candidates(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(built_in, "MAX_CANDIDATES", 100)
    engine = BuiltInEngine(list(PATTERNS), {})
    engine.find(b"1:1:1:1:1:" * 10)
    with pytest.raises(TooMuchWork):
        engine.find(b"1:1:1:1:1:" * 100)


def test_markers_of_keys_without_end_are_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    search = PrivateKeys()
    bodies: list[int] = []
    body = search._body

    class Body:
        def match(self, data: bytes, at: int) -> Any:
            match = body.match(data, at)
            bodies.append(match.end() - at)
            return match

    monkeypatch.setattr(search, "_body", Body())
    data = ("-----BEGIN PRIVATE KEY-----" + "A" * 100 + "\n").encode() * 200
    assert len(list(search(data))) == 200
    assert sum(bodies) <= len(data)
