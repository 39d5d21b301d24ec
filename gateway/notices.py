"""Low balances: a wallet that falls below its threshold is told of, once, in the log and to the operator's webhook.

    every 5 s: look at the book ─▶ who fell below since the last look ─▶ a WARNING in the log ─▶ queue ─▶ POST, up to 3 times

A wallet is told of again only after it was seen at its threshold or above. What was below at the start of the house was told
before (or never was above, as a new user's), so that a restart repeats nothing; the last look comes when the last request has
ended, so that a clean stop swallows nothing. A request is never kept waiting by any of this.

The webhook hears {"type": "low_balance", user, balance, threshold, at}: no key, no secret. `x-pagegrid-signature` is
"sha256=" and the HMAC-SHA256 of the body under the secret of `notices.webhook_secret_file`, in hex; `at` is inside, so that an
old notice cannot pass for a new one. Redirects are not followed. Its address may hold a secret and is never logged.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import logging
import sqlite3
from dataclasses import dataclass
from datetime import UTC, datetime

import aiosqlite
import orjson
from pydantic import SecretStr

from gateway import metrics
from gateway.book import Book
from gateway.clock import Clock
from gateway.config import Notices
from gateway.desk.checks import money
from gateway.errors import UpstreamError
from gateway.money import format_usd
from gateway.storage.notices import fetch_low_balances, fetch_owners
from gateway.upstreams.base import Outgoing
from gateway.upstreams.transport import HttpTransport
from gateway.version import VERSION

logger = logging.getLogger(__name__)

LOOK_EVERY_S = 5
# Looking at a wallet takes 0.2 µs; the loop is asked in between.
LOOK_AT_ONCE = 2_000
CONNECT_S = 5
ANSWER_S = 10
# Before the second try and the third.
WAITS_S = (1.0, 5.0)
# A webhook that hangs takes 36 s for each; what does not fit is in the log.
QUEUE_MAX = 1_000
# At the end of the house: what is queued may still go out.
CLOSE_S = 5


@dataclass(frozen=True, slots=True)
class _Notice:
    user: str
    body: bytes


class Notifier:
    def __init__(self, book: Book, reader: aiosqlite.Connection, clock: Clock, settings: Notices, secret: SecretStr) -> None:
        self._book = book
        self._reader = reader
        self._clock = clock
        self.configure(settings, secret)
        self._above: set[int] = set()
        self._queue: asyncio.Queue[_Notice] = asyncio.Queue(QUEUE_MAX)
        self._worker: asyncio.Task[None] | None = None
        self._transport: HttpTransport | None = None

    def configure(self, settings: Notices, secret: SecretStr) -> None:
        """Take over what is declared, at the start and at a reload."""
        self._threshold_nanos = settings.low_balance_nanos
        self._secret = secret.get_secret_value()
        # A house that a command opened has read no secret: it sends nothing rather than unsigned notices.
        self._url = settings.webhook_url if self._secret or not settings.webhook_secret_file else ""

    async def look(self) -> None:
        """Tell of who fell below since the last look. The first one only remembers."""
        try:
            await self._look()
        except sqlite3.Error as error:
            logger.warning("low balances cannot be looked for now: %s", error)

    async def close(self) -> None:
        """Send what is queued, within its time; what is not sent by then is named in the log."""
        if self._worker is not None:
            try:
                async with asyncio.timeout(CLOSE_S):
                    await self._queue.join()
            except TimeoutError:
                pass
            self._worker.cancel()
            await asyncio.gather(self._worker, return_exceptions=True)
            while not self._queue.empty():
                _failed(self._queue.get_nowait(), "the server was stopped")
        if self._transport is not None:
            await self._transport.close()

    # ── leaves ───────────────────────────────────────────────────────────────────────────────────────────────────────

    async def _look(self) -> None:
        thresholds = await fetch_low_balances(self._reader)
        above: set[int] = set()
        fallen: list[tuple[int, int, int]] = []
        for number, wallet in enumerate(list(self._book.wallets()), 1):
            threshold = thresholds.get(wallet.id, self._threshold_nanos)
            if wallet.balance_nanos >= threshold:
                above.add(wallet.id)
            elif wallet.id in self._above:
                fallen.append((wallet.id, wallet.balance_nanos, threshold))
            if number % LOOK_AT_ONCE == 0:
                await asyncio.sleep(0)
        owners = await fetch_owners(self._reader, [wallet_id for wallet_id, _, _ in fallen]) if fallen else {}
        self._above = above
        for wallet_id, balance_nanos, threshold_nanos in fallen:
            self._tell(owners[wallet_id], balance_nanos, threshold_nanos)

    def _tell(self, user: str, balance_nanos: int, threshold_nanos: int) -> None:
        balance, threshold = format_usd(balance_nanos), format_usd(threshold_nanos)
        logger.warning("low balance: the wallet of %s has $%s, below $%s", user, balance, threshold)
        metrics.notices["told"] += 1
        if not self._url:
            return
        at = datetime.fromtimestamp(self._clock.at_ms() / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        told = {"type": "low_balance", "user": user, **money(balance=balance_nanos, threshold=threshold_nanos), "at": at}
        notice = _Notice(user, orjson.dumps(told))
        try:
            self._queue.put_nowait(notice)
        except asyncio.QueueFull:
            _failed(notice, "too many wait to be sent")
            return
        if self._worker is None:
            self._worker = asyncio.get_running_loop().create_task(self._send_all())

    async def _send_all(self) -> None:
        while True:
            notice = await self._queue.get()
            try:
                await self._send(notice)
            except asyncio.CancelledError:
                _failed(notice, "the server was stopped")
                raise
            except Exception:
                logger.exception("a notice failed")
                _failed(notice, "internal error")
            finally:
                self._queue.task_done()

    async def _send(self, notice: _Notice) -> None:
        """Up to three times: the receiver sees the same body each time."""
        problem = await self._post(notice.body)
        for wait_s in WAITS_S:
            if problem is None:
                break
            await asyncio.sleep(wait_s)
            problem = await self._post(notice.body)
        if problem is None:
            metrics.notices["delivered"] += 1
        else:
            _failed(notice, problem)

    async def _post(self, body: bytes) -> str | None:
        """What went wrong; None if it was taken."""
        if not self._url:
            return "the webhook was taken out of the configuration"
        if self._transport is None:
            self._transport = HttpTransport()
        headers = [("content-type", "application/json"), ("user-agent", f"pagegrid/{VERSION}")]
        if self._secret:
            headers.append(("x-pagegrid-signature", sign(body, self._secret)))
        outgoing = Outgoing(self._url, tuple(headers), body, stream=False)
        try:
            incoming = await self._transport.open(outgoing, connect_s=CONNECT_S, head_s=ANSWER_S)
        except UpstreamError as error:
            return f"{error.reason} ({error.detail})"
        # What it says beyond its status is not read.
        incoming.abort()
        return None if 200 <= incoming.status < 300 else f"status {incoming.status}"


def sign(body: bytes, secret: str) -> str:
    return "sha256=" + hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()


def _failed(notice: _Notice, problem: str) -> None:
    logger.warning("the webhook did not take the notice of %s's low balance: %s", notice.user, problem)
    metrics.notices["failed"] += 1
