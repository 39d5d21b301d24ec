"""The invariants of the ledger, as SQL that must return no row, and the audit that runs them.

    whole audit    everything, from the first transfer: `pagegrid ledger audit`, nightly
    since audit    from the last checkpoint (a clean audit's transfer id and balances): at start, hourly

One short read fixes the end of the audit (highest ids, balances, open holds); rows below it are append-only, so the rest is
read in id slices while the house works on, and no reader pins the WAL. The numbers are those of LEDGER.md, "Invariants".
"""

from __future__ import annotations

import json
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from gateway.ids import lowest_id
from gateway.storage.refunds import BEYOND_PAID, add_functions

SLICE_ROWS = 20_000
# A request's id is given at its head; its hold opens later (a slow body, the wait for money), when higher ones may have ended.
LATE_MS = 600_000
# More would not help anyone; the count says how many there are.
FINDINGS_SHOWN = 20


@dataclass(frozen=True, slots=True)
class Invariant:
    """What must hold, and the query that shows where it does not; `whole`: only a whole audit looks."""

    name: str
    sql: str
    whole: bool = False


@dataclass(frozen=True, slots=True)
class Finding:
    """One broken invariant with its offending rows (at most FINDINGS_SHOWN) and how many there were."""

    invariant: str
    count: int
    rows: tuple[dict[str, Any], ...]


@dataclass(frozen=True, slots=True)
class Report:
    transfer_id: int
    request_id: int
    since_transfer_id: int
    balances: dict[int, int]
    findings: tuple[Finding, ...]
    unknown_holds: int

    @property
    def wallets(self) -> set[int]:
        """Ids of the accounts that the findings name; what is no wallet among them cannot be frozen and need not be."""
        named = {row.get(column) for finding in self.findings for row in finding.rows for column in ("account_id", "wallet_id")}
        return {account_id for account_id in named if isinstance(account_id, int)}

    @property
    def clean(self) -> bool:
        return not self.findings


# Read in one snapshot, whole: these tables stay small (accounts, open holds).
AT_ONCE = {
    "1 the balances of all accounts sum to 0": """
        select sum(balance_nanos) as sum_nanos from accounts having sum(balance_nanos) <> 0
    """,
    "3a held = sum of the open holds, per wallet": """
        select a.id as account_id, a.held_nanos, coalesce(sum(o.amount), 0) as open_nanos
        from accounts as a
        left join (
          select h.wallet_id, h.amount_nanos
            + coalesce((select sum(c.delta_nanos) from hold_changes as c where c.hold_id = h.id), 0) as amount
          from holds as h where h.state = 'open'
        ) as o on o.wallet_id = a.id
        group by a.id
        having a.held_nanos <> coalesce(sum(o.amount), 0)
    """,
    "3b balance ≥ held ≥ 0, per wallet": """
        select id as account_id, balance_nanos, held_nanos from accounts
        where kind = 'wallet' and not (held_nanos >= 0 and balance_nanos >= held_nanos)
    """,
    "6 no open hold of an older boot": """
        select id as request_id, wallet_id, boot_id from holds
        where state = 'open' and boot_id < (select max(id) from boots)
    """,
    "5c what keeps the ledger append-only and each movement single is in place": """
        select expected.value as missing
        from json_each('["transfers_once", "transfers_no_update", "transfers_no_delete", "usage_no_update", "usage_no_delete",
          "prices_no_update", "prices_no_delete", "hold_changes_no_update", "hold_changes_no_delete", "holds_no_delete",
          "holds_resolve_once", "audit_log_no_update", "audit_log_no_delete", "vouchers_once", "vouchers_no_delete",
          "invites_once", "invites_no_delete", "recovery_codes_once", "sign_in_links_once",
          "sign_in_links_no_delete"]') as expected
        where expected.value not in (select name from sqlite_schema)
    """,
    "5d the transfers reach to the latest checkpoint": """
        select max(transfer_id) as checkpoint_transfer_id, (select max(id) from transfers) as last_transfer_id from checkpoints
        having max(transfer_id) > (select coalesce(max(id), 0) from transfers)
    """,
    "10a each redeemed voucher and each used invite was credited to who has it": """
        select given.reference, given.user_id, given.amount_nanos, t.credit_account, t.amount_nanos as credited_nanos
        from (
          select 'voucher:' || id as reference, redeemed_by as user_id, amount_nanos from vouchers where redeemed_by is not null
          union all
          select 'invite:' || id, used_by, credit_nanos from invites where used_by is not null and credit_nanos > 0
        ) as given
        join accounts as a on a.user_id = given.user_id
        left join transfers as t on t.kind = 'promo' and t.reference = given.reference
        where t.id is null or t.credit_account <> a.id or t.debit_account <> 2 or t.amount_nanos <> given.amount_nanos
    """,
    "6b progress only of open holds": """
        select p.hold_id as request_id from progress as p left join holds as h on h.id = p.hold_id and h.state = 'open'
        where h.id is null
    """,
}

# Per slice of request ids (:low < id ≤ :high).
PER_REQUESTS = {
    "4a cost = settle + overrun, per usage row": """
        select u.request_id, u.cost_nanos, u.paid_nanos, coalesce(s.amount_nanos, 0) as settle_nanos,
          coalesce(o.amount_nanos, 0) as overrun_nanos
        from usage as u
        left join transfers as s on s.kind = 'settle' and s.reference = request_text(u.request_id)
        left join transfers as o on o.kind = 'overrun' and o.reference = request_text(u.request_id)
        where u.request_id > :low and u.request_id <= :high
          and (u.cost_nanos <> coalesce(s.amount_nanos, 0) + coalesce(o.amount_nanos, 0)
            or u.paid_nanos <> coalesce(s.amount_nanos, 0)
            or s.debit_account <> u.wallet_id or s.credit_account <> 3 or o.debit_account <> 4 or o.credit_account <> 3)
    """,
    "4b settled hold ⇔ exactly one usage row of the same wallet and key": """
        select h.id as request_id, h.state, h.wallet_id, u.wallet_id as usage_wallet_id
        from holds as h left join usage as u on u.request_id = h.id
        where h.id > :low and h.id <= :high
          and ((h.state = 'settled') <> (u.request_id is not null) or u.wallet_id <> h.wallet_id or u.key_id <> h.key_id)
    """,
    "4c usage belongs to a hold": """
        select u.request_id from usage as u left join holds as h on h.id = u.request_id
        where u.request_id > :low and u.request_id <= :high and h.id is null
    """,
}

# Per slice of transfer ids.
PER_TRANSFERS = {
    "4d no settle, overrun or collection without its settled or void hold": """
        select t.id as transfer_id, t.kind, t.reference from transfers as t
        left join holds as h on h.id = request_number(t.reference)
        where t.id > :low and t.id <= :high and t.kind in ('settle', 'overrun', 'overrun_collected')
          and (h.id is null or h.state = 'open' or (h.state = 'void' and t.kind <> 'overrun_collected')
            or (t.kind <> 'overrun' and t.debit_account <> h.wallet_id) or t.reference <> request_text(h.id))
    """,
    "10b no credit of a voucher or an invite without one that was redeemed": """
        select t.id as transfer_id, t.reference, t.credit_account as account_id from transfers as t
        left join vouchers as v
          on v.id = cast(substr(t.reference, 9) as integer) and t.reference = 'voucher:' || v.id and v.redeemed_by is not null
        left join invites as i
          on i.id = cast(substr(t.reference, 8) as integer) and t.reference = 'invite:' || i.id and i.used_by is not null
        where t.id > :low and t.id <= :high and t.kind = 'promo' and (t.reference like 'voucher:%' or t.reference like 'invite:%')
          and v.id is null and i.id is null
    """,
    "7b refunds go to the wallet that paid, and are no more than it paid, per request": BEYOND_PAID,
    "5a transfer ids are gapless": """
        select :low + 1 as from_id, :high as to_id, count(*) as transfers from transfers where id > :low and id <= :high
        having count(*) <> :high - :low
    """,
    "5b each (kind, reference) at most once": """
        select t.id as transfer_id, t.kind, t.reference from transfers as t
        where t.id > :low and t.id <= :high
          and exists (select 1 from transfers as e where e.kind = t.kind and e.reference = t.reference and e.id <> t.id)
    """,
}

_MOVEMENTS = """
    select account, sum(amount) from (
      select debit_account as account, -amount_nanos as amount from transfers where id > :low and id <= :high
      union all
      select credit_account, amount_nanos from transfers where id > :low and id <= :high
    ) group by account
"""


# Overruns less what was collected of them, by the wallet of the request they belong to.
_OWED = """
    select h.wallet_id, sum(case t.kind when 'overrun' then t.amount_nanos else -t.amount_nanos end)
    from transfers as t join holds as h on h.id = request_number(t.reference)
    where t.id > :low and t.id <= :high and t.kind in ('overrun', 'overrun_collected')
    group by h.wallet_id
"""


BALANCES = "2 balance = credits − debits, per account"
OWED = "2b owed = overruns − collected, per wallet"
FOREIGN_KEYS = "7 foreign keys"
_FOREIGN_KEYS = "pragma foreign_key_check"


def invariants() -> list[Invariant]:
    """All that an audit proves, by number. The sums of two are counted by slices and compared with what accounts say."""
    compared = (
        Invariant(BALANCES, _MOVEMENTS),
        Invariant(OWED, _OWED, whole=True),
        Invariant(FOREIGN_KEYS, _FOREIGN_KEYS, whole=True),
    )
    queried = (Invariant(name, sql) for queries in (AT_ONCE, PER_REQUESTS, PER_TRANSFERS) for name, sql in queries.items())
    return sorted((*compared, *queried), key=lambda each: _in_order(each.name))


def audit(conn: sqlite3.Connection, *, since_checkpoint: bool = False, pause: Callable[[], None] = lambda: None) -> Report:
    """Run the invariants on a read-only connection; `pause` is called between slices."""
    add_functions(conn)
    findings: list[Finding] = []
    owed: Counter[int] = Counter()
    conn.execute("begin")
    try:
        start_transfer, start_request, balances = _start(conn, since_checkpoint)
        end_transfer = _number(conn, "select coalesce(max(id), 0) from transfers")
        # Usage that belongs to no hold at all may stand above the highest one.
        end_request = _number(
            conn, "select max(coalesce((select max(id) from holds), 0), coalesce((select max(request_id) from usage), 0))"
        )
        # A hold that is still open, or opens late, will be judged by the next audit.
        settled_request = _number(conn, "select coalesce(min(id) - 1, ?) from holds where state = 'open'", end_request)
        settled_request = max(0, settled_request - lowest_id(LATE_MS))
        unknown = _number(
            conn, "select count(*) from holds where state = 'void' and reason = 'unknown' and id > ?", start_request
        )
        accounts = conn.execute("select id, balance_nanos, owed_nanos from accounts").fetchall()
        for name, sql in AT_ONCE.items():
            _run(conn, name, sql, {}, findings)
    finally:
        conn.execute("commit")
    for bounds in _slices(
        conn, "select id from transfers where id > ? order by id limit 1 offset ?", start_transfer, end_transfer
    ):
        balances.update(dict(conn.execute(_MOVEMENTS, bounds).fetchall()))
        if not since_checkpoint:
            owed.update(dict(conn.execute(_OWED, bounds).fetchall()))
        for name, sql in PER_TRANSFERS.items():
            _run(conn, name, sql, bounds, findings)
        pause()
    for bounds in _slices(conn, "select id from holds where id > ? order by id limit 1 offset ?", start_request, end_request):
        for name, sql in PER_REQUESTS.items():
            _run(conn, name, sql, bounds, findings)
        pause()
    _compare(BALANCES, {row[0]: row[1] for row in accounts}, balances, findings)
    if not since_checkpoint:
        _compare(OWED, {row[0]: row[2] for row in accounts}, owed, findings)
        _run(conn, FOREIGN_KEYS, _FOREIGN_KEYS, {}, findings)
    stored = {row[0]: row[1] for row in accounts}
    return Report(end_transfer, settled_request, start_transfer, stored, _merged(findings), unknown)


def store_checkpoint(conn: sqlite3.Connection, report: Report, at_ms: int) -> None:
    """Remember a clean audit: the next ones start where it ended. For the writer's connection."""
    assert report.clean
    conn.execute(
        """
        insert into checkpoints (transfer_id, request_id, at_ms, balances) values (?, ?, ?, ?)
        on conflict (transfer_id) do update set request_id = excluded.request_id, at_ms = excluded.at_ms
        """,
        (report.transfer_id, report.request_id, at_ms, json.dumps(report.balances)),
    )
    conn.execute(
        "delete from checkpoints where transfer_id not in (select transfer_id from checkpoints order by 1 desc limit 30)"
    )


# ── leaves ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def _in_order(name: str) -> tuple[int, str]:
    """2b stands before 10a."""
    number = name.partition(" ")[0]
    return int(number.rstrip("abcdefgh")), number


def _start(conn: sqlite3.Connection, since_checkpoint: bool) -> tuple[int, int, Counter[int]]:
    """(transfer id, request id, balances) to start from."""
    if since_checkpoint:
        row = conn.execute(
            "select transfer_id, request_id, balances from checkpoints order by transfer_id desc limit 1"
        ).fetchone()
        if row is not None:
            return row[0], row[1], Counter({int(account): balance for account, balance in json.loads(row[2]).items()})
    return 0, 0, Counter()


def _number(conn: sqlite3.Connection, sql: str, *parameters: int) -> int:
    return int(conn.execute(sql, parameters).fetchone()[0])


def _slices(conn: sqlite3.Connection, nth_id: str, low: int, end: int) -> Iterator[dict[str, int]]:
    """(low, high] ranges of SLICE_ROWS rows up to `end`; ids may be sparse."""
    while low < end:
        row = conn.execute(nth_id, (low, SLICE_ROWS - 1)).fetchone()
        high = end if row is None else min(row[0], end)
        yield {"low": low, "high": high}
        low = high


def _run(conn: sqlite3.Connection, name: str, sql: str, bounds: Mapping[str, int], findings: list[Finding]) -> None:
    cursor = conn.execute(sql, bounds)
    rows = cursor.fetchall()
    if rows:
        columns = [column[0] for column in cursor.description]
        shown = tuple(dict(zip(columns, row, strict=True)) for row in rows[:FINDINGS_SHOWN])
        findings.append(Finding(name, len(rows), shown))


def _compare(name: str, stored: Mapping[int, int], counted: Mapping[int, int], findings: list[Finding]) -> None:
    rows = [
        {"account_id": account_id, "stored_nanos": stored.get(account_id, 0), "counted_nanos": counted.get(account_id, 0)}
        for account_id in sorted({*stored, *counted})
        if stored.get(account_id, 0) != counted.get(account_id, 0)
    ]
    if rows:
        findings.append(Finding(name, len(rows), tuple(rows[:FINDINGS_SHOWN])))


def _merged(findings: list[Finding]) -> tuple[Finding, ...]:
    """One finding per invariant, whatever number of slices it was found in."""
    merged: dict[str, Finding] = {}
    for finding in findings:
        earlier = merged.get(finding.invariant, Finding(finding.invariant, 0, ()))
        rows = (earlier.rows + finding.rows)[:FINDINGS_SHOWN]
        merged[finding.invariant] = Finding(finding.invariant, earlier.count + finding.count, rows)
    return tuple(merged.values())
