"""The first start without a configuration: an admin, demo credit, a key and a one-time link, so that it works at once.

The key may live on in somebody's log, so what is left of the credit is taken back at the first start with a real upstream.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Collection
from dataclasses import dataclass

from gateway.desk.credentials import create_link
from gateway.desk.desk import Desk
from gateway.desk.keys import create_key
from gateway.desk.users import create_user
from gateway.errors import HouseError
from gateway.storage import audit_log, calls, users, wallets
from gateway.storage.ledger import LedgerWriter

ACTOR = "first start"
USER = "admin"
REFERENCE = "demo-credit"
KEY_RPM = 600


@dataclass(frozen=True, slots=True)
class Credentials:
    """What is shown once. `link_token` is that of the admin's one-time link."""

    user: str
    secret: str
    credit_nanos: int
    link_token: str

    def __repr__(self) -> str:
        return f"Credentials({self.user!r})"


async def has_users(desk: Desk) -> bool:
    return await desk.writer.run(lambda ledger: users.any_user(ledger.conn))


async def check_never_real(desk: Desk, upstreams: Collection[str]) -> None:
    """Of a start without a configuration, whose `upstreams` are the demo's: raises HouseError if others served from here before.
    Its users would pay for what a demo answers, because a file was moved."""
    others = await desk.writer.run(lambda ledger: calls.find_other_upstream(ledger.conn, upstreams))
    if others:
        raise HouseError(
            "unavailable",
            f"there is no configuration, but the upstream {others!r} has served from this data directory: without one, users "
            "would be charged for answers of the built-in demo. Put the file back, or name it with --config; for a demo, name "
            "another directory with --data-dir",
        )


async def first_start(desk: Desk, credit_nanos: int) -> Credentials | None:
    """Make what a first start makes; None if there are users already."""
    if await has_users(desk):
        return None
    user = await create_user(desk, ACTOR, name=USER, role="admin")
    wallet_id = user["wallet_id"]
    at_ms = desk.clock.at_ms()

    def grant(ledger: LedgerWriter) -> None:
        wallets.grant_promo(ledger, wallet_id, credit_nanos, REFERENCE, "demo credit of the first start", at_ms)
        audit_log.record(ledger.conn, at_ms, ACTOR, "wallets.grant", f"user:{USER}", after={"amount_nanos": credit_nanos})

    await desk.writer.run(grant)
    desk.book.deposit(wallet_id, credit_nanos)
    key = await create_key(desk, ACTOR, user=USER, name="first key", rpm=KEY_RPM)
    link = await create_link(desk, ACTOR, user=USER)
    return Credentials(USER, key["secret"], credit_nanos, link["token"])


async def reverse_demo_credit(desk: Desk) -> int:
    """Take back what is left of the demo credit, once; returns the nanos taken.

    The credit counts as spent first: what an operator deposited beside it stays.
    """
    wallet_id, left = await desk.writer.run(lambda ledger: _left_of_credit(ledger.conn))
    amount = min(left, desk.book.wallet(wallet_id).available_nanos) if left else 0
    if not amount:
        return 0
    at_ms = desk.clock.at_ms()
    desk.book.withdraw(wallet_id, amount)

    def reverse(ledger: LedgerWriter) -> None:
        wallets.reverse_promo(ledger, wallet_id, amount, REFERENCE, "a real upstream is configured", at_ms)
        audit_log.record(ledger.conn, at_ms, ACTOR, "wallets.reverse_demo_credit", f"user:{USER}", after={"amount_nanos": amount})

    try:
        await desk.writer.run(reverse)
    except BaseException:
        desk.book.deposit(wallet_id, amount)
        raise
    return amount


def _left_of_credit(conn: sqlite3.Connection) -> tuple[int, int]:
    """(wallet id, nanos): (0, 0) if there was no demo credit, or it was reversed before."""
    granted = wallets.find_movement(conn, "promo", REFERENCE)
    if granted is None or wallets.find_movement(conn, "promo_reversed", REFERENCE) is not None:
        return 0, 0
    wallet_id, amount = granted
    return wallet_id, max(0, amount - wallets.spent_nanos(conn, wallet_id))
