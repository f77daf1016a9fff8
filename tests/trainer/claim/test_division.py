"""The division of the data, and the requests made of it."""

from __future__ import annotations

import csv
import hashlib
from dataclasses import replace
from pathlib import Path

import pytest

from trainer.claim.data import Case, DataError, divide, is_right, repeated, write_cases
from trainer.claim.settings import SMALL

SIZE = replace(SMALL, teacher_labels=10, traffic=8, evaluation=4, tuning=3, test=None)


def write_csv(path: Path, rows: int) -> None:
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "category"])
        writer.writerows([f'my "card"\n number {n}', "card_arrival" if n % 2 else "top_up_failed"] for n in range(rows))


def test_division_gives_no_row_to_two_parts_when_the_data_is_large_enough(tmp_path: Path) -> None:
    write_csv(tmp_path / "train.csv", 30)
    write_csv(tmp_path / "test.csv", 7)
    division = divide(tmp_path, SIZE)
    parts = [division.teacher, division.traffic, division.evaluation, division.tuning]
    assert [len(part) for part in parts] == [10, 8, 4, 3]
    ids = [case.id for part in parts for case in part]
    assert len(set(ids)) == 25
    assert [case.id for case in division.test] == [f"test-{n}" for n in range(7)]
    assert divide(tmp_path, SIZE) == division


def test_division_names_the_file_when_rows_are_missing(tmp_path: Path) -> None:
    write_csv(tmp_path / "train.csv", 20)
    write_csv(tmp_path / "test.csv", 7)
    with pytest.raises(DataError, match=r"train\.csv has too few rows"):
        divide(tmp_path, SIZE)


def test_division_names_the_column_when_it_is_missing(tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text("text,intent\nhi,there\n")
    with pytest.raises(DataError, match="column 'category' is missing"):
        divide(tmp_path, SIZE)


def test_division_names_the_folder_option_when_a_file_is_missing(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="DATA must name a folder"):
        divide(tmp_path, SIZE)


@pytest.mark.parametrize(
    ("label", "category"),
    [
        ("top_up_by_cash_or_cheque", "top up"),
        ("transfer_fee_charged", "transfer"),
        ("card_payment_wrong_exchange_rate", "exchange"),
        ("verify_my_identity", "identity"),
        ("card_payment_fee_charged", "payment"),
        ("pin_blocked", "card"),
        ("lost_or_stolen_phone", "identity"),
        ("something_else", "other"),
    ],
)
def test_case_belongs_to_the_first_group_when_several_cues_fit(label: str, category: str) -> None:
    assert Case("x", "text", label).category == category


def test_answer_is_right_when_it_is_the_label_but_for_outer_space() -> None:
    case = Case("x", "text", "card_arrival")
    assert is_right(case, " card_arrival\n")
    assert not is_right(case, "card_arrival card_arrival")
    assert not is_right(case, "")


def test_written_cases_hash_to_what_is_returned(tmp_path: Path) -> None:
    path = tmp_path / "cases.jsonl"
    digest = write_cases(path, [Case("a", "héllo", "card_arrival")])
    assert hashlib.sha256(path.read_bytes()).hexdigest() == digest
    assert b'"category": "card"' in path.read_bytes()


def test_repeated_counts_test_questions_that_are_training_rows(tmp_path: Path) -> None:
    write_csv(tmp_path / "train.csv", 25)  # every row lands in one of the parts
    write_csv(tmp_path / "test.csv", 7)
    division = divide(tmp_path, SIZE)
    judged = {case.text for case in division.evaluation}
    assert repeated(division) == sum(case.text not in judged for case in division.test) > 0
    other = replace(division, test=(Case("test-0", "Something else", "x"), replace(division.teacher[0], id="test-1")))
    assert repeated(other) == 1
