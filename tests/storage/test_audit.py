"""Tampering: every invariant is broken by hand, past triggers and CHECKs, and the audit names it with the offending rows.

The file that is tampered with has lived a little: deposits, promo, withdrawals, settles, an overrun and its collection, a void, a
checkpoint in the middle, and an open hold at the end. What breaks is changed after the checkpoint, so both audits must see it.
"""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from gateway.ids import render_id
from gateway.storage import audit as audit_room
from gateway.storage.audit import FINDINGS_SHOWN, Report, audit, store_checkpoint
from gateway.storage.database import open_reader, open_writer
from gateway.storage.ledger import LedgerWriter
from tests.fakes import FakeClock
from tests.ledger_tools import assert_books_balance, copy_as_killed, open_ledger, usd

APPEND_ONLY = ("transfers", "usage", "prices", "hold_changes", "audit_log", "holds")


@dataclass(frozen=True)
class Life:
    """A file, and the names of what is in it."""

    path: Path
    names: dict[str, Any]


async def _live(folder: Path) -> Life:
    clock = FakeClock()
    async with open_ledger(folder, clock) as ledger:
        alice, bob = await ledger.make_wallet("alice", usd("10")), await ledger.make_wallet("bob", usd("10"))
        carol = await ledger.make_wallet("carol", usd("2"))
        await ledger.grant_promo(bob, usd("1"), "demo credit")
        await ledger.settle(ledger.admit(alice, usd("1")), usd("0.5"))
        x, y = ledger.admit(carol, usd("1")), ledger.admit(carol, usd("1"))
        await ledger.settle(x, usd("1.5"))
        await ledger.settle(y, usd("0.2"))  # and 0.50 collected
        await ledger.withdraw(bob, usd("3"), "cash 1")
        await ledger.reverse_promo(bob, usd("1"), "demo credit")
        middle = assert_books_balance(ledger.path, ledger.book)
        await ledger.writer.run(lambda job: store_checkpoint(job.conn, middle, 1))
        clock.advance(3_600_000)
        await ledger.deposit(alice, usd("1"), "invoice 2")
        await ledger.writer.run(_give_away)
        for number in (1, 2):
            await ledger.grant_promo(bob, 77, f"{'voucher' if number == 1 else 'invite'}:{number}")
        void = ledger.admit(alice, usd("1"))
        await ledger.void(void)
        settled = ledger.admit(alice, usd("1"))
        await ledger.settle(settled, usd("0.25"))
        overrun = ledger.admit(carol, usd("0.2"))
        await ledger.settle(overrun, usd("0.4"))
        refunded = ledger.admit(bob, usd("0.1"))
        await ledger.settle(refunded, usd("0.1"))
        for amount in (usd("0.04"), usd("0.06")):
            await ledger.refund(refunded.id, amount)
        others = [ledger.admit(bob, usd("0.1")) for _ in range(3)]
        for hold in others:
            await ledger.settle(hold, usd("0.1"))
        await ledger.writer.run(lambda job: job.conn.execute("insert into audit_log values (1, 1, 'a', 'b', 'c', null, null)"))
        running = ledger.admit(alice, usd("1"))
        ledger.raise_to(running, usd("2"))
        ledger.report_progress(running, usd("0.1"))
        await ledger.drained()
        path = copy_as_killed(ledger.path, folder / "template")
        last = ledger.conn.execute("select max(id) from transfers").fetchone()[0]
    requests = {"refunded": refunded, "void": void, "settled": settled, "overrun": overrun, "other": others[1], "open": running}
    return Life(
        path,
        {
            "alice": alice,
            "bob": bob,
            "carol": carol,
            "last": last,
            "next": last + 1,
            "middle": middle.transfer_id,
            **{name: hold.id for name, hold in requests.items()},
            **{f"{name}_ref": render_id(hold.id) for name, hold in requests.items()},
            "unseen": running.id + 1,
            "unseen_ref": render_id(running.id + 1),
        },
    )


def _give_away(ledger: LedgerWriter) -> None:
    """bob has redeemed voucher 1 and used invite 2; what they are worth comes right after."""
    ledger.conn.executescript("""
        insert into vouchers (id, batch, hash, hint, amount_nanos, created_by, created_at_ms, redeemed_by, redeemed_at_ms)
          select 1, 'b', zeroblob(32), 'x', 77, 'a', 1, id, 1 from users where name = 'bob';
        insert into invites (id, hash, credit_nanos, plan, note, created_by, created_at_ms, expires_at_ms, used_by, used_at_ms)
          select 2, zeroblob(32), 77, 'default', '', 'a', 1, 2, id, 1 from users where name = 'bob';
        begin immediate;
    """)


@pytest.fixture(scope="module")
def life(tmp_path_factory: pytest.TempPathFactory) -> Life:
    return asyncio.run(_live(tmp_path_factory.mktemp("life")))


@contextmanager
def tampering(path: Path) -> Iterator[sqlite3.Connection]:
    """A connection of somebody who has the file and no scruples; the triggers are put back, the damage stays."""
    with closing(sqlite3.connect(path, isolation_level=None)) as conn:
        conn.execute("pragma foreign_keys = off")
        conn.execute("pragma ignore_check_constraints = on")
        triggers = conn.execute("select name, sql from sqlite_schema where type = 'trigger'").fetchall()
        for name, _ in triggers:
            conn.execute(f"drop trigger {name}")
        yield conn
        for _, sql in triggers:
            conn.execute(sql)


def audit_each_way(path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[bool, Report]]:
    """(since checkpoint?, report), with slices of several sizes; whatever the slices, the report is the same."""
    for since in (False, True):
        reports = []
        for rows in (20_000, 3, 1):
            monkeypatch.setattr(audit_room, "SLICE_ROWS", rows)
            with closing(open_reader(path)) as conn:
                reports.append(audit(conn, since_checkpoint=since))
        codes = [{finding.invariant: finding.count for finding in report.findings} for report in reports]
        # A gap is told once per slice that it lies in or between, so only the names can be compared.
        assert codes[0].keys() == codes[1].keys() == codes[2].keys()
        yield since, reports[0]


# What only a whole audit can see: it sums from the first transfer.
WHOLE_ONLY = {"2b", "7"}

MOVE = """
    insert into transfers values ({next}, 1, '{kind}', {debit}, {credit}, {amount}, '{reference}', '');
    update accounts set balance_nanos = balance_nanos - {amount} where id = {debit};
    update accounts set balance_nanos = balance_nanos + {amount} where id = {credit};
"""


def move(kind: str, debit: str, credit: str, reference: str, amount: int = 7) -> str:
    """A transfer that never was, with the balances to match."""
    return MOVE.format(next="{next}", kind=kind, debit=debit, credit=credit, amount=amount, reference=reference)


@dataclass(frozen=True)
class Tampering:
    what: str
    sql: str
    # Codes of the invariants that break, each with (some of) the columns of the offending rows.
    found: dict[str, list[dict[str, Any]]]


TAMPERINGS = [
    Tampering(
        "money from nowhere on an account",
        "update accounts set balance_nanos = balance_nanos + 1 where id = 3",
        {"1": [{"sum_nanos": 1}], "2": [{"account_id": 3}]},
    ),
    Tampering(
        "money moved between accounts without a transfer",
        "update accounts set balance_nanos = balance_nanos + (case id when 3 then 5 else -5 end) where id in (3, {alice})",
        {"2": [{"account_id": 3}, {"account_id": "{alice}"}]},
    ),
    Tampering(
        "the amount of a deposit",
        "update transfers set amount_nanos = amount_nanos + 1 where reference = 'invoice 2'",
        {"2": [{"account_id": 1}, {"account_id": "{alice}"}]},
    ),
    Tampering(
        "a deposit to somebody else",
        "update transfers set credit_account = {bob} where reference = 'invoice 2'",
        {"2": [{"account_id": "{alice}"}, {"account_id": "{bob}"}]},
    ),
    Tampering(
        "more owed than was overrun",
        "update accounts set owed_nanos = owed_nanos + 1 where id = {carol}",
        {"2b": [{"account_id": "{carol}"}]},
    ),
    Tampering(
        "held without a hold",
        "update accounts set held_nanos = held_nanos + 1 where id = {bob}",
        {"3a": [{"account_id": "{bob}", "held_nanos": 1, "open_nanos": 0}]},
    ),
    Tampering(
        "a raise that was larger",
        "update hold_changes set delta_nanos = delta_nanos + 1 where hold_id = {open}",
        {"3a": [{"account_id": "{alice}"}]},
    ),
    Tampering(
        "an account that is no wallet holds",
        "update accounts set held_nanos = 5 where id = 3",
        {"3a": [{"account_id": 3, "held_nanos": 5}]},
    ),
    Tampering(
        "less than what is held",
        """update accounts set balance_nanos = (select held_nanos - 1 from accounts where id = {alice}) where id = {alice};
        update accounts set balance_nanos = balance_nanos - (select sum(balance_nanos) from accounts) where id = 3""",
        {"2": [{"account_id": 3}, {"account_id": "{alice}"}], "3b": [{"account_id": "{alice}"}]},
    ),
    Tampering(
        "held less than nothing",
        "update accounts set held_nanos = -1 where id = {bob}",
        {"3a": [{"account_id": "{bob}"}], "3b": [{"account_id": "{bob}", "held_nanos": -1}]},
    ),
    Tampering(
        "a cost",
        "update usage set cost_nanos = cost_nanos + 1 where request_id = {settled}",
        {"4a": [{"request_id": "{settled}"}]},
    ),
    Tampering(
        "what was paid of a cost",
        "update usage set paid_nanos = paid_nanos - 1 where request_id = {overrun}",
        {"4a": [{"request_id": "{overrun}"}]},
    ),
    Tampering(
        "the amount of a settle, with balances to match",
        """update transfers set amount_nanos = amount_nanos - 1 where kind = 'settle' and reference = '{settled_ref}';
        update accounts set balance_nanos = balance_nanos + (case id when 3 then -1 else 1 end) where id in (3, {alice})""",
        {"4a": [{"request_id": "{settled}"}]},
    ),
    Tampering(
        "where a settle went, with balances to match",
        """update transfers set credit_account = 2 where kind = 'settle' and reference = '{settled_ref}';
        update accounts set balance_nanos = balance_nanos + (case id when 3 then -1 else 1 end) * {settled_cost}
        where id in (2, 3)""",
        {"4a": [{"request_id": "{settled}"}]},
    ),
    Tampering(
        "who paid an overrun, with balances to match",
        """update transfers set debit_account = 2 where kind = 'overrun' and reference = '{overrun_ref}';
        update accounts set balance_nanos = balance_nanos + (case id when 2 then -1 else 1 end) * {overrun_cost}
        where id in (2, 4)""",
        {"4a": [{"request_id": "{overrun}"}]},
    ),
    Tampering(
        "a settled hold without usage",
        "update holds set state = 'settled' where id = {void}",
        {"4b": [{"request_id": "{void}", "state": "settled"}]},
    ),
    Tampering(
        "usage of a void hold",
        "update holds set state = 'void' where id = {settled}",
        {"4b": [{"request_id": "{settled}", "state": "void"}], "4d": [{"reference": "{settled_ref}"}]},
    ),
    Tampering(
        "usage taken away",
        "delete from usage where request_id = {other}",
        {"4b": [{"request_id": "{other}", "usage_wallet_id": None}]},
    ),
    Tampering(
        "usage of another wallet",
        "update usage set wallet_id = {bob} where request_id = {settled}",
        {"4a": [{"request_id": "{settled}"}], "4b": [{"request_id": "{settled}", "usage_wallet_id": "{bob}"}]},
    ),
    Tampering(
        "usage of another key",
        "update usage set key_id = key_id + 1 where request_id = {settled}",
        {"4b": [{"request_id": "{settled}"}]},
    ),
    Tampering(
        "a hold taken away",
        "delete from holds where id = {settled}",
        {
            "4c": [{"request_id": "{settled}"}],
            "4d": [{"reference": "{settled_ref}"}],
            "7": [{"table": "attempts"}, {"table": "attempts"}, {"table": "request_details"}, {"table": "usage"}],
        },
    ),
    Tampering(
        "usage of a request that never was, above all others",
        """insert into usage select {unseen}, at_ms, wallet_id, key_id, model, upstream, upstream_model, price_id, input_tokens,
          output_tokens, cache_write_5m_tokens, cache_write_1h_tokens, cache_read_tokens, web_searches, speed, geography, 0, 0,
          source, flags, service_tier from usage where request_id = {settled}""",
        {"4c": [{"request_id": "{unseen}"}], "7": [{"table": "usage"}]},
    ),
    Tampering(
        "a settle of a request that never was",
        move("settle", "{alice}", "3", "{unseen_ref}"),
        {"4d": [{"transfer_id": "{next}", "kind": "settle", "reference": "{unseen_ref}"}]},
    ),
    Tampering(
        "a settle of no request at all",
        move("settle", "{alice}", "3", "gift"),
        {"4d": [{"reference": "gift"}]},
    ),
    Tampering(
        "a settle of an open hold",
        move("settle", "{alice}", "3", "{open_ref}"),
        {"4d": [{"reference": "{open_ref}"}]},
    ),
    Tampering(
        "a settle of a void hold",
        move("settle", "{alice}", "3", "{void_ref}"),
        {"4d": [{"reference": "{void_ref}"}]},
    ),
    Tampering(
        "a settle twice, under a reference that only looks different",
        move("settle", "{alice}", "3", "{settled_ref_lower}"),
        {"4d": [{"reference": "{settled_ref_lower}"}]},
    ),
    Tampering(
        "an overrun that nobody had",
        move("overrun", "4", "3", "{settled_ref}"),
        {"2b": [{"account_id": "{alice}"}], "4a": [{"request_id": "{settled}"}]},
    ),
    Tampering(
        "an overrun collected from somebody else",
        move("overrun_collected", "{bob}", "4", "{overrun_ref}", 1),
        {"2b": [{"account_id": "{carol}"}], "4d": [{"reference": "{overrun_ref}"}]},
    ),
    Tampering(
        "a refund of more than was paid, with balances to match",
        move("refund", "3", "{bob}", "{refunded_ref}:3", 1),
        {
            "7b": [
                {},
                {},
                {"transfer_id": "{next}", "wallet_id": "{bob}", "refunded_nanos": "{refunded_cost}", "paid_nanos": 10**8},
            ]
        },
    ),
    Tampering(
        "a refund to somebody else, with balances to match",
        move("refund", "3", "{bob}", "{settled_ref}:1", 1),
        {"7b": [{"transfer_id": "{next}", "wallet_id": "{bob}"}]},
    ),
    Tampering(
        "a refund that revenue did not pay, with balances to match",
        move("refund", "2", "{alice}", "{settled_ref}:1", 1),
        {"7b": [{"transfer_id": "{next}"}]},
    ),
    Tampering(
        "a refund of an overrun that was never collected",
        move("refund", "3", "{carol}", "{overrun_ref}:1", 300_000_001),
        {"7b": [{"reference": "{overrun_ref}:1", "refunded_nanos": 300_000_001, "paid_nanos": 300_000_000}]},
    ),
    *(
        Tampering(
            f"a refund of no request ({reference})",
            move("refund", "3", "{alice}", reference, 1),
            {"7b": [{"transfer_id": "{next}", "reference": reference, "paid_nanos": None}]},
        )
        for reference in ("gift", "{unseen_ref}:1", "{void_ref}:1", "{settled_ref}:01", "{settled_ref_lower}:1", "{settled_ref}:")
    ),
    Tampering(
        "a transfer taken away, with balances to match",
        """update accounts set balance_nanos = balance_nanos + (case id when 1 then 1 else -1 end)
          * (select amount_nanos from transfers where reference = 'invoice 2') where id in (1, {alice});
        delete from transfers where reference = 'invoice 2'""",
        {"5a": [{}]},
    ),
    Tampering(
        "a number left out",
        "update transfers set id = id + 1 where id = {last}",
        {"5a": [{}]},
    ),
    Tampering(
        "a deposit twice",
        "drop index transfers_once;" + move("deposit", "1", "{alice}", "invoice 2"),
        {"5b": [{"reference": "invoice 2"}, {"reference": "invoice 2"}], "5c": [{"missing": "transfers_once"}]},
    ),
    Tampering(
        "all transfers since before the checkpoint, with balances to match",
        """delete from transfers where id >= {middle};
        update accounts set balance_nanos = (
          select coalesce(sum(iif(credit_account = accounts.id, amount_nanos, -amount_nanos)), 0)
          from transfers where accounts.id in (credit_account, debit_account))""",
        {
            "2b": [{"account_id": "{carol}"}],
            "4a": [{"request_id": "{settled}"}, {"request_id": "{overrun}"}, {}, {}, {"request_id": "{other}"}, {}],
            "5d": [{"checkpoint_transfer_id": "{middle}"}],
            "10a": [{"reference": "voucher:1"}, {"reference": "invite:2"}],
        },
    ),
    Tampering(
        "a voucher that says more than it gave",
        "update vouchers set amount_nanos = 78",
        {"10a": [{"reference": "voucher:1", "amount_nanos": 78, "credited_nanos": 77}]},
    ),
    Tampering(
        "an invite that somebody else used",
        "update invites set used_by = (select user_id from accounts where id = {alice})",
        {"10a": [{"reference": "invite:2", "credit_account": "{bob}"}]},
    ),
    Tampering(
        "a voucher that can be redeemed again",
        "update vouchers set redeemed_by = null, redeemed_at_ms = null",
        {"10b": [{"reference": "voucher:1", "account_id": "{bob}"}]},
    ),
    *(
        Tampering(
            f"the credit of {reference}, which never was",
            move("promo", "2", "{alice}", reference),
            {"10b": [{"transfer_id": "{next}", "reference": reference, "account_id": "{alice}"}]},
        )
        for reference in ("voucher:2", "invite:1", "voucher:01", "invite:")
    ),
    Tampering(
        "an open hold of an older boot",
        "insert into boots (id, started_at_ms, version) values (9, 1, 'later')",
        {"6": [{"request_id": "{open}", "boot_id": 1}]},
    ),
    Tampering(
        "progress of a hold that ended",
        "update progress set hold_id = {void}",
        {"6b": [{"request_id": "{void}"}]},
    ),
    Tampering(
        "an attempt at nothing",
        "update attempts set request_id = {unseen} where request_id = {settled} and number = 2",
        {"7": [{"table": "attempts"}]},
    ),
]


def fill(value: Any, names: dict[str, Any]) -> Any:
    """`{alice}` → 5, also inside the expected rows."""
    if not isinstance(value, str):
        return value
    filled = value.format(**names)
    return int(filled) if filled.isdigit() else filled


@pytest.mark.parametrize("case", TAMPERINGS, ids=lambda case: case.what.replace(" ", "_"))
def test_the_audit_names_what_was_tampered_with(
    case: Tampering, life: Life, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = copy_as_killed(life.path, tmp_path / "tampered")
    names = {
        **life.names,
        "settled_cost": usd("0.25"),
        "overrun_cost": usd("0.1"),
        "refunded_cost": usd("0.1") + 1,
        "settled_ref_lower": life.names["settled_ref"].lower(),
    }
    with tampering(path) as conn:
        conn.executescript(case.sql.format(**names))
    for since, report in audit_each_way(path, monkeypatch):
        found = {finding.invariant.split()[0]: finding for finding in report.findings}
        expected = {code: rows for code, rows in case.found.items() if not (since and code in WHOLE_ONLY)}
        if code_sums_from_start(case, since):
            expected["2"] = []
        assert set(found) == set(expected), (since, report.findings)
        assert report.clean == (not expected)
        for code, rows in expected.items():
            wanted = [{column: fill(value, names) for column, value in row.items()} for row in rows]
            shown = sorted(found[code].rows, key=lambda row: json.dumps(row, default=str)) if code == "7" else found[code].rows
            for row, columns in zip(shown, wanted, strict=False):
                assert columns.items() <= row.items()
            assert not wanted or found[code].count == len(wanted)


def code_sums_from_start(case: Tampering, since: bool) -> bool:
    """Transfers below the checkpoint are gone: the later audit compares with its sums and sees the balances too."""
    return since and "5d" in case.found


@pytest.mark.parametrize(
    "name",
    [
        "transfers_once",
        "transfers_no_update",
        "transfers_no_delete",
        "usage_no_update",
        "usage_no_delete",
        "prices_no_update",
        "prices_no_delete",
        "hold_changes_no_update",
        "hold_changes_no_delete",
        "holds_no_delete",
        "holds_resolve_once",
        "audit_log_no_update",
        "audit_log_no_delete",
        "vouchers_once",
        "vouchers_no_delete",
        "invites_once",
        "invites_no_delete",
        "recovery_codes_once",
        "sign_in_links_once",
        "sign_in_links_no_delete",
    ],
)
def test_the_audit_misses_each_guard_that_is_gone(name: str, life: Life, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = copy_as_killed(life.path, tmp_path / "tampered")
    with closing(sqlite3.connect(path)) as conn:
        [(kind,)] = conn.execute("select type from sqlite_schema where name = ?", (name,)).fetchall()
        conn.execute(f"drop {kind} {name}")
    for _, report in audit_each_way(path, monkeypatch):
        assert [(finding.invariant.split()[0], finding.rows) for finding in report.findings] == [("5c", ({"missing": name},))]


def test_every_guard_of_the_schema_is_one_that_the_audit_would_miss(life: Life) -> None:
    with closing(open_reader(life.path)) as conn:
        for (name,) in conn.execute("select name from sqlite_schema where type = 'trigger'"):
            assert f'"{name}"' in audit_room.AT_ONCE["5c what keeps the ledger append-only and each movement single is in place"]


def test_every_invariant_is_broken_by_some_tampering_here() -> None:
    invariants = {*audit_room.AT_ONCE, *audit_room.PER_REQUESTS, *audit_room.PER_TRANSFERS, "2 b", "2b o", "7 f"}
    broken = {code for case in TAMPERINGS for code in case.found}
    assert {name.split()[0] for name in invariants} == broken


def test_what_was_not_tampered_with_is_clean(life: Life, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = copy_as_killed(life.path, tmp_path / "copy")
    for since, report in audit_each_way(path, monkeypatch):
        assert report.clean
        assert (report.since_transfer_id > 0) == since
        assert report.transfer_id == life.names["last"]
        assert report.request_id < life.names["open"], "an open hold is left to the next audit"


def test_a_finding_shows_some_rows_and_counts_all(life: Life, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = copy_as_killed(life.path, tmp_path / "tampered")
    many = FINDINGS_SHOWN + 5
    with tampering(path) as conn:
        for number in range(many):
            conn.execute(
                "insert into transfers values (?, 1, 'settle', 2, 3, 1, ?, '')", (life.names["next"] + number, f"gift {number}")
            )
        for account, delta in ((2, -many), (3, many)):
            conn.execute("update accounts set balance_nanos = balance_nanos + ? where id = ?", (delta, account))
    monkeypatch.setattr(audit_room, "SLICE_ROWS", 4)
    with closing(open_reader(path)) as conn:
        [finding] = audit(conn).findings
    assert (finding.count, len(finding.rows)) == (many, FINDINGS_SHOWN)


# ── checkpoints ──────────────────────────────────────────────────────────────────────────────────────────────────────


async def test_an_audit_starts_where_the_last_clean_one_ended(tmp_path: Path, clock: FakeClock) -> None:
    async with open_ledger(tmp_path, clock) as ledger:
        alice = await ledger.make_wallet("alice", usd("10"))
        ends = []
        for _ in range(35):
            await ledger.settle(ledger.admit(alice, usd("0.1")), usd("0.1"))
            clock.advance(60_000)
            with closing(open_reader(ledger.path)) as conn:
                report = audit(conn, since_checkpoint=True)
            assert report.clean and report.since_transfer_id == (ends[-1] if ends else 0)
            ends.append(report.transfer_id)
            for _ in range(2):  # a second clean audit with nothing new overwrites the first
                await ledger.writer.run(lambda job, report=report: store_checkpoint(job.conn, report, clock.at_ms()))
        assert ends == list(range(2, 37))
        assert ledger.conn.execute("select count(*) from checkpoints").fetchone() == (30,)
        assert_books_balance(ledger.path, ledger.book)


async def test_a_request_that_opened_late_under_an_older_id_is_still_judged(
    tmp_path: Path, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ids are given at the head of a request; by the time its hold opens an audit may have passed higher ones."""
    async with open_ledger(tmp_path, clock) as ledger:
        alice = await ledger.make_wallet("alice", usd("10"))
        early_id = ledger.ids.next(clock.at_ms())
        clock.advance(100_000)
        await ledger.settle(ledger.admit(alice, usd("1")), usd("1"))
        report = assert_books_balance(ledger.path, ledger.book)
        await ledger.writer.run(lambda job: store_checkpoint(job.conn, report, clock.at_ms()))
        monkeypatch.setattr(ledger.ids, "next", lambda at_ms: early_id)
        await ledger.settle(ledger.admit(alice, usd("1")), usd("1"))
        assert_books_balance(ledger.path, ledger.book)
    with tampering(ledger.path) as conn:
        conn.execute("update usage set cost_nanos = cost_nanos + 1 where request_id = ?", (early_id,))
    with closing(open_reader(ledger.path)) as conn:
        [finding] = audit(conn, since_checkpoint=True).findings
    assert finding.rows[0]["request_id"] == early_id


async def test_an_audit_beside_a_busy_writer_is_clean_and_pins_no_wal(
    tmp_path: Path, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit_room, "SLICE_ROWS", 5)
    async with open_ledger(tmp_path, clock) as ledger:
        alice = await ledger.make_wallet("alice", usd("10"))
        for _ in range(30):
            await ledger.settle(ledger.admit(alice, usd("0.01")), usd("0.01"))
        open_holds = [ledger.admit(alice, usd("0.01")) for _ in range(5)]
        await ledger.drained()
        loop = asyncio.get_running_loop()
        settled = 0

        async def work() -> None:
            """Between any two slices: an old hold resolves, a new request comes and goes, and the WAL can be emptied."""
            nonlocal settled
            if open_holds:
                await ledger.settle(open_holds.pop(), usd("0.01"))
            await ledger.settle(ledger.admit(alice, usd("0.01")), usd("0.02"))
            settled += 1
            _, in_wal, copied = ledger.conn.execute("pragma wal_checkpoint(passive)").fetchone()
            assert in_wal == copied

        def audit_in_thread() -> Report:
            with closing(open_reader(ledger.path)) as conn:
                return audit(conn, pause=lambda: asyncio.run_coroutine_threadsafe(work(), loop).result(30))

        report = await asyncio.to_thread(audit_in_thread)
        assert report.clean, report.findings
        assert settled > 10
        assert_books_balance(ledger.path, ledger.book)


# ── append-only ──────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("table", APPEND_ONLY)
def test_what_is_append_only_cannot_be_edited_deleted_or_replaced(table: str, life: Life, tmp_path: Path) -> None:
    path = copy_as_killed(life.path, tmp_path / "copy")
    with closing(open_writer(path)) as conn:
        before = conn.execute(f"select * from {table}").fetchall()
        columns = [row[1] for row in conn.execute(f"pragma table_info({table})")]
        assert before
        refused = pytest.raises(sqlite3.IntegrityError, match=r"append-only|are kept|resolves once")
        where = "where state <> 'open'" if table == "holds" else ""
        for column in columns:
            with refused:
                conn.execute(f"update {table} set {column} = {column} {where}")
        with refused:
            conn.execute(f"delete from {table}")
        for verb in ("insert or replace", "replace"):
            with refused:
                conn.execute(f"{verb} into {table} select * from {table}")
        with pytest.raises(sqlite3.IntegrityError):
            conn.execute(f"insert into {table} select * from {table}")
        assert conn.execute(f"select * from {table}").fetchall() == before


@pytest.mark.parametrize("column", ["id", "wallet_id", "key_id", "boot_id", "model", "amount_nanos", "opened_at_ms"])
def test_of_an_open_hold_only_the_end_can_be_written(column: str, life: Life, tmp_path: Path) -> None:
    path = copy_as_killed(life.path, tmp_path / "copy")
    with closing(open_writer(path)) as conn, pytest.raises(sqlite3.IntegrityError, match="amount stays"):
        conn.execute(f"update holds set {column} = {column} + 1 where id = ?", (life.names["open"],))


@pytest.mark.parametrize("value", ["null", "'NaN'", "1e300", "-1", "9e18", "x'00'", "0.5"])
def test_money_columns_take_whole_numbers_within_their_bounds_only(value: str, life: Life, tmp_path: Path) -> None:
    path = copy_as_killed(life.path, tmp_path / "copy")
    with closing(open_writer(path)) as conn:
        with pytest.raises(sqlite3.IntegrityError):
            conn.execute(
                f"insert into transfers values ({life.names['next']}, 1, 'deposit', 1, {life.names['bob']}, {value}, 'r', '')"
            )
        with pytest.raises(sqlite3.IntegrityError):
            conn.execute(f"update accounts set balance_nanos = {value} where id = {life.names['alice']}")
