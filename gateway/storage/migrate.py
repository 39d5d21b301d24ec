"""Bringing a database file to the schema of this release, forward only.

A migration is `migrations/NNNN_what.sql` and carries its own `begin immediate; … pragma user_version = NNNN; commit;` (Python's
`executescript` commits whatever is open; a half-applied one was seen). Before any later migration touches a file that holds
data, a copy is made beside it. A file from a newer release is refused.
"""

from __future__ import annotations

import re
import sqlite3
from pathlib import Path

from gateway.errors import HouseError

_NAME = re.compile(r"(\d{4})_\w+\.sql")


def migrations_folder() -> Path:
    """Inside the package in a wheel, at the top of the repository in a checkout."""
    package = Path(__file__).resolve().parent.parent
    inside = package / "migrations"
    return inside if inside.is_dir() else package.parent / "migrations"


def find_migrations(folder: Path) -> list[tuple[int, Path]]:
    """(number, file) in order; the numbers are 1, 2, 3 … without a gap."""
    found = sorted((int(match.group(1)), file) for file in folder.iterdir() if (match := _NAME.fullmatch(file.name)))
    numbers = [number for number, _ in found]
    if not found or numbers != list(range(1, len(found) + 1)):
        raise HouseError("internal", f"the migrations in {folder} are not numbered 1, 2, 3 … without a gap; reinstall pagegrid")
    return found


def schema_version(conn: sqlite3.Connection) -> int:
    return int(conn.execute("pragma user_version").fetchone()[0])


def migrate(conn: sqlite3.Connection, path: Path, folder: Path | None = None) -> list[str]:
    """Apply what is missing; returns the names of the files applied. Raises HouseError for a newer schema.

    A migration that fails leaves the file at the version before it.
    """
    found = find_migrations(folder or migrations_folder())
    version, newest = schema_version(conn), found[-1][0]
    check_not_newer(version, newest)
    missing = [(number, file) for number, file in found if number > version]
    if missing and version > 0:
        copy_before(conn, path, version)
    for number, file in missing:
        try:
            conn.executescript(file.read_text(encoding="utf-8"))
        except sqlite3.Error:
            if conn.in_transaction:
                conn.rollback()
            raise
        if schema_version(conn) != number:
            raise HouseError("internal", f"{file.name} did not set user_version = {number}; reinstall pagegrid")
    return [file.name for _, file in missing]


def check_not_newer(version: int, newest: int | None = None) -> None:
    """Raises HouseError if a file of schema `version` comes from a newer release than this one."""
    newest = newest or find_migrations(migrations_folder())[-1][0]
    if version > newest:
        raise HouseError(
            "unavailable",
            f"this database has schema {version}, this release knows {newest}: it was opened by a newer pagegrid. "
            "Install that release again, or restore the copy made before its upgrade.",
        )


def copy_before(conn: sqlite3.Connection, path: Path, version: int) -> Path:
    """A whole, consistent copy of the database beside it, named after the version it holds.

    It replaces the copy of an earlier try: what failed then changed nothing, and the house may have been at work since.
    """
    target = path.with_name(f"{path.stem}.before-schema-{version + 1}.db")
    partial = target.with_suffix(".partial")
    partial.unlink(missing_ok=True)
    partial.touch(mode=0o600)
    conn.execute("vacuum into ?", (str(partial),))
    partial.replace(target)
    return target
