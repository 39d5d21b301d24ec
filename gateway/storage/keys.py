"""Keys at rest: SQL only. A secret never comes here, only its hash and the hint that people are shown."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable
from ipaddress import ip_network
from typing import Any

from gateway.access import Key, Own
from gateway.limits import Terms
from gateway.money import Factor

# The columns of a key's own limits are named as in Terms; null is "as the plan has it".
LIMITS = Terms.__slots__
_OWN = (*LIMITS, "models", "addresses", "factor")
_SELECT = f"""
    select k.id, k.root_id, k.user_id, u.name, a.id, k.name, k.hint, u.plan, k.expires_at_ms, k.revoked_at_ms,
      k.hash, k.created_at_ms, k.rotated_from, u.disabled, {", ".join(f"k.{column}" for column in _OWN)}
    from keys as k join users as u on u.id = k.user_id join accounts as a on a.user_id = u.id
"""  # noqa: S608 (our own column names)
_FIRST_OWN = 14


def insert_key(
    conn: sqlite3.Connection,
    *,
    user_id: int,
    name: str,
    secret_hash: bytes,
    hint: str,
    own: Own,
    expires_at_ms: int | None,
    rotated_from: int | None,
    at_ms: int,
) -> int:
    columns = ("user_id", "name", "hash", "hint", "expires_at_ms", "rotated_from", "created_at_ms", *_OWN)
    values = (user_id, name, secret_hash, hint, expires_at_ms, rotated_from, at_ms, *_values(own))
    key_id = int(
        conn.execute(
            f"insert into keys ({', '.join(columns)}) values ({', '.join('?' * len(columns))}) returning id",  # noqa: S608
            values,
        ).fetchone()[0]
    )
    conn.execute(
        "update keys set root_id = coalesce((select root_id from keys where id = ?), id) where id = ?", (rotated_from, key_id)
    )
    return key_id


def update_key(conn: sqlite3.Connection, key_id: int, name: str, own: Own, expires_at_ms: int | None) -> None:
    columns = ("name", "expires_at_ms", *_OWN)
    conn.execute(
        f"update keys set {', '.join(f'{column} = ?' for column in columns)} where id = ?",  # noqa: S608
        (name, expires_at_ms, *_values(own), key_id),
    )


def load_live_keys(conn: sqlite3.Connection, at_ms: int) -> list[tuple[bytes, Key]]:
    """Every key that is not revoked and whose user is not disabled, with its hash; expired ones too, to say so."""
    rows = conn.execute(
        f"{_SELECT} where u.disabled = 0 and (k.revoked_at_ms is null or k.revoked_at_ms > ?)", (at_ms,)
    ).fetchall()
    return [(row[10], _key(row)) for row in rows]


def load_user_keys(conn: sqlite3.Connection, user_id: int, at_ms: int) -> list[tuple[bytes, Key]]:
    """As `load_live_keys`, for one user."""
    rows = conn.execute(
        f"{_SELECT} where k.user_id = ? and u.disabled = 0 and (k.revoked_at_ms is null or k.revoked_at_ms > ?)", (user_id, at_ms)
    ).fetchall()
    return [(row[10], _key(row)) for row in rows]


def has_key_named(conn: sqlite3.Connection, user_id: int, name: str) -> bool:
    """Whether the user ever had a key of this name, a dead one too."""
    return conn.execute("select 1 from keys where user_id = ? and name = ?", (user_id, name)).fetchone() is not None


def find_key(conn: sqlite3.Connection, key_id: int) -> tuple[bytes, Key] | None:
    row = conn.execute(f"{_SELECT} where k.id = ?", (key_id,)).fetchone()
    return None if row is None else (row[10], _key(row))


def list_keys(conn: sqlite3.Connection, user_id: int) -> list[tuple[Key, dict[str, Any]]]:
    """Every key that the user ever had, each with when it was made and from which."""
    rows = conn.execute(f"{_SELECT} where k.user_id = ? order by k.id", (user_id,)).fetchall()
    return [(_key(row), {"created_at_ms": row[11], "rotated_from": row[12]}) for row in rows]


def find_successor(conn: sqlite3.Connection, root_id: int, key_id: int) -> int | None:
    """The key that a rotation put in the place of that one."""
    row = conn.execute("select id from keys where root_id = ? and rotated_from = ?", (root_id, key_id)).fetchone()
    return None if row is None else int(row[0])


def list_names(conn: sqlite3.Connection, user_id: int, key_id: int | None, limit: int) -> list[tuple[int, str, str]]:
    """(id, name, hint) of the keys of a user that were made last, those that were not revoked before all others; `key_id` is
    among them if it is theirs."""
    return conn.execute(
        """
        select id, name, hint from keys
        where user_id = ?
        order by id = ? desc, revoked_at_ms is null desc, id desc
        limit ?
        """,
        (user_id, key_id, limit),
    ).fetchall()


def count_keys(conn: sqlite3.Connection, user_id: int, at_ms: int, since_ms: int) -> tuple[int, int]:
    """How many keys of the user live, and how many were made since."""
    live, made = conn.execute(
        """
        select
          coalesce(sum((revoked_at_ms is null or revoked_at_ms > :now) and (expires_at_ms is null or expires_at_ms > :now)), 0),
          coalesce(sum(created_at_ms > :since), 0)
        from keys where user_id = :user
        """,
        {"user": user_id, "now": at_ms, "since": since_ms},
    ).fetchone()
    return int(live), int(made)


def find_newest_live(conn: sqlite3.Connection, user_id: int, at_ms: int) -> tuple[str, str] | None:
    """(name, hint) of the key that the user made last, of those that live and were not replaced."""
    row: tuple[str, str] | None = conn.execute(
        """
        select name, hint from keys
        where user_id = :user and revoked_at_ms is null and (expires_at_ms is null or expires_at_ms > :now)
        order by id desc
        limit 1
        """,
        {"user": user_id, "now": at_ms},
    ).fetchone()
    return row


def last_used(conn: sqlite3.Connection, key_ids: Iterable[int]) -> dict[int, int]:
    """When the latest request of each key came, as far as there was one."""
    return dict(
        conn.execute(
            """
            select k.value, h.opened_at_ms
            from json_each(?) as k
            join holds as h on h.id = (select max(id) from holds where key_id = k.value)
            """,
            (json.dumps(list(key_ids)),),
        ).fetchall()
    )


def revoke_key(conn: sqlite3.Connection, key_id: int, at_ms: int) -> bool:
    """Dead from `at_ms` on; false if it was to die earlier already."""
    return (
        conn.execute(
            "update keys set revoked_at_ms = ? where id = ? and (revoked_at_ms is null or revoked_at_ms > ?)",
            (at_ms, key_id, at_ms),
        ).rowcount
        == 1
    )


def _values(own: Own) -> tuple[Any, ...]:
    """In the order of `_OWN`."""
    limits = dict(own.limits)
    models = None if own.models is None else json.dumps(sorted(own.models))
    addresses = None if own.addresses is None else json.dumps([str(network) for network in own.addresses])
    return (*(limits.get(name) for name in LIMITS), models, addresses, str(own.factor))


def _key(row: tuple[Any, ...]) -> Key:
    key_id, root_id, user_id, user_name, wallet_id, name, hint, plan, expires_at_ms, revoked_at_ms = row[:10]
    *limits, models, addresses, factor = row[_FIRST_OWN:]
    own = Own(
        limits=tuple((limit, value) for limit, value in zip(LIMITS, limits, strict=True) if value is not None),
        models=None if models is None else frozenset(json.loads(models)),
        addresses=None if addresses is None else tuple(ip_network(text) for text in json.loads(addresses)),
        factor=Factor.parse(factor),
    )
    return Key(key_id, root_id, user_id, user_name, wallet_id, name, hint, plan, own, expires_at_ms, revoked_at_ms)
