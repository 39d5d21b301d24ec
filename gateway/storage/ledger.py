"""The ledger's hot rows, written set-wise: one statement per table and batch, one grouped update of all accounts.

    holds ← admitted        hold_changes ← raised, lowered        holds ← resolved
    transfers, usage, attempts, request_details ← resolutions     progress ← running streams
    accounts ← Σ per account, judged by CHECK (balance ≥ held ≥ 0)

Each statement through `json_each(?)` costs the loop two hand-overs of the interpreter lock, however many rows it carries. Without
the grouping, two holds of one wallet in a batch would apply once, silently. Row counts must match: where they do not, the book
and the database disagree, and `Mismatch` says so.
"""

from __future__ import annotations

import json
import sqlite3
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import orjson

from gateway.ids import render_id
from gateway.storage import rollups
from gateway.storage.rows import HoldChangeRow, HoldRow, ProgressRow, ResolutionRow, Row, Served

# Accounts that every database has, by the ids that migration 0001 gave them.
EXTERNAL, PROMO, REVENUE, LOSS = 1, 2, 3, 4


class Mismatch(Exception):
    """A guard in a statement held rows back that the book had admitted: our bug, never the world's doing."""


class AccountDeltas:
    """Σ of what a batch does to each account."""

    def __init__(self) -> None:
        self._by_account: dict[int, list[int]] = defaultdict(lambda: [0, 0, 0])

    def add(self, account_id: int, *, balance: int = 0, held: int = 0, owed: int = 0) -> None:
        deltas = self._by_account[account_id]
        deltas[0] += balance
        deltas[1] += held
        deltas[2] += owed

    def apply(self, conn: sqlite3.Connection) -> None:
        rows = [[account_id, *deltas] for account_id, deltas in self._by_account.items() if any(deltas)]
        if rows:
            _each(
                conn,
                """
                update accounts set
                  balance_nanos = balance_nanos + d.balance,
                  held_nanos = held_nanos + d.held,
                  owed_nanos = owed_nanos + d.owed
                from (
                  select value ->> 0 as id, value ->> 1 as balance, value ->> 2 as held, value ->> 3 as owed
                  from json_each(?)
                ) as d
                where accounts.id = d.id
                """,
                rows,
            )


class LedgerWriter:
    """Writes batches on the writer's connection, inside its transaction. Transfer ids are gapless, so they are given here."""

    def __init__(self, conn: sqlite3.Connection, boot_id: int) -> None:
        self.conn = conn
        self._boot_id = boot_id
        self._price_ids: dict[str, int] = {}
        self._next_transfer_id: int | None = None  # read anew when it is next needed, as the next
        self._rolled_up_to: int | None = None

    def forget(self) -> None:
        """After a rollback: what was interned or numbered in the transaction is not there. Asks nothing of a broken disk."""
        self._price_ids.clear()
        self._next_transfer_id = None
        self._rolled_up_to = None

    def write(self, rows: Sequence[Row]) -> None:
        """All of `rows`, in their order of meaning. Raises Mismatch or sqlite3.Error; the caller rolls back."""
        holds: list[HoldRow] = []
        changes: list[HoldChangeRow] = []
        progress: dict[int, ProgressRow] = {}
        resolutions: list[ResolutionRow] = []
        for row in rows:
            if type(row) is HoldRow:
                holds.append(row)
            elif type(row) is ResolutionRow:
                resolutions.append(row)
                progress.pop(row.resolution.hold_id, None)
            elif type(row) is HoldChangeRow:
                changes.append(row)
            elif type(row) is ProgressRow:
                progress[row.request_id] = row
        deltas = AccountDeltas()
        if holds:
            self._insert_holds(holds, deltas)
        if changes:
            self._insert_changes(changes, deltas)
        if resolutions:
            self._resolve(resolutions, deltas)
        if progress:
            self._upsert_progress(list(progress.values()))
        deltas.apply(self.conn)

    def post(self, at_ms: int, kind: str, debit: int, credit: int, amount_nanos: int, reference: str, note: str = "") -> int:
        """One rare transfer (deposit, withdrawal) with its accounts, in the caller's transaction; returns its id."""
        deltas = AccountDeltas()
        transfer = self._transfer(deltas, at_ms, kind, debit, credit, amount_nanos, reference, note)
        _each(self.conn, _INSERT_TRANSFERS, [transfer])
        deltas.apply(self.conn)
        return int(transfer[0])

    def roll_up(self, until_id: int) -> bool:
        """Add the next slice of usage up to that request to the roll-ups; whether there is more."""
        self._rolled_up_to, more = rollups.roll_up(self.conn, until_id)
        return more

    # ── leaves ───────────────────────────────────────────────────────────────────────────────────────────────────────

    def _insert_holds(self, holds: list[HoldRow], deltas: AccountDeltas) -> None:
        for hold in holds:
            deltas.add(hold.wallet_id, held=hold.amount_nanos)
        _each(
            self.conn,
            """
            insert into holds (id, wallet_id, key_id, boot_id, model, amount_nanos, opened_at_ms, state)
            select value ->> 0, value ->> 1, value ->> 2, value ->> 3, value ->> 4, value ->> 5, value ->> 6, 'open'
            from json_each(?)
            """,
            [[h.request_id, h.wallet_id, h.key_id, self._boot_id, h.model, h.amount_nanos, h.at_ms] for h in holds],
        )

    def _insert_changes(self, changes: list[HoldChangeRow], deltas: AccountDeltas) -> None:
        for change in changes:
            deltas.add(change.wallet_id, held=change.delta_nanos)
        _each(
            self.conn,
            """
            insert into hold_changes (hold_id, number, delta_nanos)
            select value ->> 0, value ->> 1, value ->> 2
            from json_each(?) join holds on holds.id = value ->> 0 and holds.wallet_id = value ->> 3
            where holds.state = 'open'
            """,
            [[c.request_id, c.number, c.delta_nanos, c.wallet_id] for c in changes],
        )

    def _upsert_progress(self, progress: list[ProgressRow]) -> None:
        _each(
            self.conn,
            """
            insert into progress (hold_id, at_ms, upstream, upstream_model, price_id, input_tokens, output_tokens,
              cache_write_5m_tokens, cache_write_1h_tokens, cache_read_tokens, web_searches, speed, geography, service_tier,
              cost_nanos)
            select value ->> 0, value ->> 1, value ->> 2, value ->> 3, value ->> 4, value ->> 5, value ->> 6,
              value ->> 7, value ->> 8, value ->> 9, value ->> 10, value ->> 11, value ->> 12, value ->> 13, value ->> 14
            from json_each(?) join holds on holds.id = value ->> 0
            where holds.state = 'open'
            on conflict (hold_id) do update set
              at_ms = excluded.at_ms, upstream = excluded.upstream, upstream_model = excluded.upstream_model,
              price_id = excluded.price_id, input_tokens = excluded.input_tokens, output_tokens = excluded.output_tokens,
              cache_write_5m_tokens = excluded.cache_write_5m_tokens, cache_write_1h_tokens = excluded.cache_write_1h_tokens,
              cache_read_tokens = excluded.cache_read_tokens, web_searches = excluded.web_searches,
              speed = excluded.speed, geography = excluded.geography, service_tier = excluded.service_tier,
              cost_nanos = excluded.cost_nanos
            """,
            [[row.request_id, row.at_ms, *self._served(row.served, row.at_ms)] for row in progress],
        )

    def _resolve(self, rows: list[ResolutionRow], deltas: AccountDeltas) -> None:
        transfers: list[list[Any]] = []
        usage: list[list[Any]] = []
        for row in rows:
            done = row.resolution
            assert done.settled == (row.served is not None), "settled ⇔ a usage row"
            assert row.served is None or row.served.cost_nanos == done.pay_nanos + done.overrun_nanos
            reference = request_reference(done.hold_id)
            deltas.add(done.wallet_id, held=-done.released_nanos)
            if done.pay_nanos:
                transfers.append(self._transfer(deltas, row.at_ms, "settle", done.wallet_id, REVENUE, done.pay_nanos, reference))
            if done.overrun_nanos:
                transfers.append(self._transfer(deltas, row.at_ms, "overrun", LOSS, REVENUE, done.overrun_nanos, reference))
                deltas.add(done.wallet_id, owed=done.overrun_nanos)
            if done.collected_nanos:
                amount = done.collected_nanos
                transfers.append(self._transfer(deltas, row.at_ms, "overrun_collected", done.wallet_id, LOSS, amount, reference))
                deltas.add(done.wallet_id, owed=-amount)
            if row.served is not None:
                usage.append(
                    [
                        *(done.hold_id, row.at_ms, done.wallet_id, row.key_id, row.model),
                        *self._served(row.served, row.at_ms),
                        *(done.pay_nanos, row.source, row.flags),
                    ]
                )
        self._close_holds(rows)
        if transfers:
            _each(self.conn, _INSERT_TRANSFERS, transfers)
        if usage:
            _each(self.conn, _INSERT_USAGE, usage)
        self._insert_detail(rows)
        if usage:
            self._add_to_rollups([row[0] for row in usage])
        if seen := [row.resolution.hold_id for row in rows if row.had_progress]:
            self.conn.execute("delete from progress where hold_id in (select value from json_each(?))", (_json(seen),))

    def _close_holds(self, rows: list[ResolutionRow]) -> None:
        _each(
            self.conn,
            """
            update holds set state = r.state, reason = r.reason, resolved_at_ms = r.at_ms
            from (
              select value ->> 0 as id, value ->> 1 as state, value ->> 2 as reason, value ->> 3 as at_ms, value ->> 4 as amount,
                value ->> 5 as wallet_id
              from json_each(?)
            ) as r
            where holds.id = r.id and holds.wallet_id = r.wallet_id and holds.state = 'open'
              and holds.amount_nanos
                + coalesce((select sum(c.delta_nanos) from hold_changes as c where c.hold_id = holds.id), 0) = r.amount
            """,
            [
                [
                    row.resolution.hold_id,
                    "settled" if row.resolution.settled else "void",
                    row.reason,
                    row.at_ms,
                    row.resolution.released_nanos,
                    row.resolution.wallet_id,
                ]
                for row in rows
            ],
        )

    def _insert_detail(self, rows: list[ResolutionRow]) -> None:
        attempts = [
            [
                *(row.resolution.hold_id, a.number, a.upstream, a.upstream_model, a.status, a.reason),
                *(a.started_at_ms, a.duration_ms, a.cost_nanos, a.upstream_request_id),
            ]
            for row in rows
            for a in row.attempts
        ]
        if attempts:
            _each(
                self.conn,
                """
                insert into attempts (request_id, number, upstream, upstream_model, status, reason,
                  started_at_ms, duration_ms, cost_nanos, upstream_request_id)
                select value ->> 0, value ->> 1, value ->> 2, value ->> 3, value ->> 4, value ->> 5,
                  value ->> 6, value ->> 7, value ->> 8, value ->> 9
                from json_each(?)
                """,
                attempts,
            )
        _each(
            self.conn,
            """
            insert into request_details (request_id, stream, status, session, agent, address,
              admitted_ms, first_byte_ms, total_ms)
            select value ->> 0, value ->> 1, value ->> 2, value ->> 3, value ->> 4, value ->> 5,
              value ->> 6, value ->> 7, value ->> 8
            from json_each(?)
            """,
            [
                [
                    *(row.resolution.hold_id, int(row.detail.stream), row.detail.status, row.detail.session, row.detail.agent),
                    *(row.detail.address, row.detail.admitted_ms, row.detail.first_byte_ms, row.detail.total_ms),
                ]
                for row in rows
            ],
        )

    def _add_to_rollups(self, request_ids: list[int]) -> None:
        """What comes after the roll-ups have passed its id (it ran long) is added to them at once: so they are exact, always."""
        if self._rolled_up_to is None:
            self._rolled_up_to = rollups.mark(self.conn)
        if late := [request_id for request_id in request_ids if request_id <= self._rolled_up_to]:
            rollups.add(self.conn, late)

    def _transfer(
        self, deltas: AccountDeltas, at_ms: int, kind: str, debit: int, credit: int, amount: int, reference: str, note: str = ""
    ) -> list[Any]:
        assert type(amount) is int and amount > 0 and debit != credit
        transfer_id = self._next_transfer_id or next_transfer_id(self.conn)
        self._next_transfer_id = transfer_id + 1
        deltas.add(debit, balance=-amount)
        deltas.add(credit, balance=amount)
        return [transfer_id, at_ms, kind, debit, credit, amount, reference, note]

    def _served(self, served: Served, at_ms: int) -> list[Any]:
        usage = served.usage
        return [
            *(served.upstream, served.upstream_model, self._price_id(served.terms, at_ms)),
            *(usage.input_tokens, usage.output_tokens, usage.cache_write_5m_tokens, usage.cache_write_1h_tokens),
            *(usage.cache_read_tokens, usage.web_searches, usage.speed, usage.geography),
            *(usage.service_tier, served.cost_nanos),
        ]

    def _price_id(self, terms: str, at_ms: int) -> int:
        price_id = self._price_ids.get(terms)
        if price_id is None:
            self.conn.execute("insert into prices (terms, at_ms) values (?, ?) on conflict (terms) do nothing", (terms, at_ms))
            price_id = int(self.conn.execute("select id from prices where terms = ?", (terms,)).fetchone()[0])
            self._price_ids[terms] = price_id
        return price_id


_INSERT_TRANSFERS = """
    insert into transfers (id, at_ms, kind, debit_account, credit_account, amount_nanos, reference, note)
    select value ->> 0, value ->> 1, value ->> 2, value ->> 3, value ->> 4, value ->> 5, value ->> 6, value ->> 7
    from json_each(?)
"""

_INSERT_USAGE = """
    insert into usage (request_id, at_ms, wallet_id, key_id, model, upstream, upstream_model, price_id,
      input_tokens, output_tokens, cache_write_5m_tokens, cache_write_1h_tokens, cache_read_tokens, web_searches,
      speed, geography, service_tier, cost_nanos, paid_nanos, source, flags)
    select value ->> 0, value ->> 1, value ->> 2, value ->> 3, value ->> 4, value ->> 5, value ->> 6, value ->> 7,
      value ->> 8, value ->> 9, value ->> 10, value ->> 11, value ->> 12, value ->> 13,
      value ->> 14, value ->> 15, value ->> 16, value ->> 17, value ->> 18, value ->> 19, value ->> 20
    from json_each(?)
"""


def request_reference(request_id: int) -> str:
    """The reference under which a request's transfers stand; unique per kind."""
    return render_id(request_id)


def next_transfer_id(conn: sqlite3.Connection) -> int:
    return int(conn.execute("select coalesce(max(id), 0) + 1 from transfers").fetchone()[0])


def _json(rows: Sequence[Any]) -> str:
    try:
        return orjson.dumps(rows).decode()
    except TypeError:
        # A header's stray bytes (lone surrogates) become "?"; a number beyond 64 bits becomes a REAL, which STRICT refuses.
        return json.dumps(rows, ensure_ascii=False).encode(errors="replace").decode()


def _each(conn: sqlite3.Connection, sql: str, rows: Sequence[Any]) -> None:
    """Run `sql` over `rows` as JSON. Raises Mismatch unless exactly as many rows were touched."""
    touched = conn.execute(sql, (_json(rows),)).rowcount
    if touched != len(rows):
        raise Mismatch(f"{touched} of {len(rows)} rows: {' '.join(sql.split())[:60]}")
