"""What a user's file may look like, and what is said of one that cannot be used."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest

from policies.draft_signals import tag_values
from trainer.routing.reading import Columns, DataError, read, split_names

BASE = Columns(weak="a", strong="b", text="t")
HEADER = "id,t,a,b,s,c\n"


def lines(n: int = 24, **changed: str) -> list[str]:
    """Rows that can be read; `r3="..."` replaces the fourth."""
    return [changed.get(f"r{i}", f"{i},text {i},{i % 2},1,{i / 10},{'xyz'[i % 3]}") for i in range(n)]


def file(tmp_path: Path, rows: list[str] | None = None, header: str = HEADER) -> Path:
    path = tmp_path / "data.csv"
    path.write_text(header + "\n".join(lines() if rows is None else rows) + "\n", encoding="utf-8")
    return path


def test_values_are_read_when_names_have_odd_characters(tmp_path: Path) -> None:
    path = file(tmp_path, header="id,t,gpt-4.1|correct,b,gpt-4.1|logit,c\n")
    rows = read(path, Columns(weak="gpt-4.1|correct", strong="b", text="t", signals=split_names("gpt-4.1|logit,c")))
    assert rows.ids[:2] == ("0", "1")
    assert rows.weak[:2].tolist() == [0, 1]
    assert rows.signal_names == ("gpt-4.1|logit",)
    assert rows.categorical["c"][:3] == ("x", "y", "z")
    assert rows.text is not None and rows.text[3] == "text 3"


def test_signal_gets_another_name_when_it_is_mapped(tmp_path: Path) -> None:
    path = file(tmp_path, header="id,t,a,b,x=y,c\n")
    rows = read(path, Columns(weak="a", strong="b", signals=("x=y", "kind = c")))
    assert rows.signal_names == ("x=y",)
    assert rows.categorical["kind"][:3] == ("x", "y", "z")
    with pytest.raises(DataError, match="no column 'd'"):
        read(path, Columns(weak="a", strong="b", signals=("tokens=d",)))
    with pytest.raises(DataError, match="is an outcome"):
        read(path, Columns(weak="a", strong="b", signals=("tokens=b",)))
    with pytest.raises(DataError, match="the same name"):
        read(path, Columns(weak="a", strong="b", signals=("kind=c", "kind=x=y")))


@pytest.mark.parametrize(
    ("said", "read_as"), [("2", "2"), ("true", "true"), ("none", "none"), (" law ", "law"), ("", "")]
)
def test_tag_is_a_word_whatever_it_looks_like(tmp_path: Path, said: str, read_as: str) -> None:
    """The gateway compares what the request's tag says with the words of the rows."""
    path = file(tmp_path, [f"{i},text {i},{i % 2},1,{i % 3},{said}" for i in range(24)])
    rows = read(path, Columns(weak="a", strong="b", signals=("mean_logprob=s", "tag.tier=c")))
    assert rows.signal_names == ("mean_logprob",)
    assert set(rows.categorical["tag.tier"]) == {read_as}
    name = f"tag.tier={read_as}"
    assert tag_values([name], {"tier": said} if said else {}) == {name: 1.0}


def test_empty_signals_are_kept_as_missing(tmp_path: Path) -> None:
    rows = read(
        file(tmp_path, lines(r1="1,t,0,1,,x", r2="2,t,0,1,NaN,")), Columns(weak="a", strong="b", signals=("s", "c"))
    )
    assert np.isnan(rows.signals[1:3, 0]).all()
    assert rows.categorical["c"][2] == ""
    assert rows.text is None


@pytest.mark.parametrize("zipped", [True, False])
def test_gzip_byte_order_mark_and_truth_values_are_read(tmp_path: Path, zipped: bool) -> None:
    content = ("\ufeffid,t,a,b\n" + "\n".join(f'{i},"a, ""b""\n{i}",TRUE,0.5' for i in range(20))).encode()
    path = tmp_path / "data.whatever"
    path.write_bytes(gzip.compress(content) if zipped else content)
    rows = read(path, BASE)
    assert (len(rows), rows.weak[0], rows.strong[0]) == (20, 1.0, 0.5)
    assert rows.text is not None and rows.text[0] == 'a, "b"\n0'


def test_rows_are_numbered_when_there_is_no_id(tmp_path: Path) -> None:
    rows = read(file(tmp_path, header="nr,t,a,b,s,c\n"), BASE)
    assert rows.ids[:3] == ("1", "2", "3")


def test_huge_field_is_read(tmp_path: Path) -> None:
    rows = read(file(tmp_path, lines(r5="5," + "x" * 400_000 + ",1,1,0.1,x")), BASE)
    assert rows.text is not None and len(rows.text[5]) == 400_000


@pytest.mark.parametrize(
    ("content", "columns", "says"),
    [
        ("", BASE, "is empty"),
        ("\n\n", BASE, "is empty"),
        (HEADER, BASE, "has 0 rows"),
        (HEADER + "\n".join(lines(12)), BASE, "has 12 rows"),
        (HEADER + "\n".join(lines()), Columns(weak="aa", strong="b", text="t"), "no column 'aa' (--weak)"),
        (HEADER + "\n".join(lines()), Columns(weak="a", strong="b", text="tt"), "did you mean 't'"),
        (HEADER + "\n".join(lines()), Columns(weak="a", strong="b"), "give --text"),
        (HEADER + "\n".join(lines()), Columns(weak="a", strong="b", signals=("s", "s")), "named twice"),
        (HEADER + "\n".join(lines()), Columns(weak="a", strong="a", text="t"), "both name 'a'"),
        (HEADER + "\n".join(lines()), Columns(weak="a", strong="b", text="t", signals=("b",)), "is an outcome"),
        (HEADER + "\n".join(lines()), Columns(weak="a", strong="b", text="t", cost_weak="s"), "give both or none"),
        (HEADER + "\n".join(lines()), Columns(weak="a", strong="b", signals=("t",)), "24 different texts"),
        (HEADER + "\n".join(lines(r3="3,t,,1,1,x")), BASE, "line 5: 'a' (--weak) is empty, as in 1 rows"),
        (HEADER + "\n".join(lines(r3="3,t,nan,1,1,x")), BASE, "line 5: 'a' (--weak) is 'nan'"),
        (HEADER + "\n".join(lines(r3="3,t,1,7,1,x")), BASE, "line 5: 'b' (--strong) is 7"),
        (HEADER + "\n".join(lines(r3="2,t,1,1,1,x")), BASE, "lines 4 and 5 have the same 'id' '2'"),
        (HEADER + "\n".join(lines(r3=",t,1,1,1,x")), BASE, "'id' is empty"),
        (HEADER + "\n".join(lines(r3="3,t,1,1")), BASE, "line 5: has 4 fields where the header has 6"),
        (HEADER + "\n".join(lines(r3="3,t,1,1,-inf,x")), Columns(weak="a", strong="b", signals=("s",)), "'-inf'"),
        (HEADER + "\n".join(lines(r3="3,t,1,1,1e150,x")), Columns(weak="a", strong="b", signals=("s",)), "'1e150'"),
        (HEADER + "\n".join(lines(r3="3,t,1,1,1 token,x")), Columns(weak="a", strong="b", signals=("s",)), "'1 token'"),
        (HEADER + "\n".join(lines(r3="3,t,1,1,-2,x")), Columns(weak="a", strong="b", text="t", cost_weak="s", cost_strong="s"), "a cost is"),
        ((HEADER + "\n".join(lines())).replace(",", ";"), BASE, "parted by ';'"),
        ("a,a,b,t\n" + "1,1,1,x\n" * 30, BASE, "2 columns 'a' (--weak)"),
        (HEADER + "\n".join(f"{i},,1,0,1,x" for i in range(30)), BASE, "empty in all rows"),
    ],
)  # fmt: skip
def test_error_names_the_column_and_the_fix(tmp_path: Path, content: str, columns: Columns, says: str) -> None:
    path = tmp_path / "data.csv"
    path.write_text(content)
    with pytest.raises(DataError) as caught:
        read(path, columns)
    assert says in str(caught.value)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ((HEADER + "\n".join(lines(r3="3,caf\xe9,1,1,1,x"))).encode("latin-1"), "not UTF-8 (it has a byte 0xe9)"),
        (HEADER.encode("utf-16"), "not UTF-8"),
        # Without the time in its head: the bytes name the test, and every process has to find the same names.
        (gzip.compress((HEADER * 500).encode(), mtime=0)[:40], "damaged gzip"),
        (b"\x1f\x8bnot gzip", "damaged gzip"),
        (HEADER.encode() + b'1,"' + b"x" * (9 * 2**20) + b'",1,1,1,x\n', "field larger than"),
    ],
)
def test_error_says_what_the_bytes_are(tmp_path: Path, content: bytes, says: str) -> None:
    path = tmp_path / "data.csv"
    path.write_bytes(content)
    with pytest.raises(DataError) as caught:
        read(path, BASE)
    assert says in str(caught.value)


def test_names_may_hold_commas_when_they_are_quoted() -> None:
    assert split_names('a|b, c.d ,"e,f"') == ("a|b", "c.d", "e,f")
    for wrong in ("", "a,,b"):
        with pytest.raises(DataError):
            split_names(wrong)
