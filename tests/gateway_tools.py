"""A whole gateway in the test's own loop: real database, real sockets, in front of whatever upstream a test scripts.

    async with ScriptedUpstream() as up, open_gateway(tmp_path, up.url) as gateway:
        alice = await gateway.make_user("alice", "10")
        answer = await gateway.ask(alice)
        assert answer.status == 200

Leaving the block drains the house; `assert_settled` (the audit, no open hold, book = database) ends every test that
moves money.
"""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

from gateway.access import Key, Own, hash_secret, hint_of, make_secret
from gateway.api.server import serving
from gateway.chores import watch_streams
from gateway.config import parse
from gateway.house import House, open_house
from gateway.money import parse_usd
from gateway.storage import wallets
from gateway.storage.database import open_reader
from gateway.storage.keys import find_key, insert_key
from gateway.storage.ledger import LedgerWriter
from gateway.storage.users import insert_user
from tests.ledger_tools import assert_books_balance
from tests.upstream import ScriptedUpstream
from tests.upstreams.scripts import LEAKY

MODEL = "claude-sonnet-5-5"


@dataclass
class Answer:
    """`cut`: the body broke off, without the proper end that its framing announced; `body` is what came before."""

    status: int
    headers: dict[str, str]
    body: bytes
    cut: bool = False

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def events(self) -> list[tuple[str, Any]]:
        """(name, data) of a stream's events."""
        found = []
        for block in self.body.decode().split("\n\n"):
            lines = dict(line.split(": ", 1) for line in block.splitlines() if ": " in line)
            if "data" in lines:
                found.append((lines.get("event", ""), json.loads(lines["data"])))
        return found

    @property
    def error(self) -> dict[str, Any]:
        return self.json["error"]

    @property
    def request_id(self) -> str:
        return self.headers["request-id"]

    def assert_clean(self) -> None:
        """Both request ids, and nothing of an upstream's own."""
        assert self.headers["x-request-id"] == self.headers["request-id"]
        assert self.headers["request-id"].startswith("req_") and "upstream" not in self.headers["request-id"]
        assert self.headers["server"] == "pagegrid"
        whole = repr(self.headers).lower()
        assert "leak" not in whole
        # (Headers about limits are named as the upstream's are, and tell the key's own.)
        assert not [name for name, value in LEAKY if self.headers.get(name) == value]
        assert not {"set-cookie", "anthropic-organization-id", "cf-ray", "location"} & self.headers.keys()
        assert "upstream-secret" not in whole and b"upstream-secret" not in self.body


@dataclass
class User:
    secret: str
    key: Key


@dataclass
class Gateway:
    house: House
    url: str
    session: aiohttp.ClientSession
    users: list[User] = field(default_factory=list)

    async def make_user(
        self,
        name: str,
        balance: str = "10",
        *,
        limits: Mapping[str, int] | None = None,
        rpm: int = 0,
        models: frozenset[str] | None = None,
        plan: str = "default",
        own: Own | None = None,
        expires_at_ms: int | None = None,
    ) -> User:
        """A user with a wallet of `balance` USD and a key that says for itself what `limits` (by the names of Terms) say."""
        desk = self.house.desk
        at_ms = desk.clock.at_ms()
        secret = make_secret(desk.key_prefix)
        amount = parse_usd(balance)

        def job(ledger: LedgerWriter) -> tuple[int, int]:
            user_id = insert_user(ledger.conn, name, None, "user", at_ms, plan)
            wallet_id = wallets.create_wallet(ledger.conn, user_id)
            key_id = insert_key(
                ledger.conn,
                user_id=user_id,
                name=f"{name}'s key",
                secret_hash=hash_secret(secret),
                hint=hint_of(desk.key_prefix, secret),
                own=own or Own(tuple({"rpm": rpm, **(limits or {})}.items()), models),
                expires_at_ms=expires_at_ms,
                rotated_from=None,
                at_ms=at_ms,
            )
            if amount:
                wallets.deposit(ledger, wallet_id, amount, f"opening-{name}", "", at_ms)
            return wallet_id, key_id

        wallet_id, key_id = await desk.writer.run(job)
        desk.book.open_wallet(wallets.Wallet(wallet_id, amount))
        with closing(open_reader(desk.database)) as conn:
            found = find_key(conn, key_id)
        assert found is not None
        user = User(secret, desk.keys.put(*found))
        self.users.append(user)
        return user

    async def ask(
        self,
        user: User | None,
        *,
        path: str = "/v1/messages",
        headers: dict[str, str] | None = None,
        raw: bytes | None = None,
        **fields: Any,
    ) -> Answer:
        """POST a small message; `fields` go into its body over the usual ones (None removes one)."""
        body = {"model": MODEL, "max_tokens": 100, "messages": [{"role": "user", "content": "say hi"}], **fields}
        body = {name: value for name, value in body.items() if value is not None}
        sent = {"content-type": "application/json", **({"x-api-key": user.secret} if user else {}), **(headers or {})}
        return await self.request("POST", path, headers=sent, data=raw if raw is not None else json.dumps(body).encode())

    async def get(self, user: User | None, path: str, headers: dict[str, str] | None = None) -> Answer:
        return await self.request("GET", path, headers={**({"x-api-key": user.secret} if user else {}), **(headers or {})})

    async def request(self, method: str, path: str, **options: Any) -> Answer:
        async with self.session.request(method, self.url + path, allow_redirects=False, **options) as response:
            parts: list[bytes] = []
            cut = False
            try:
                while part := await response.content.readany():
                    parts.append(part)
            except (aiohttp.ClientError, ConnectionError):
                cut = True
            headers = {name.lower(): value for name, value in response.headers.items()}
            return Answer(response.status, headers, b"".join(parts), cut)

    def balance(self, user: User) -> int:
        return self.house.walk.book.wallet(user.key.wallet_id).balance_nanos

    async def usage_rows(self) -> list[dict[str, Any]]:
        """Every usage row, once all that is queued is written."""
        await self.house.writer.run(lambda ledger: None)
        with closing(open_reader(self.house.database)) as conn:
            cursor = conn.execute("select * from usage order by request_id")
            names = [column[0] for column in cursor.description]
            return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]

    async def attempts(self) -> list[tuple[str, int | None, str]]:
        """(upstream, status, reason) of every attempt, in order."""
        return await self.table("select upstream, status, reason from attempts order by request_id, number")

    async def void_reasons(self) -> list[str]:
        return [reason for (reason,) in await self.table("select reason from holds where state = 'void' order by id")]

    async def deposit(self, user: User, amount: str, reference: str) -> None:
        desk, nanos, at_ms = self.house.desk, parse_usd(amount), self.house.desk.clock.at_ms()
        await desk.writer.run(lambda ledger: wallets.deposit(ledger, user.key.wallet_id, nanos, reference, "", at_ms))
        desk.book.deposit(user.key.wallet_id, nanos)

    @asynccontextmanager
    async def writer_held_back(self) -> AsyncIterator[None]:
        """Nothing reaches the disk inside the block."""
        gate, entered = threading.Event(), threading.Event()

        def wait(ledger: LedgerWriter) -> None:
            entered.set()
            assert gate.wait(30)

        job = asyncio.ensure_future(self.house.writer.run(wait))
        await until(entered.is_set)
        try:
            yield
        finally:
            gate.set()
            await job

    async def table(self, sql: str) -> list[Any]:
        await self.house.writer.run(lambda ledger: None)
        with closing(open_reader(self.house.database)) as conn:
            return conn.execute(sql).fetchall()

    async def assert_settled(self) -> None:
        """Nothing runs (any more: what is just ending may end), nothing is held, the audit is clean, the book is the database."""
        await until(lambda: not self.house.walk.running)
        # A cut gives the client a moment to leave after the books are closed.
        await until(lambda: (self.house.walk.door.in_flight, self.house.walk.door.body_bytes) == (0, 0))
        await self.house.writer.run(lambda ledger: None)
        assert_books_balance(self.house.database, self.house.walk.book)


async def until(test: Callable[[], bool], limit_s: float = 10) -> None:
    """Wait for something that is about to happen."""
    async with asyncio.timeout(limit_s):
        while not test():
            await asyncio.sleep(0.005)


def settings_text(*upstream_urls: str, more: str = "") -> str:
    upstreams = "".join(
        f'[[upstreams]]\nname = "up{number}"\nkind = "anthropic"\nbase_url = "{url}"\n'
        f'api_key = "upstream-secret-{number}"\npriority = {number}\n'
        for number, url in enumerate(upstream_urls, 1)
    )
    return more + "\n" + upstreams


@asynccontextmanager
async def open_gateway(
    data_dir: Path, *upstream_urls: str, more: str = "", clock: Any = None, tick_s: float = 0
) -> AsyncIterator[Gateway]:
    """A gateway before the given upstreams, in order of priority; `more` is TOML put before them.

    With `tick_s` its streams are looked at that often, beside the house's own once a second.
    """
    settings = parse(settings_text(*upstream_urls, more=more), str(data_dir / "pagegrid.toml"), {})
    async with (
        open_house(settings, data_dir / "data", clock) as house,
        serving(house, "127.0.0.1", 0) as port,
        aiohttp.ClientSession(auto_decompress=False) as session,
    ):
        ticking = asyncio.ensure_future(_tick(house, tick_s)) if tick_s else None
        try:
            yield Gateway(house, f"http://127.0.0.1:{port}", session)
        finally:
            if ticking is not None:
                ticking.cancel()


async def _tick(house: House, every_s: float) -> None:
    while True:
        await asyncio.sleep(every_s)
        watch_streams(house.walk)


__all__ = ["MODEL", "Answer", "Gateway", "ScriptedUpstream", "User", "open_gateway", "settings_text", "until"]
