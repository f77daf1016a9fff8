"""The book of drift alarms: what is noted, and how books of two processes become one."""

from __future__ import annotations

import itertools

import msgspec

from policies.certificate import Acknowledged
from policies.quality.drift import Finding, Monitor
from router.quality.alarm_book import MAX_FINGERPRINTS, Book, Ring, merged, noted

LOUD = Finding(detector="inputs", measure="words", effect=0.5, threshold=0.2, evidence=2.0, n=500, reference_n=500)
SILENT = msgspec.structs.replace(LOUD, effect=0.1)


def monitor(looked_s: float, finding: Finding | None = None, *, started_s: float = 1.0) -> Monitor:
    findings = {} if finding is None else {finding.detector: finding}
    return Monitor(student="s-1", started_s=started_s, looked_s=looked_s, findings=findings)


def rings(*seen: Monitor) -> list[Ring | None]:
    """The ring of `inputs` after each of them."""
    book, found = Book(), []
    for each in seen:
        book = noted(book, each, "big")
        found.append(book.rings.get("s-1", {}).get("inputs"))
    return found


def test_ring_begins_with_an_alarm_ends_with_the_first_silent_look_and_begins_anew() -> None:
    seen = (monitor(5.0, SILENT), monitor(10.0, LOUD), monitor(20.0, LOUD), monitor(30.0, SILENT), monitor(40.0, LOUD))
    assert rings(*seen) == [None, Ring(10.0), Ring(10.0), Ring(10.0, 30.0), Ring(40.0)]


def test_alarm_against_a_new_reference_is_another_one() -> None:
    fresh = monitor(0.0, started_s=25.0)
    again = monitor(50.0, LOUD, started_s=25.0)
    assert rings(monitor(10.0, LOUD), fresh, again) == [Ring(10.0), Ring(10.0, 25.0), Ring(50.0)]


def test_process_that_is_behind_takes_nothing_back() -> None:
    seen = (monitor(10.0, LOUD), monitor(30.0, SILENT), monitor(20.0, LOUD))
    assert rings(*seen)[-1] == Ring(10.0, 30.0)


def test_books_become_the_same_whoever_is_merged_into_whom() -> None:
    books = [
        noted(Book(), monitor(10.0, LOUD), "big"),
        noted(noted(Book(), monitor(10.0, LOUD), "big"), monitor(30.0, SILENT), "big"),
        Book(fingerprints={"big": {"fp-1": 7.0}}, accepted_s=3.0),
        Book(
            fingerprints={"big": {"fp-1": 5.0, "fp-2": 6.0}},
            acknowledged={"sha": Acknowledged(at_s=4.0, by="ops", comment="")},
        ),
        Book(acknowledged={"sha": Acknowledged(at_s=9.0, by="ann", comment="")}),
    ]
    for one, other, third in itertools.permutations(books, 3):
        assert merged(one, other) == merged(other, one)
        assert merged(merged(one, other), third) == merged(one, merged(other, third))
        assert merged(one, one) == one


def test_book_reads_back_and_is_bounded() -> None:
    many = {f"fp-{number}": float(number) for number in range(500)}
    book = noted(Book(), Monitor(student="s-1", new_fingerprints=many), "big")
    assert min(book.fingerprints["big"].values()) == 500 - MAX_FINGERPRINTS
    assert msgspec.json.decode(msgspec.json.encode(book), type=Book) == book
