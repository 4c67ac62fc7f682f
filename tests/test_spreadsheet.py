"""CSV through a spreadsheet: no formulas go out, everything comes back, damage is named."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modeldiff_eval.errors import UsageError
from modeldiff_eval.spreadsheet import escape_cell, read_table, unescape_cell, write_table

COLUMNS = ("name", "text")


def write(path: Path, text: str | bytes) -> Path:
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def read(path: Path) -> list[tuple[int, dict[str, str]]]:
    return read_table(path, known=COLUMNS, needed=("name",))


@given(st.text(max_size=30) | st.from_regex(r"'{0,3}[=+\-@\t].{0,5}", fullmatch=True))
def test_no_cell_is_a_formula_and_reading_gives_back_what_was_written(text: str) -> None:
    escaped = escape_cell(text)
    assert not escaped.startswith(("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠"))
    assert unescape_cell(escaped) == text


@pytest.mark.parametrize(
    "text", ["=1+1", "+1", "-1", "@SUM(A1)", '=HYPERLINK("http://x")', "'=1", "''=1", "＝1", "it's", "'quoted'"]
)
def test_formulas_survive_the_way_out_and_back(tmp_path: Path, text: str) -> None:
    path = write_table(tmp_path / "t.csv", COLUMNS, [{"name": text, "text": 'x, "y"\nz'}])
    assert path.read_bytes().startswith(b"\xef\xbb\xbfname,text\r\n")
    assert read(path) == [(3, {"name": text, "text": 'x, "y"\nz'})]


@settings(max_examples=100, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1),
            st.text(st.characters(exclude_categories=["Cs", "Cc"])),
        )
    )
)
def test_any_table_comes_back(tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str]]) -> None:
    rows = [(f"x{name.strip()}", text.strip()) for name, text in rows]
    path = write_table(
        tmp_path_factory.mktemp("t") / "t.csv", COLUMNS, [dict(zip(COLUMNS, row, strict=True)) for row in rows]
    )
    broken = {"#N/A", "#REF!"}
    if not any(text in broken for _, text in rows):
        assert [tuple(row.values()) for _, row in read(path)] == rows


@pytest.mark.parametrize("sign", [",", ";", "\t"])
def test_separators_of_other_countries(tmp_path: Path, sign: str) -> None:
    path = write(tmp_path / "t.csv", f"Name{sign}TEXT{sign}{sign}\r\na{sign}b{sign}{sign}\r\n{sign}{sign}{sign}\r\n")
    assert read(path) == [(2, {"name": "a", "text": "b"})]


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        ("", "is empty"),
        ("name,txet\n", "Did you mean 'text'"),
        ("text\nx\n", "'name' is missing"),
        ("name,name\n", "twice"),
        ("name,text\na\n", "line 2: 1 cells"),
        ("name,text\na,b,c\n", "line 2: 3 cells"),
        ('name,text\na,"b\n', "not a whole CSV"),
        ("name,text\na,b\nc,#NAME?\n", "line 3, column 'text': the spreadsheet shows #NAME?"),
        ("name,text\na,#####\n", "#####"),
        ("name,text\na,Größe\n".encode("latin-1"), "line 2: not UTF-8 text .byte 0xf6"),
        ("name,text\na,b\n".encode("utf-16"), "UTF-16"),
        (b"PK\x03\x04rest", "own file"),
        (b"name,text\na,\0\n", "zero bytes"),
    ],
)
def test_damage_is_named(tmp_path: Path, raw: str | bytes, said: str) -> None:
    path = write(tmp_path / "t.csv", raw)
    with pytest.raises(UsageError, match=said) as caught:
        read(path)
    assert str(path) in str(caught.value)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="Cannot read"):
        read(tmp_path / "absent.csv")
    with pytest.raises(UsageError, match="Cannot read"):
        read(tmp_path)
