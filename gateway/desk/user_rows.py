"""A CSV file of people, read into rows: what can be judged by looking at the file alone.

    name,email,role,plan,topup,reference,key_name
    ada,ada@example.com,,pro,25,invoice-1001,laptop

Only `name` is needed; the columns may stand in any order, an empty cell says nothing. Everything that is wrong is collected with
its line, so that one look at the file mends it. Knows nothing of the database.
"""

from __future__ import annotations

import csv
import difflib
import functools
import io
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

from gateway.desk.checks import (
    NAME_CHARS_MAX,
    NOTE_CHARS_MAX,
    REFERENCE_CHARS_MAX,
    check_email,
    check_text,
    check_user_name,
    refused,
)
from gateway.errors import ClientError
from gateway.money import BadAmount, parse_deposit

COLUMNS = ("name", "email", "role", "plan", "topup", "reference", "key_name")
ROLES = ("user", "admin")
# All of a file is done in one transaction, for which requests wait: a thousand rows took it two tenths of a second (measured).
ROWS_MAX = 1_000
BYTES_MAX = 256 * 1024
# The longest that any column takes.
_CELL_CHARS_MAX = NOTE_CHARS_MAX
_PROBLEMS_SHOWN = 50


@dataclass(frozen=True, slots=True)
class UserRow:
    """`line` is where it starts. None and "" are "not said"; `topup_nanos` 0 is no top-up."""

    line: int
    name: str
    email: str | None
    role: str | None
    plan: str | None
    topup_nanos: int
    reference: str
    key_name: str


class Problems:
    """What is wrong with a file, by line."""

    def __init__(self) -> None:
        self._found: list[tuple[int, str]] = []

    def add(self, line: int, message: str) -> None:
        self._found.append((line, message))

    def attempt(self, line: int, check: Callable[[], Any]) -> Any:
        """What `check` gives; None, and a problem more, if it refuses."""
        try:
            return check()
        except ClientError as error:
            self.add(line, error.message)

    def raise_if_any(self) -> None:
        """Raises ClientError with all of them, in the order of the file, one a line."""
        if not self._found:
            return
        told = [f"line {line}: {message}" for line, message in sorted(self._found)]
        if len(told) > _PROBLEMS_SHOWN:
            told[_PROBLEMS_SHOWN:] = [f"and {len(told) - _PROBLEMS_SHOWN} more"]
        raise refused("nothing was done; the file has to be mended:\n" + "\n".join(told), "csv")


class _Earlier:
    """What may stand in one line of a file only: who is meant, and the references of top-ups."""

    def __init__(self, problems: Problems) -> None:
        self._problems = problems
        self._people: dict[str, int] = {}
        self._references: dict[str, int] = {}

    def look(self, line: int, checked: Mapping[str, Any]) -> None:
        """At what is right of a row, which may be a part of it."""
        for word in sorted({(checked["name"] or "").lower(), checked["email"] or ""} - {""}):
            if (first := self._people.setdefault(word, line)) != line:
                self._problems.add(line, f"{word} stands on line {first} already; one line per user")
        reference = checked["reference"]
        if reference and (first := self._references.setdefault(reference, line)) != line:
            self._problems.add(line, f"reference: that of line {first} again; use one of its own for each top-up")


def parse_users(text: str, plans: Collection[str], problems: Problems) -> list[UserRow]:
    """The rows that are right by themselves, in the order of the file. Raises ClientError for what is no such file at all."""
    if len(text.encode(errors="replace")) > BYTES_MAX:
        raise refused(f"csv: at most {BYTES_MAX // 1024} KiB at a time; split the file", "csv")
    reader = csv.reader(io.StringIO(text.removeprefix("\ufeff"), newline=""), strict=True)
    rows: list[UserRow] = []
    earlier = _Earlier(problems)
    columns: list[str] | None = None
    line, count = 1, 0
    try:
        for cells in reader:
            if columns is None:
                columns = _parse_header([cell.strip().lower() for cell in cells])
            elif any(cell.strip() for cell in cells):
                count += 1
                row = _parse_row(line, columns, [cell.strip() for cell in cells], plans, problems, earlier)
                rows += [] if row is None else [row]
            # A cell in quotes may go over several lines.
            line = reader.line_num + 1
    except csv.Error as error:
        raise refused(f"csv: line {line}: {error}", "csv") from None
    if not count:
        raise refused(
            f"csv: write a first line of columns ({','.join(COLUMNS)}; name alone is needed) and a line per user", "csv"
        )
    if count > ROWS_MAX:
        raise refused(f"csv: {count} users; at most {ROWS_MAX} at a time: split the file", "csv")
    return rows


# ── leaves ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def _parse_header(columns: list[str]) -> list[str]:
    for column in columns:
        if column not in COLUMNS:
            nearest = difflib.get_close_matches(column, COLUMNS, n=1)
            hint = f"did you mean {nearest[0]}?" if nearest else f"there are {', '.join(COLUMNS)}, with commas between."
            named = column if column.isidentifier() and len(column) <= NAME_CHARS_MAX else "what stands there"
            raise refused(f"csv: line 1: {named} is no column; {hint}", "csv")
        if columns.count(column) > 1:
            raise refused(f"csv: line 1: the column {column} stands there twice", "csv")
    if "name" not in columns:
        raise refused("csv: line 1: the column name is missing", "csv")
    return columns


def _parse_row(
    line: int, columns: list[str], cells: list[str], plans: Collection[str], problems: Problems, earlier: _Earlier
) -> UserRow | None:
    """None if something is wrong with it."""
    if len(cells) > len(columns):
        problems.add(line, f"{len(cells)} cells, and the first line has {len(columns)} columns; put what has a comma in quotes")
        return None
    said = {column: cell for column, cell in zip(columns, cells, strict=False) if cell}
    for column in [column for column, cell in said.items() if len(cell) > _CELL_CHARS_MAX]:
        problems.add(line, f"{column}: longer than {_CELL_CHARS_MAX} characters")
        return None
    checked = {column: problems.attempt(line, functools.partial(_check, column, said, plans)) for column in COLUMNS}
    earlier.look(line, checked)
    if any(checked[column] is None for column in (*said, "name")):
        return None
    return UserRow(
        line=line,
        name=checked["name"],
        email=checked["email"],
        role=checked["role"],
        plan=checked["plan"],
        topup_nanos=checked["topup"] or 0,
        reference=checked["reference"] or "",
        key_name=checked["key_name"] or "",
    )


def _check(column: str, said: dict[str, str], plans: Collection[str]) -> Any:
    """The cell's value; None if it says nothing. Raises ClientError."""
    text = said.get(column)
    if column == "name":
        return check_user_name(text or "")
    if column == "reference" and (text is None) != ("topup" not in said):
        raise refused("reference: a top-up and its reference belong together; write both, or neither")
    if text is None:
        return None
    if column == "email":
        return check_email(text)
    if column == "topup":
        return _parse_topup(text)
    if column == "reference":
        return check_text(text, column, REFERENCE_CHARS_MAX)
    if column == "key_name":
        return check_text(text, column, NAME_CHARS_MAX)
    known = ROLES if column == "role" else plans
    if text not in known:
        nearest = difflib.get_close_matches(text, known, n=1)
        hint = f"did you mean {nearest[0]}?" if nearest else f"there are {', '.join(sorted(known))}."
        raise refused(f"{column}: there is none of this name; {hint}")
    return text


def _parse_topup(text: str) -> int:
    try:
        return parse_deposit(text)
    except BadAmount as error:
        raise refused(f"topup: {error}") from None
