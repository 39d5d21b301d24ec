"""A file is brought to this release's schema, forward only, with a copy made before it changes."""

from __future__ import annotations

import shutil
import sqlite3
import stat
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from gateway.errors import HouseError
from gateway.storage.database import FILE_NAME, open_reader, open_writer, reading
from gateway.storage.migrate import check_not_newer, find_migrations, migrate, migrations_folder, schema_version
from tests.fakes import FakeClock
from tests.ledger_tools import assert_books_balance, open_ledger, usd

SECOND = "begin immediate; create table later (id integer primary key) strict; pragma user_version = 2; commit;"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The real first migration, beside which tests put later ones."""
    folder = tmp_path / "migrations"
    folder.mkdir()
    shutil.copy(migrations_folder() / "0001_ground.sql", folder)
    return folder


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / FILE_NAME


@pytest.fixture
def conn(path: Path) -> Iterator[sqlite3.Connection]:
    with closing(open_writer(path)) as conn:
        yield conn


def tables(conn: sqlite3.Connection) -> set[str]:
    return {name for (name,) in conn.execute("select name from sqlite_schema where type = 'table'")}


def test_a_fresh_file_gets_everything_and_no_copy_is_made(conn: sqlite3.Connection, path: Path) -> None:
    newest = find_migrations(migrations_folder())[-1][0]
    assert migrate(conn, path)[0] == "0001_ground.sql"
    assert schema_version(conn) == newest
    assert migrate(conn, path) == []
    assert [file.name for file in path.parent.glob("*before*")] == []
    assert_books_balance(conn)


def test_the_files_are_for_their_owner_only(conn: sqlite3.Connection, path: Path, folder: Path) -> None:
    migrate(conn, path, folder)
    (folder / "0002_later.sql").write_text(SECOND)
    migrate(conn, path, folder)
    files = list(path.parent.glob("pagegrid*"))
    assert {file.name for file in files} >= {FILE_NAME, FILE_NAME + "-wal", "pagegrid.before-schema-2.db"}
    assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}


async def test_a_later_migration_leaves_a_whole_copy_of_the_file_before_it(
    tmp_path: Path, path: Path, folder: Path, clock: FakeClock
) -> None:
    async with open_ledger(tmp_path, clock) as ledger:
        alice = await ledger.make_wallet("alice", usd("10"))
        await ledger.settle(ledger.admit(alice, usd("1")), usd("1"))
    shutil.copytree(migrations_folder(), folder, dirs_exist_ok=True)
    newest = find_migrations(folder)[-1][0]
    later = folder / f"{newest + 1:04d}_later.sql"
    later.write_text(SECOND.replace("user_version = 2", f"user_version = {newest + 1}"))
    with closing(open_writer(path)) as conn:
        assert migrate(conn, path, folder) == [later.name]
        assert schema_version(conn) == newest + 1 and "later" in tables(conn)
        assert_books_balance(conn)
    with closing(open_reader(tmp_path / f"pagegrid.before-schema-{newest + 1}.db")) as copy:
        assert schema_version(copy) == newest and "later" not in tables(copy)
        assert copy.execute("select balance_nanos from accounts where id = ?", (alice,)).fetchone() == (usd("9"),)
        assert_books_balance(copy)
    assert not list(tmp_path.glob("*.partial"))


@pytest.mark.parametrize(
    "fault",
    [
        "insert into nowhere values (1);",
        "insert into accounts (id, kind, name) values (3, 'revenue', 'again');",
        "this is not SQL;",
    ],
)
def test_a_migration_that_fails_leaves_the_version_and_all_before_it(
    fault: str, conn: sqlite3.Connection, path: Path, folder: Path
) -> None:
    migrate(conn, path, folder)
    (folder / "0002_later.sql").write_text(SECOND.replace("pragma", fault + " pragma"))
    for _ in range(2):
        with pytest.raises(sqlite3.Error):
            migrate(conn, path, folder)
        assert schema_version(conn) == 1 and "later" not in tables(conn) and not conn.in_transaction
    (folder / "0002_later.sql").write_text(SECOND)
    assert migrate(conn, path, folder) == ["0002_later.sql"]


def test_of_two_migrations_the_first_stays_when_the_second_fails(conn: sqlite3.Connection, path: Path, folder: Path) -> None:
    migrate(conn, path, folder)
    (folder / "0002_later.sql").write_text(SECOND)
    (folder / "0003_bad.sql").write_text("begin immediate; create table t (id); select nothing; pragma user_version = 3; commit;")
    with pytest.raises(sqlite3.Error):
        migrate(conn, path, folder)
    assert schema_version(conn) == 2 and "t" not in tables(conn)


def test_the_copy_before_a_second_try_holds_what_was_booked_since_the_first(
    conn: sqlite3.Connection, path: Path, folder: Path
) -> None:
    migrate(conn, path, folder)
    (folder / "0002_later.sql").write_text("begin immediate; select nothing; pragma user_version = 2; commit;")
    with pytest.raises(sqlite3.Error):
        migrate(conn, path, folder)
    # The operator goes back to the old release for a while; then the upgrade is mended.
    conn.execute("insert into users (name, role, created_at_ms) values ('alice', 'user', 1)")
    (folder / "0002_later.sql").write_text(SECOND)
    migrate(conn, path, folder)
    with closing(open_reader(path.with_name("pagegrid.before-schema-2.db"))) as copy:
        assert copy.execute("select name from users").fetchall() == [("alice",)]


def test_a_migration_that_forgets_its_version_is_told_so(conn: sqlite3.Connection, path: Path, folder: Path) -> None:
    (folder / "0002_later.sql").write_text("begin immediate; create table later (id); commit;")
    with pytest.raises(HouseError, match="did not set user_version = 2"):
        migrate(conn, path, folder)


def test_a_file_of_a_newer_release_is_refused_and_left_alone(conn: sqlite3.Connection, path: Path, folder: Path) -> None:
    migrate(conn, path, folder)
    conn.execute("pragma user_version = 99")
    with pytest.raises(HouseError, match=r"schema 99, this release knows 1: .* newer pagegrid"):
        migrate(conn, path, folder)
    with pytest.raises(HouseError, match="newer"):
        check_not_newer(99)
    check_not_newer(1)
    assert schema_version(conn) == 99 and not list(path.parent.glob("*before*"))


@pytest.mark.parametrize("names", [["0001_a.sql", "0003_c.sql"], ["0002_b.sql"], ["0001_a.sql", "0001_b.sql"], [], ["1_a.sql"]])
def test_numbers_with_a_gap_or_twice_are_refused(names: list[str], tmp_path: Path, conn: sqlite3.Connection, path: Path) -> None:
    folder = tmp_path / "other"
    folder.mkdir()
    for name in names:
        (folder / name).write_text(SECOND)
    with pytest.raises(HouseError, match="without a gap"):
        migrate(conn, path, folder)
    assert schema_version(conn) == 0


def test_what_is_no_migration_is_passed_over(folder: Path) -> None:
    (folder / "README.md").write_text("")
    (folder / "0002_later.sql~").write_text("")
    assert [number for number, _ in find_migrations(folder)] == [1]


async def test_readers_cannot_write(conn: sqlite3.Connection, path: Path) -> None:
    migrate(conn, path)
    with closing(open_reader(path)) as reader, pytest.raises(sqlite3.OperationalError, match="readonly"):
        reader.execute("update accounts set balance_nanos = 1 where id = 3")
    async with reading(path) as reader_of_coroutines:
        with pytest.raises(sqlite3.OperationalError, match="readonly"):
            await reader_of_coroutines.execute("delete from prices")
    with pytest.raises(HouseError, match="no database"):
        open_reader(path.with_name("nowhere.db"))


def test_the_writer_is_set_up_so_that_what_is_acknowledged_stays(conn: sqlite3.Connection) -> None:
    pragmas = ("journal_mode", "synchronous", "foreign_keys", "recursive_triggers", "trusted_schema", "wal_autocheckpoint")
    settings = {name: conn.execute(f"pragma {name}").fetchone()[0] for name in pragmas}
    assert settings == dict(zip(pragmas, ("wal", 2, 1, 1, 0, 0), strict=True))
