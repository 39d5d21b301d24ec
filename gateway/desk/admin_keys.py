"""Admin keys: made, shown once, ended. In force, in memory, when an act returns.

They open the admin API and belong to no user; the database remembers who made them. A secret appears in the result of
`create_admin_key` and nowhere else.
"""

from __future__ import annotations

import sqlite3
from typing import Any

from gateway.access import hash_secret, hint_of, make_secret
from gateway.admins import AdminKey, admin_prefix
from gateway.desk.checks import NAME_CHARS_MAX, check_text
from gateway.desk.desk import Desk
from gateway.desk.jobs import whole
from gateway.desk.keys import KEY_ID_MAX
from gateway.errors import ClientError
from gateway.storage import admin_keys, audit_log
from gateway.storage.ledger import LedgerWriter
from gateway.storage.readonly import snapshot


@whole
async def create_admin_key(desk: Desk, actor: str, *, name: str) -> dict[str, Any]:
    """The result carries the secret."""
    check_text(name, "name", NAME_CHARS_MAX)
    at_ms = desk.clock.at_ms()
    prefix = admin_prefix(desk.key_prefix)
    secret = make_secret(prefix)
    hint = hint_of(prefix, secret)

    def job(ledger: LedgerWriter) -> AdminKey:
        key = admin_keys.insert_admin_key(ledger.conn, name, hash_secret(secret), hint, actor, at_ms)
        audit_log.record(
            ledger.conn, at_ms, actor, "admin_keys.create", f"admin-key:{key.id}", after={"name": name, "hint": hint}
        )
        return key

    key = await desk.writer.run(job)
    desk.admins.put(hash_secret(secret), key)
    return {"id": key.id, "name": name, "hint": hint, "created_by": actor, "created_at_ms": at_ms, "secret": secret}


@whole
async def revoke_admin_key(desk: Desk, actor: str, *, key_id: int) -> dict[str, Any]:
    """Dead when this returns. `changed` is false if it was dead before."""
    at_ms = desk.clock.at_ms()

    def job(ledger: LedgerWriter) -> tuple[bytes, AdminKey, int | None, bool]:
        secret_hash, key, revoked_at_ms = _get_admin_key(ledger.conn, key_id)
        changed = admin_keys.revoke_admin_key(ledger.conn, key_id, at_ms)
        if changed:
            after = {"revoked_at_ms": at_ms}
            audit_log.record(ledger.conn, at_ms, actor, "admin_keys.revoke", f"admin-key:{key_id}", after=after)
        return secret_hash, key, at_ms if changed else revoked_at_ms, changed

    secret_hash, key, revoked_at_ms, changed = await desk.writer.run(job)
    desk.admins.drop(secret_hash)
    return {"id": key.id, "name": key.name, "hint": key.hint, "revoked_at_ms": revoked_at_ms, "changed": changed}


def list_admin_keys(conn: sqlite3.Connection) -> list[dict[str, Any]]:
    """All that there ever were."""
    with snapshot(conn):
        return admin_keys.list_admin_keys(conn)


def show_admin_key(conn: sqlite3.Connection, *, key_id: int) -> dict[str, Any]:
    with snapshot(conn):
        _, key, revoked_at_ms = _get_admin_key(conn, key_id)
    return {"id": key.id, "name": key.name, "hint": key.hint, "revoked_at_ms": revoked_at_ms}


def _get_admin_key(conn: sqlite3.Connection, key_id: int) -> tuple[bytes, AdminKey, int | None]:
    found = admin_keys.find_admin_key(conn, key_id) if 0 < key_id <= KEY_ID_MAX else None
    if found is None:
        # What was typed is not repeated: it may be a secret's digits.
        raise ClientError(
            "not_found", "there is no such admin key; ID is the number in `pagegrid admin-keys list`", param="key_id"
        )
    return found
