"""A house to administer: the demo's settings, a real database in a folder, a clock that tests move, and requests that cost money.

Leaving `desk_house` ends in the whole audit: every test that moves money ends with balanced books.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

from gateway.access import Key
from gateway.clock import Clock
from gateway.config import load
from gateway.desk import acts
from gateway.house import House, open_house
from gateway.pricing import cost_nanos
from gateway.storage.database import FILE_NAME, open_reader
from gateway.storage.rows import AttemptRow, DetailRow, HoldRow, ResolutionRow, Served
from gateway.usage import Usage
from tests.ledger_tools import assert_books_balance

ACTOR = "cli:tester"
MODEL = "claude-sonnet-5-5"
USAGE = Usage(input_tokens=1_001, output_tokens=33, cache_write_5m_tokens=7, cache_write_1h_tokens=5, cache_read_tokens=501)
DETAIL = DetailRow(stream=True, status=200, session="", agent="", address="::1", admitted_ms=1, first_byte_ms=20, total_ms=30)


@asynccontextmanager
async def desk_house(data_dir: Path, clock: Clock) -> AsyncIterator[House]:
    async with open_house(load(None, {}), data_dir, clock) as house:
        yield house
        await house.writer.run(lambda ledger: None)
        assert_books_balance(house.desk.database, house.desk.book, open_holds=len(list(house.desk.book.open_holds())))
    assert_books_balance(data_dir / FILE_NAME, open_holds=len(list(house.desk.book.open_holds())))


async def act(house: House, name: str, /, **arguments: Any) -> Any:
    return await acts.perform(house.desk, ACTOR, name, arguments)


async def make_ada(house: House, balance: str = "10") -> dict[str, Any]:
    """ada, with money; returns her key, secret and all."""
    await act(house, "users.create", name="ada")
    if balance != "0":
        await act(house, "wallets.topup", user="ada", amount=balance, reference="opening")
    created: dict[str, Any] = await act(house, "keys.create", user="ada")
    return created


def authenticate(house: House, secret: str) -> Key:
    """What the walk does with a request's key; raises ClientError for a dead one."""
    return house.walk.keys.authenticate([("x-api-key", secret)], house.desk.key_prefix, house.desk.clock.at_ms())


async def open_request(house: House, secret: str, *, hold_nanos: int = 10**9) -> tuple[int, Key]:
    """A request that holds money and is running."""
    key = authenticate(house, secret)
    at_ms = house.desk.clock.at_ms()
    request_id = house.walk.ids.next(at_ms)
    house.desk.book.admit(request_id, key.wallet_id, hold_nanos, hold_nanos)
    await house.writer.submit_acknowledged(HoldRow(request_id, key.wallet_id, key.id, MODEL, hold_nanos, at_ms))
    return request_id, key


async def settle_request(
    house: House,
    request_id: int,
    key: Key,
    *,
    usage: Usage = USAGE,
    limit_nanos: int | None = None,
    upstream_id: str = "",
    detail: DetailRow = DETAIL,
) -> int:
    """Charge it as the walk would; returns the cost."""
    deployment = house.walk.router.deployments(MODEL)[0]
    cost = cost_nanos(deployment.price, usage)
    cost = cost if limit_nanos is None else min(cost, limit_nanos)
    hold = next(hold for hold in house.desk.book.open_holds() if hold.id == request_id)
    at_ms = house.desk.clock.at_ms()
    attempts = (
        AttemptRow(1, "first", "theirs", 529, "status_529", at_ms, 5),
        AttemptRow(2, "demo", "theirs", 200, "ok", at_ms, 20, cost, upstream_id),
    )
    served = Served("demo", "theirs", deployment.terms, usage, cost)
    done = house.desk.book.settle(hold, cost)
    row = ResolutionRow(done, key.id, MODEL, at_ms, attempts, detail, served=served, flags="model_mismatch unknown_usage:x")
    await house.writer.submit_acknowledged(row)
    return cost


async def void_request(house: House, request_id: int, key: Key, reason: str) -> None:
    hold = next(hold for hold in house.desk.book.open_holds() if hold.id == request_id)
    done = house.desk.book.void(hold)
    row = ResolutionRow(done, key.id, MODEL, house.desk.clock.at_ms(), (), DETAIL, reason=reason)
    await house.writer.submit_acknowledged(row)


def audit_rows(database: Path) -> list[dict[str, Any]]:
    with closing(open_reader(database)) as conn:
        rows = conn.execute("select actor, action, subject, before, after from audit_log order by id").fetchall()
    return [
        {
            "actor": actor,
            "action": action,
            "subject": subject,
            "before": json.loads(before or "null"),
            "after": json.loads(after or "null"),
        }
        for actor, action, subject, before, after in rows
    ]
