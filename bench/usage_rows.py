"""Make a database with many settled requests, as years of use would leave it: for measuring reports, roll-ups and pruning.

    PYTHONPATH=. python bench/usage_rows.py /tmp/big/pagegrid.db          # 1,000,000 requests over 90 days, 50 users: some 60 s
    PYTHONPATH=. python bench/usage_rows.py /tmp/big/pagegrid.db --rows 200000 --days 30 --users 5

Written straight into SQLite, in one transaction, with all that belongs to a request: hold, transfer, usage, attempts, detail.
The audit of it is clean, and it is run at the end. Nothing is rolled up. The same `--seed` makes the same requests.
"""

from __future__ import annotations

import argparse
import random
import sqlite3
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gateway.access import hash_secret, hint_of, make_secret
from gateway.catalog import Model, load_builtin
from gateway.ids import IdSource, render_id
from gateway.pricing import cost_nanos
from gateway.storage.audit import audit
from gateway.storage.database import open_reader, open_writer
from gateway.storage.ledger import EXTERNAL, REVENUE
from gateway.storage.migrate import migrate
from gateway.storage.recovery import start_boot
from gateway.storage.users import insert_user
from gateway.storage.wallets import create_wallet
from gateway.usage import Usage

CHUNK_ROWS = 20_000
REQUESTS_PER_SESSION = 30
# The first user makes as much as this share of all requests: reports must be quick for the heaviest too.
HEAVY_SHARE = 0.4
PREFIX = "sk-pgrid-"

INSERTS = {
    "holds": "(id, wallet_id, key_id, boot_id, model, amount_nanos, opened_at_ms, state, resolved_at_ms)",
    "transfers": "(id, at_ms, kind, debit_account, credit_account, amount_nanos, reference, note)",
    "usage": """(request_id, at_ms, wallet_id, key_id, model, upstream, upstream_model, price_id, input_tokens, output_tokens,
      cache_write_5m_tokens, cache_write_1h_tokens, cache_read_tokens, web_searches, cost_nanos, paid_nanos, source)""",
    "attempts": """(request_id, number, upstream, upstream_model, status, reason, started_at_ms, duration_ms, cost_nanos,
      upstream_request_id)""",
    "request_details": """(request_id, stream, status, session, agent, address, admitted_ms, first_byte_ms, total_ms)""",
}


@dataclass(slots=True)
class Session:
    """Of Claude Code: one key, one model for most of it, so many requests still to come."""

    id: str
    key_id: int
    model: Model
    left: int


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--days", type=int, default=90)
    parser.add_argument("--users", type=int, default=50)
    parser.add_argument("--keys", type=int, default=3, help="per user")
    parser.add_argument("--end-ms", type=int, default=time.time_ns() // 1_000_000, help="when the last one settled")
    parser.add_argument("--seed", type=int, default=1)
    asked = parser.parse_args()
    if asked.file.exists():
        parser.error(f"{asked.file} is there already")
    started = time.monotonic()
    make(asked.file, asked.rows, asked.days, asked.users, asked.keys, asked.end_ms, asked.seed)
    print(f"{asked.rows:,} requests, {asked.file.stat().st_size / 1e6:,.0f} MB, in {time.monotonic() - started:.0f} s")
    reader = open_reader(asked.file)
    report = audit(reader)
    reader.close()
    print(f"audit: {'clean' if report.clean else report.findings}")


def make(path: Path, rows: int, days: int, users: int, keys: int, end_ms: int, seed: int) -> None:
    """The whole database; `path` must not exist."""
    path.parent.mkdir(parents=True, exist_ok=True)
    conn = open_writer(path)
    migrate(conn, path)
    conn.execute("pragma synchronous = off")
    conn.execute("pragma foreign_keys = off")  # the audit checks them all at the end
    conn.execute("begin immediate")
    start_ms = end_ms - days * 86_400_000
    boot_id = start_boot(conn, start_ms, "bench")
    conn.execute("insert into prices (terms, at_ms) values (?, ?)", (load_builtin()[0].price.terms(), start_ms))
    people = [_insert_person(conn, number, keys, start_ms) for number in range(users)]
    paid: Counter[int] = Counter()
    for chunk in _chunks(random.Random(seed), people, rows, start_ms, end_ms, boot_id, paid):
        for table, columns in INSERTS.items():
            places = ", ".join("?" * len(chunk[table][0]))
            conn.executemany(f"insert into {table} {columns} values ({places})", chunk[table])
    _balance(conn, paid, end_ms)
    conn.execute("commit")
    conn.execute("pragma wal_checkpoint(truncate)")
    conn.close()


def _insert_person(conn: sqlite3.Connection, number: int, keys: int, at_ms: int) -> tuple[int, list[int]]:
    """(wallet id, key ids)"""
    user_id = insert_user(conn, f"user{number}", None, "user", at_ms)
    wallet_id = create_wallet(conn, user_id)
    ids = []
    for index in range(keys):
        secret = make_secret(PREFIX)
        row = (user_id, f"key{index}", hash_secret(secret), hint_of(PREFIX, secret), 0, at_ms)
        sql = "insert into keys (user_id, name, hash, hint, rpm, created_at_ms) values (?, ?, ?, ?, ?, ?) returning id"
        ids.append(int(conn.execute(sql, row).fetchone()[0]))
    return wallet_id, ids


def _chunks(
    dice: random.Random, people: list[Any], rows: int, start_ms: int, end_ms: int, boot_id: int, paid: Counter[int]
) -> Iterator[dict[str, list[Any]]]:
    models = load_builtin()[:4]
    ids = IdSource()
    sessions: dict[int, Session] = {}  # by wallet
    chunk: dict[str, list[Any]] = {table: [] for table in INSERTS}
    for number in range(rows):
        at_ms = start_ms + (end_ms - start_ms) * number // rows
        heavy = dice.random() < HEAVY_SHARE
        wallet_id, keys = people[0 if heavy else int(len(people) * dice.random())]
        session = sessions.get(wallet_id)
        if session is None or not session.left:
            key_id, model = keys[int(len(keys) * dice.random() ** 2)], models[int(len(models) * dice.random() ** 2)]
            left = int(2 * REQUESTS_PER_SESSION * dice.random()) + 1
            session = sessions[wallet_id] = Session(f"{dice.getrandbits(128):032x}", key_id, model, left)
        session.left -= 1
        key_id = session.key_id
        # Claude Code asks a small model for titles and the like, and its subagents come and go.
        model = models[-1] if dice.random() < 0.1 else session.model
        agent = f"agent-{int(3 * dice.random())}" if dice.random() < 0.3 else ""
        usage = Usage(
            int(3_000 * dice.random()), int(900 * dice.random()), int(2_000 * dice.random()), 0, int(90_000 * dice.random())
        )
        cost = max(1, cost_nanos(model.price, usage))
        paid[wallet_id] += cost
        request_id = ids.next(at_ms)
        took_ms = int(1_000 + 20_000 * dice.random() ** 3)
        settled_ms = min(at_ms + took_ms, end_ms)
        chunk["holds"].append((request_id, wallet_id, key_id, boot_id, model.id, cost * 2, at_ms, "settled", settled_ms))
        chunk["transfers"].append((number + 1, settled_ms, "settle", wallet_id, REVENUE, cost, render_id(request_id), ""))
        counts = (usage.input_tokens, usage.output_tokens, usage.cache_write_5m_tokens, 0, usage.cache_read_tokens, 0)
        source = "reported" if dice.random() < 0.98 else "estimated"
        chunk["usage"].append(
            (request_id, settled_ms, wallet_id, key_id, model.id, "main", model.id, 1, *counts, cost, cost, source)
        )
        theirs = f"req_{dice.getrandbits(96):024x}"
        failed = dice.random() < 0.05
        if failed:
            chunk["attempts"].append((request_id, 1, "main", model.id, 529, "status_529", at_ms, 50, 0, theirs + "x"))
        chunk["attempts"].append((request_id, 1 + failed, "main", model.id, 200, "ok", at_ms, took_ms, cost * 9 // 10, theirs))
        chunk["request_details"].append((request_id, 1, 200, session.id, agent, "192.0.2.1", 2, 800, took_ms))
        if len(chunk["holds"]) == CHUNK_ROWS or number == rows - 1:
            yield chunk
            chunk = {table: [] for table in INSERTS}


def _balance(conn: sqlite3.Connection, paid: Counter[int], at_ms: int) -> None:
    """One deposit per wallet behind all its requests, and what they leave on every account."""
    number = int(conn.execute("select coalesce(max(id), 0) from transfers").fetchone()[0])
    for wallet_id, spent in paid.items():
        number += 1
        conn.execute(
            f"insert into transfers {INSERTS['transfers']} values (?, ?, 'deposit', ?, ?, ?, ?, '')",
            (number, at_ms, EXTERNAL, wallet_id, spent + 10**10, f"bench-{wallet_id}"),
        )
        conn.execute("update accounts set balance_nanos = ? where id = ?", (10**10, wallet_id))
    total = sum(paid.values())
    conn.execute("update accounts set balance_nanos = ? where id = ?", (total, REVENUE))
    conn.execute("update accounts set balance_nanos = ? where id = ?", (-total - 10**10 * len(paid), EXTERNAL))


if __name__ == "__main__":
    main()
