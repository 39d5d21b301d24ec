"""The books as a whole: what each kind of account holds, what the last audits proved, and where they found something.

whole     the last audit from the first transfer on
recent    one since the last clean audit: it clears nothing that a whole one found before the transfers that it looked at
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from gateway.desk.statements import account_names, named
from gateway.storage import accounts
from gateway.storage.accounts import KindSum, TransferLine, WalletLine
from gateway.storage.audit import Finding, Invariant, invariants
from gateway.storage.audits import Audit, latest_audits
from gateway.storage.readonly import snapshot

WALLETS_SHOWN = 20
TRANSFERS_SHOWN = 25


@dataclass(frozen=True, slots=True)
class Check:
    """One invariant, the audit that looked at it last (None: none has), and what was found wrong, with names in its rows."""

    invariant: Invariant
    audit: Audit | None
    finding: Finding | None


@dataclass(frozen=True, slots=True)
class Books:
    """One moment's balances. `whole`, `recent`: the latest audits of each kind; a recent one that is older than the whole one
    has nothing to say."""

    kinds: Mapping[str, KindSum]
    wallets: tuple[WalletLine, ...]
    open_holds: int
    checks: tuple[Check, ...]
    whole: Audit | None
    recent: Audit | None
    transfers: tuple[TransferLine, ...]

    @property
    def world_nanos(self) -> int:
        """What came in from outside, or was given away, as the debt that it is."""
        return self.kinds["external"].balance_nanos + self.kinds["promo"].balance_nanos

    @property
    def sum_nanos(self) -> int:
        return sum(kind.balance_nanos for kind in self.kinds.values())

    @property
    def broken(self) -> list[Check]:
        return [check for check in self.checks if check.finding is not None]

    @property
    def proven(self) -> bool:
        """Whether an audit has shown that the balances are what the transfers come to, and nothing else is wrong."""
        return self.latest is not None and not self.broken and self.sum_nanos == 0

    @property
    def latest(self) -> Audit | None:
        return self.recent or self.whole

    @property
    def others(self) -> KindSum:
        """All wallets beside those shown."""
        every, shown = self.kinds.get("wallet", KindSum(0, 0, 0, 0)), self.wallets
        return KindSum(
            every.accounts - len(shown),
            every.balance_nanos - sum(wallet.balance_nanos for wallet in shown),
            every.held_nanos - sum(wallet.held_nanos for wallet in shown),
            every.owed_nanos - sum(wallet.owed_nanos for wallet in shown),
        )


def read_books(conn: sqlite3.Connection, *, before_id: int | None = None, after_id: int | None = None) -> Books:
    """As they stand, with a page of transfers. No audit is run for it."""
    with snapshot(conn):
        whole, recent = latest_audits(conn)
        if whole is not None and recent is not None and recent.at_ms < whole.at_ms:
            recent = None
        checks = [_check(invariant, whole, recent) for invariant in invariants()]
        names = account_names(conn) if any(check.finding for check in checks) else {}
        return Books(
            kinds=accounts.sum_kinds(conn),
            wallets=tuple(accounts.largest_wallets(conn, WALLETS_SHOWN)),
            open_holds=accounts.count_open_holds(conn),
            # Broken ones first.
            checks=tuple(sorted((_named(check, names) for check in checks), key=lambda check: check.finding is None)),
            whole=whole,
            recent=recent,
            transfers=tuple(accounts.list_transfers(conn, TRANSFERS_SHOWN, before_id=before_id, after_id=after_id)),
        )


def _check(invariant: Invariant, whole: Audit | None, recent: Audit | None) -> Check:
    looked = [audit for audit in (recent if not invariant.whole else None, whole) if audit is not None]
    for audit in looked:
        for finding in audit.findings:
            if finding.invariant == invariant.name:
                return Check(invariant, audit, finding)
    return Check(invariant, looked[0] if looked else None, None)


def _named(check: Check, names: dict[int, str]) -> Check:
    if check.finding is None:
        return check
    rows: tuple[dict[str, Any], ...] = tuple(named(row, names) for row in check.finding.rows)
    return replace(check, finding=replace(check.finding, rows=rows))
