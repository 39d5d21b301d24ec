"""Vouchers at rest: SQL only. A code never comes here, only its hash and the hint that people are shown."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from typing import Any

_COLUMNS = (
    *("id", "batch", "hint", "amount_nanos", "created_by", "created_at_ms", "expires_at_ms", "voided_at_ms", "redeemed_by"),
    "redeemed_at_ms",
)
_SELECT = f"""
    select {", ".join(f"v.{column}" for column in _COLUMNS)}, u.name
    from vouchers as v left join users as u on u.id = v.redeemed_by
"""  # noqa: S608 (our own column names)


def insert_vouchers(
    conn: sqlite3.Connection,
    batch: str,
    codes: Iterable[tuple[bytes, str]],
    amount_nanos: int,
    created_by: str,
    at_ms: int,
    expires_at_ms: int | None,
) -> list[int]:
    """Their ids, in the order of `codes` (hash, hint)."""
    return [
        int(
            conn.execute(
                """
                insert into vouchers (batch, hash, hint, amount_nanos, created_by, created_at_ms, expires_at_ms)
                values (?, ?, ?, ?, ?, ?, ?)
                returning id
                """,
                (batch, code_hash, hint, amount_nanos, created_by, at_ms, expires_at_ms),
            ).fetchone()[0]
        )
        for code_hash, hint in codes
    ]


def has_batch(conn: sqlite3.Connection, batch: str) -> bool:
    return conn.execute("select 1 from vouchers where batch = ? limit 1", (batch,)).fetchone() is not None


def redeem(conn: sqlite3.Connection, voucher_id: int, user_id: int, at_ms: int) -> bool:
    """Compare and swap: false if it was redeemed or voided before, or has expired."""
    return (
        conn.execute(
            """
            update vouchers set redeemed_by = :user_id, redeemed_at_ms = :at_ms
            where id = :id and redeemed_at_ms is null and voided_at_ms is null
              and (expires_at_ms is null or expires_at_ms > :at_ms)
            """,
            {"id": voucher_id, "user_id": user_id, "at_ms": at_ms},
        ).rowcount
        == 1
    )


def void(conn: sqlite3.Connection, at_ms: int, *, voucher_id: int | None = None, batch: str | None = None) -> int:
    """How many were voided: those that were neither redeemed nor void."""
    return conn.execute(
        """
        update vouchers set voided_at_ms = ?
        where redeemed_at_ms is null and voided_at_ms is null and (id = ? or batch = ?)
        """,
        (at_ms, voucher_id, batch),
    ).rowcount


def find_by_code(conn: sqlite3.Connection, code_hash: bytes) -> dict[str, Any] | None:
    row = conn.execute(f"{_SELECT} where v.hash = ?", (code_hash,)).fetchone()
    return None if row is None else _told(row)


def find_voucher(conn: sqlite3.Connection, voucher_id: int) -> dict[str, Any] | None:
    row = conn.execute(f"{_SELECT} where v.id = ?", (voucher_id,)).fetchone()
    return None if row is None else _told(row)


def list_vouchers(conn: sqlite3.Connection, *, batch: str | None, before_id: int, limit: int) -> list[dict[str, Any]]:
    """The newest below an id, of one batch or of all."""
    rows = conn.execute(
        f"{_SELECT} where v.id < :before and (:batch is null or v.batch = :batch) order by v.id desc limit :limit",
        {"before": before_id, "batch": batch, "limit": limit},
    ).fetchall()
    return [_told(row) for row in rows]


def list_batches(conn: sqlite3.Connection, batch: str | None = None) -> list[dict[str, Any]]:
    """Newest first, or the one that is named; each voucher of a batch stands in one of its three counts, `open` whether it has
    expired or not."""
    columns = (
        *("batch", "first_voucher_id", "created_by", "created_at_ms", "expires_at_ms", "amount_nanos"),
        *("redeemed", "voided", "open"),
    )
    rows = conn.execute(
        """
        select batch, min(id), min(created_by), min(created_at_ms), min(expires_at_ms), min(amount_nanos),
          count(redeemed_at_ms), count(voided_at_ms), count(*) filter (where redeemed_at_ms is null and voided_at_ms is null)
        from vouchers where batch = coalesce(?, batch) group by batch order by min(id) desc
        """,
        (batch,),
    ).fetchall()
    return [dict(zip(columns, row, strict=True)) for row in rows]


def _told(row: tuple[Any, ...]) -> dict[str, Any]:
    """`redeemed_by` is told by name."""
    return {**dict(zip(_COLUMNS, row[:-1], strict=True)), "redeemed_by": row[-1]}
