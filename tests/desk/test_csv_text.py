"""CSV: what a spreadsheet must not calculate, and what a reader gets back."""

from __future__ import annotations

import csv
import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.desk.csv_text import render_csv


@pytest.mark.parametrize(
    ("cell", "written"),
    [
        ("=1+1", "'=1+1"),
        ("+1+1", "'+1+1"),
        ("-1+1", "'-1+1"),
        ("@SUM(A1)", "'@SUM(A1)"),
        ("\t=1", "'\t=1"),
        (" =1", "' =1"),
        ("-0.25", "-0.25"),
        ("-", "'-"),
        (-5, "-5"),
        (None, ""),
        (0, "0"),
        (True, "True"),
        ("claude-sonnet-5", "claude-sonnet-5"),
    ],
)
def test_a_cell(cell: object, written: str) -> None:
    assert render_csv(["a", "b"], [[cell, 1]]) == f"a,b\r\n{written},1\r\n"


def test_quotes_only_where_needed() -> None:
    assert render_csv(["a"], [['x"y,z'], ["two\r\nlines"]]) == 'a\r\n"x""y,z"\r\n"two\r\nlines"\r\n'
    assert render_csv(["a"], [["\r=1"]]) == 'a\r\n"\'\r=1"\r\n'
    assert render_csv(["a"], []) == "a\r\n"


@given(st.lists(st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\0")), min_size=2, max_size=2)))
def test_every_text_comes_back_and_none_is_a_formula(rows: list[list[str]]) -> None:
    read = list(csv.reader(io.StringIO(render_csv(["a", "b"], rows), newline="")))
    assert read[0] == ["a", "b"] and len(read) == len(rows) + 1
    for row, found in zip(rows, read[1:], strict=True):
        for cell, back in zip(row, found, strict=True):
            assert back.removeprefix("'") == cell.removeprefix("'")
            assert back[:1] not in ("=", "+", "@", "\t", "\r") and (back[:1] != "-" or back[1:].replace(".", "", 1).isdecimal())
