"""The gate before the pages: how fast anybody may try, how many passwords are hashed at once, who still owes a code.

All of it is in memory and bounded: a restart forgets it, which gives away a few tries and nothing else. Acts go through it in
`desk/signin.py`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal, TypeVar

from gateway.access import hash_secret
from gateway.admins import party_of
from gateway.errors import HouseError
from gateway.sessions import make_token
from gateway.throttle import Pace, Throttle

T = TypeVar("T")

MINUTE_MS = 60_000
HOUR_MS = 60 * MINUTE_MS
# One address may be an office: twenty slips at once, then slower and slower.
ADDRESS_PACE = Pace(free=20, first_ms=2_000, most_ms=10 * MINUTE_MS, forget_ms=HOUR_MS)
# No longer than a minute, or a stranger could keep somebody out: a guess a minute finds no password of twelve characters.
ACCOUNT_PACE = Pace(free=5, first_ms=1_000, most_ms=MINUTE_MS, forget_ms=15 * MINUTE_MS)
# A code is one of a million: who gets here has the password, so the owner should change it rather than wait.
CODE_PACE = Pace(free=5, first_ms=30_000, most_ms=HOUR_MS, forget_ms=24 * HOUR_MS)
# What somebody may do at will and is written down for ever (a right password, a change of a key): more than anybody does by hand.
WRITTEN_PACE = Pace(free=60, first_ms=1_000, most_ms=MINUTE_MS, forget_ms=HOUR_MS)
# New accounts and voucher codes, by address and by user.
RARE_PACE = Pace(free=10, first_ms=10_000, most_ms=HOUR_MS, forget_ms=HOUR_MS)

# Each takes 19 MiB and a core for 20 to 80 ms: more at once would steal from the relay.
HASHES_AT_ONCE = 2
# A second or two of waiting, then 503.
HASHES_WAITING_MAX = 64

TICKET_MS = 5 * MINUTE_MS
TICKETS_MAX = 1_000

Signup = Literal["closed", "invite", "open"]


@dataclass(frozen=True, slots=True)
class GateRules:
    """What is declared: who may make an account by themselves, whether admins need a second factor, whose house this is (the name
    that an authenticator app shows)."""

    signup: Signup = "closed"
    totp_for_admins: bool = False
    issuer: str = "PageGrid"


class Hasher:
    """Argon2 in threads of its own, so that an awaiting task which is cancelled makes no room for a third at once."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(HASHES_AT_ONCE, thread_name_prefix="argon2")
        self._waiting = 0

    async def run(self, work: Callable[[], T]) -> T:
        """Raises HouseError while too many wait."""
        if self._waiting >= HASHES_WAITING_MAX:
            raise HouseError("unavailable", "Too many people are signing in; try again in a moment.", retry_after_s=2)
        loop = asyncio.get_running_loop()
        self._waiting += 1
        future = self._threads.submit(work)
        future.add_done_callback(lambda done: _on_loop(loop, self._finished))
        return await asyncio.wrap_future(future)

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _finished(self) -> None:
        self._waiting -= 1


class Tickets:
    """Who has shown the right password and owes a code, for five minutes. A ticket is no session: it opens nothing but the
    question for the code."""

    def __init__(self) -> None:
        self._by_hash: dict[bytes, tuple[int, str, int]] = {}

    def issue(self, user_id: int, password_hash: str, now_ms: int) -> str:
        """`password_hash` is the one that was verified: a change of password ends the ticket."""
        ticket = make_token()
        self._by_hash[hash_secret(ticket)] = (user_id, password_hash, now_ms + TICKET_MS)
        if len(self._by_hash) > TICKETS_MAX:
            del self._by_hash[next(iter(self._by_hash))]
        return ticket

    def find(self, ticket: str, now_ms: int) -> tuple[int, str] | None:
        """(user id, the password's hash)."""
        user_id, password_hash, until_ms = self._by_hash.get(hash_secret(ticket), (0, "", 0))
        return (user_id, password_hash) if now_ms < until_ms else None

    def drop(self, ticket: str) -> None:
        self._by_hash.pop(hash_secret(ticket), None)


class Gate:
    def __init__(self, rules: GateRules) -> None:
        self.rules = rules
        self.hasher = Hasher()
        self.tickets = Tickets()
        self.codes = Throttle(CODE_PACE)
        self.rare = Throttle(RARE_PACE)
        # Keys that are shown at the public page, by address; a right one does not count.
        self.shown_keys = Throttle(ADDRESS_PACE)
        # Changes of keys, by user.
        self.changes = Throttle(WRITTEN_PACE)
        self._entries = Throttle(WRITTEN_PACE)
        self._addresses = Throttle(ADDRESS_PACE)
        self._accounts = Throttle(ACCOUNT_PACE)

    def knock(self, address: str, account: str, now_ms: int) -> None:
        """Count a try to show a password. Raises TooManyTries, and then it does not count.

        An account is what was typed, whether there is one of that name or not: both are answered alike.
        """
        self._addresses.check(party_of(address), now_ms)
        self._accounts.check(account, now_ms)
        self._entries.check(account, now_ms)
        self._addresses.count(party_of(address), now_ms)
        self._accounts.count(account, now_ms)

    def let_in(self, address: str, account: str, now_ms: int) -> None:
        """The password was right. The address keeps its other failures: who has an account could go on guessing at others from
        there. Nor may they have their own password hashed without end."""
        self._entries.count(account, now_ms)
        self._addresses.give_back(party_of(address))
        self._accounts.clear(account)

    def pardon(self, user_id: int, *accounts: str) -> None:
        """The operator knows who it is."""
        self.codes.clear(str(user_id))
        for account in accounts:
            self._accounts.clear(account)
            self._entries.clear(account)


def _on_loop(loop: asyncio.AbstractEventLoop, call: Callable[[], None]) -> None:
    if not loop.is_closed():
        loop.call_soon_threadsafe(call)
