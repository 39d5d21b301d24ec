"""CSV that a spreadsheet opens without obeying it. RFC 4180: lines end with CR LF."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Sequence

# A cell that begins so is a formula to Excel, LibreOffice and Google Sheets, with or without blanks before it
# (owasp.org/www-community/attacks/CSV_Injection, read 2026-11-20). A plain negative number is none.
_FORMULA = re.compile(r"\s*[=+\-@]|[\t\r\n]")
_NUMBER = re.compile(r"-?\d+(\.\d+)?", re.ASCII)


def render_csv(header: Sequence[str] | None, rows: Iterable[Sequence[object]], *, quote_all: bool = False) -> str:
    """None becomes an empty cell; a text that a spreadsheet would calculate gets an apostrophe before it.

    Without a header it is a part that goes on. Quotes only where they are needed, or around every cell for whoever copies single
    lines by hand.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\r\n", quoting=csv.QUOTE_ALL if quote_all else csv.QUOTE_MINIMAL)
    if header is not None:
        writer.writerow(header)
    writer.writerows([_cell(value) for value in row] for row in rows)
    return text.getvalue()


def _cell(value: object) -> object:
    if isinstance(value, str) and _FORMULA.match(value) and not _NUMBER.fullmatch(value):
        return "'" + value
    return value
