"""Who is signed in to the pages: all living sessions, in memory, and when each of them ends.

    cookie's token ── SHA-256 ──▶ the ring (and the database, which never sees the token)
    idle 12 h, absolute 7 days; ended at sign-out, change of password, disabling

A session ends as soon as either clock says so: the wall clock may be set back, which would give it time that it does not have,
and the running one stands still while a laptop sleeps and begins anew with each process. `put` and `drop` follow the database in
the same step as its commit, so a session that is dropped is dead at once. Being seen is remembered here and written every few
minutes (`take_seen`): what a crash forgets makes a session end early by that much, never late. Knows nothing of HTTP, cookies or
SQL; time is handed in.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal

from gateway.access import hash_secret

HOUR_MS = 3_600_000
IDLE_MS = 12 * HOUR_MS
ABSOLUTE_MS = 7 * 24 * HOUR_MS
# How late what is written may be. A row per visitor and five minutes, not one per page.
SEEN_LATE_MS = 300_000
# Of one user; beyond it the one that was seen longest ago ends. A script that signs in and never out must not fill the memory.
SESSIONS_PER_USER_MAX = 20
AGENT_CHARS_MAX = 200

Role = Literal["admin", "user"]


@dataclass(frozen=True, slots=True)
class Session:
    """`totp` is whether this user has a second factor now. `address` and `agent` are those of the sign-in."""

    id: int
    user_id: int
    user_name: str
    role: Role
    totp: bool
    created_at_ms: int
    seen_at_ms: int
    expires_at_ms: int
    address: str
    agent: str

    def actor(self, address: str) -> str:
        """Whom audit rows name: one who is signed in, and from where this was asked."""
        return web_actor(self.user_name, address)


@dataclass(slots=True)
class _Entry:
    """`idle_ms` and `end_ms` are moments of the running clock."""

    secret_hash: bytes
    session: Session
    idle_ms: int
    end_ms: int
    written_at_ms: int

    def alive(self, at_ms: int, now_ms: int) -> bool:
        session = self.session
        return at_ms < min(session.seen_at_ms + IDLE_MS, session.expires_at_ms) and now_ms < min(self.idle_ms, self.end_ms)


def web_actor(user_name: str, address: str) -> str:
    return f"web:{user_name} {address}".rstrip()


def make_token() -> str:
    """256 random bits as text that stands in a cookie or a URL as it is."""
    return secrets.token_urlsafe(32)


def csrf_token(token: str) -> str:
    """What every form of a session carries: who can read it can read the page, and it tells nothing of the session's token.

    For forms before a sign-in, any random token that a cookie of its own carries does as well.
    """
    return hmac.new(_bytes(token), b"csrf", hashlib.sha256).hexdigest()


def is_csrf_token(token: str, sent: str) -> bool:
    """Whether a form was made for this session; in constant time."""
    return hmac.compare_digest(csrf_token(token).encode(), _bytes(sent))


def short_agent(text: str) -> str:
    """A browser's own words about itself, fit to be kept and shown."""
    return "".join(character for character in text[:AGENT_CHARS_MAX] if character.isprintable()).strip()


class SessionRing:
    def __init__(self, sessions: Iterable[tuple[bytes, Session]] = (), at_ms: int = 0, now_ms: int = 0) -> None:
        self._by_hash: dict[bytes, _Entry] = {}
        for secret_hash, session in sessions:
            self.put(secret_hash, session, at_ms, now_ms)

    def __len__(self) -> int:
        return len(self._by_hash)

    def put(self, secret_hash: bytes, session: Session, at_ms: int, now_ms: int) -> None:
        # What the wall clock says of the past is not believed beyond what can be left.
        left_ms = min(session.expires_at_ms - at_ms, ABSOLUTE_MS)
        idle_ms = min(session.seen_at_ms + IDLE_MS - at_ms, IDLE_MS)
        self._by_hash[secret_hash] = _Entry(secret_hash, session, now_ms + idle_ms, now_ms + left_ms, session.seen_at_ms)

    def find(self, token: str, at_ms: int, now_ms: int) -> Session | None:
        """The living session of a token, which counts as seen now; None if there is none."""
        entry = self._find(token, at_ms, now_ms)
        if entry is None:
            return None
        entry.session = replace(entry.session, seen_at_ms=at_ms)
        entry.idle_ms = now_ms + IDLE_MS
        return entry.session

    def peek(self, token: str, at_ms: int, now_ms: int) -> Session | None:
        """As `find`, and it does not count as seen: nobody need be there for what a page asks by itself."""
        entry = self._find(token, at_ms, now_ms)
        return None if entry is None else entry.session

    def of_user(self, user_id: int, at_ms: int, now_ms: int) -> list[Session]:
        """Living ones, the latest seen first."""
        mine = [entry for entry in self._by_hash.values() if entry.session.user_id == user_id and entry.alive(at_ms, now_ms)]
        # By the running clock, which no setting of the other turns round.
        return [entry.session for entry in sorted(mine, key=lambda entry: (entry.idle_ms, entry.session.id), reverse=True)]

    def drop(self, session_ids: Iterable[int]) -> None:
        ids = set(session_ids)
        self._by_hash = {key: entry for key, entry in self._by_hash.items() if entry.session.id not in ids}

    def drop_user(self, user_id: int) -> None:
        self._by_hash = {key: entry for key, entry in self._by_hash.items() if entry.session.user_id != user_id}

    def set_totp(self, user_id: int, totp: bool) -> None:
        for entry in self._by_hash.values():
            if entry.session.user_id == user_id:
                entry.session = replace(entry.session, totp=totp)

    def drop_dead(self, at_ms: int, now_ms: int) -> list[int]:
        """Forget those that have ended by themselves; their ids."""
        dead = [entry.session.id for entry in self._by_hash.values() if not entry.alive(at_ms, now_ms)]
        self.drop(dead)
        return dead

    def take_seen(self) -> list[tuple[int, int]]:
        """(id, seen at) of those whose stored time is late by SEEN_LATE_MS; they count as written."""
        late = [
            entry
            for entry in self._by_hash.values()
            # Also when the clock was set back: a time that lies ahead would outlive its session at the next start.
            if abs(entry.session.seen_at_ms - entry.written_at_ms) >= SEEN_LATE_MS
        ]
        for entry in late:
            entry.written_at_ms = entry.session.seen_at_ms
        return [(entry.session.id, entry.session.seen_at_ms) for entry in late]

    def _find(self, token: str, at_ms: int, now_ms: int) -> _Entry | None:
        entry = self._by_hash.get(hash_secret(token))
        return entry if entry is not None and entry.alive(at_ms, now_ms) else None


def _bytes(text: str) -> bytes:
    return text.encode(errors="surrogatepass")
