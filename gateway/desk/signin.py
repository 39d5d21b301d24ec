"""Signing in to the pages, and what is done while signed in about sessions. Pages are thin: what they need is here.

    POST /login          sign_in(desk, visit, name=…, password=…)      → SignedIn: its token is the cookie, in place of any other
                           raises CodeNeeded                           → ask for the code, with the ticket in a hidden field
    POST /login/code     enter_code(desk, visit, ticket=…, code=…)     → SignedIn
    every page           find_session(desk, token)                     → the living Session, or None: to /login
                         must_set_up_totp(desk, session)               → true: to the page for that, and no other
    POST /logout         sign_out(desk, visit, session)
    /welcome/TOKEN       find_welcome(desk, token)                     → whose link it is, or None
                         redeem_link(desk, visit, token=…, password=…) → SignedIn, or raises CodeNeeded
    every form           csrf_token(token), is_csrf_token(token, sent)   in gateway/sessions.py
    /settings            list_sessions, end_session, end_other_sessions; more in desk/credentials.py

Refusals are ClientErrors whose `param` names the field beside which they stand. Whoever is not let in learns nothing of who there
is: an unknown name, a user without a password, a disabled one and a wrong password take the same way, one hash long, to the same
words. None of these is an act by name (`acts.py`): they are for a person at a page, with a password, never for a key or the
socket.
"""

from __future__ import annotations

import functools
import logging
import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from typing import Any, TypeVar

from gateway.access import hash_secret
from gateway.desk.checks import EMAIL_CHARS_MAX
from gateway.desk.desk import Desk
from gateway.desk.jobs import whole
from gateway.errors import ClientError
from gateway.passcodes import hash_code, looks_like_totp, match_totp
from gateway.passwords import check_password, hash_password, needs_rehash, verify_password
from gateway.sessions import ABSOLUTE_MS, SESSIONS_PER_USER_MAX, Session, make_token, short_agent, web_actor
from gateway.storage import audit_log, credentials, database, sessions
from gateway.storage.credentials import Account
from gateway.storage.ledger import LedgerWriter

logger = logging.getLogger(__name__)

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Visit:
    """Where something is asked from: the client's address (behind a proxy, the one that it tells) and its user-agent header."""

    address: str
    agent: str = ""


@dataclass(frozen=True, slots=True)
class SignedIn:
    """A new session. The token is for the cookie and for nothing else."""

    token: str
    session: Session

    def __repr__(self) -> str:
        return f"SignedIn({self.session!r})"


class CodeNeeded(ClientError):
    """The password was right, and this user has a second factor: ask for the code, and hand in the ticket with it."""

    def __init__(self, ticket: str) -> None:
        super().__init__("unauthenticated", "Enter the code that your authenticator app shows, or a recovery code.", param="code")
        self.ticket = ticket


# ── in ───────────────────────────────────────────────────────────────────────────────────────────────────────────────


@whole
async def sign_in(desk: Desk, visit: Visit, *, name: str, password: str, code: str | None = None) -> SignedIn:
    """`name` is a name or an e-mail address. Raises ClientError: `unauthenticated`, CodeNeeded, `rate_limited` after too many
    tries of this account or from this address; HouseError while too many sign in."""
    # What is no text (half an emoji of a broken form) is nobody's name either.
    account_tried = name.strip().lower()[:EMAIL_CHARS_MAX].encode(errors="replace").decode()
    desk.gate.knock(visit.address, account_tried, desk.clock.now_ms())
    account = await look(desk, lambda conn: credentials.find_account(conn, account_tried))
    stored = None if account is None or account.disabled else account.password_hash
    right = await desk.gate.hasher.run(functools.partial(verify_password, stored, password))
    if account is None or stored is None or not right:
        logger.warning("a wrong password for %s from %s", account.name if account else "nobody who is here", visit.address)
        raise _wrong()
    if needs_rehash(stored):
        stored = await _rehash(desk, account.user_id, stored, password)
    desk.gate.let_in(visit.address, account_tried, desk.clock.now_ms())
    if account.totp and not code:
        raise CodeNeeded(desk.gate.tickets.issue(account.user_id, stored, desk.clock.now_ms()))
    return await _admit(desk, visit, account, stored, code)


@whole
async def enter_code(desk: Desk, visit: Visit, *, ticket: str, code: str) -> SignedIn:
    """After CodeNeeded. Raises ClientError: `unauthenticated` with `param` "code", or "ticket" if the sign-in must begin anew."""
    found = desk.gate.tickets.find(ticket, desk.clock.now_ms())
    if found is None:
        raise ClientError("unauthenticated", "This took longer than five minutes; sign in again.", param="ticket")
    user_id, stored = found
    account = await look(desk, lambda conn: credentials.get_account(conn, user_id))
    signed_in = await _admit(desk, visit, account, stored, code)
    desk.gate.tickets.drop(ticket)
    return signed_in


@whole
async def redeem_link(desk: Desk, visit: Visit, *, token: str, password: str) -> SignedIn:
    """Set the password by a one-time link; other sessions end. Raises ClientError, CodeNeeded if there is a second factor (the
    password is set then, and the link used)."""
    secret_hash = hash_secret(token)
    user_id = await look(desk, lambda conn: credentials.find_link(conn, secret_hash, desk.clock.at_ms()))
    if user_id is None:
        raise _no_link()
    account = await look(desk, lambda conn: credentials.get_account(conn, user_id))
    check_password(password, account.name, account.email or "")
    encoded = await desk.gate.hasher.run(functools.partial(hash_password, password))
    at_ms = desk.clock.at_ms()
    new_token = make_token()

    def job(ledger: LedgerWriter) -> tuple[Session | None, list[int]]:
        conn = ledger.conn
        now = credentials.get_account(conn, account.user_id)
        if now.disabled or not credentials.use_link(conn, secret_hash, at_ms):
            raise _no_link()
        credentials.set_password(conn, account.user_id, encoded, at_ms)
        ended = sessions.delete_user_sessions(conn, account.user_id)
        actor = web_actor(now.name, visit.address)
        audit_log.record(
            conn, at_ms, actor, "users.set_password", f"user:{now.name}", after={"by": "link", "sessions_ended": len(ended)}
        )
        return (None if now.totp else open_session(conn, visit, now, new_token, at_ms, "link")[0]), ended

    session, ended = await desk.writer.run(job)
    desk.sessions.drop(ended)
    desk.gate.pardon(account.user_id, account.name.lower(), account.email or "")
    if session is None:
        raise CodeNeeded(desk.gate.tickets.issue(account.user_id, encoded, desk.clock.now_ms()))
    return follow(desk, session, new_token, [])


async def find_welcome(desk: Desk, token: str) -> str | None:
    """The name of the user whose one-time link this is; None if it was used, has expired or never was. Uses nothing up."""

    def find(conn: sqlite3.Connection) -> str | None:
        user_id = credentials.find_link(conn, hash_secret(token), desk.clock.at_ms())
        return None if user_id is None else credentials.get_account(conn, user_id).name

    return await look(desk, find)


# ── while in ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def find_session(desk: Desk, token: str) -> Session | None:
    """The living session of a cookie's token, which counts as seen now. Asks memory alone: any page may."""
    return desk.sessions.find(token, desk.clock.at_ms(), desk.clock.now_ms())


def must_set_up_totp(desk: Desk, session: Session) -> bool:
    """Whether this admin may do nothing but set up a second factor (and sign out)."""
    return desk.gate.rules.totp_for_admins and session.role == "admin" and not session.totp


def list_sessions(desk: Desk, session: Session) -> list[dict[str, Any]]:
    """The user's own, the latest seen first."""
    mine = desk.sessions.of_user(session.user_id, desk.clock.at_ms(), desk.clock.now_ms())
    return [
        {
            "id": each.id,
            "current": each.id == session.id,
            "created_at_ms": each.created_at_ms,
            "seen_at_ms": each.seen_at_ms,
            "expires_at_ms": each.expires_at_ms,
            "address": each.address,
            "agent": each.agent,
        }
        for each in mine
    ]


@whole
async def end_session(desk: Desk, visit: Visit, session: Session, *, session_id: int) -> None:
    """One of the user's own, be it this one. Raises ClientError `not_found` for anybody else's."""
    at_ms = desk.clock.at_ms()

    def job(ledger: LedgerWriter) -> None:
        if not sessions.has_session(ledger.conn, session_id, session.user_id):
            raise ClientError("not_found", "there is no such session", param="session_id")
        sessions.delete_sessions(ledger.conn, [session_id])
        subject, after = f"user:{session.user_name}", {"session": session_id}
        audit_log.record(ledger.conn, at_ms, session.actor(visit.address), "sessions.end", subject, after=after)

    await desk.writer.run(job)
    desk.sessions.drop([session_id])


@whole
async def sign_out(desk: Desk, visit: Visit, session: Session) -> None:
    """Dead when this returns; no matter if it was already."""
    at_ms = desk.clock.at_ms()

    def job(ledger: LedgerWriter) -> None:
        if sessions.has_session(ledger.conn, session.id, session.user_id):
            sessions.delete_sessions(ledger.conn, [session.id])
            subject, after = f"user:{session.user_name}", {"session": session.id}
            audit_log.record(ledger.conn, at_ms, session.actor(visit.address), "sessions.sign_out", subject, after=after)

    await desk.writer.run(job)
    desk.sessions.drop([session.id])


@whole
async def end_other_sessions(desk: Desk, visit: Visit, session: Session) -> int:
    """How many there were."""
    at_ms = desk.clock.at_ms()

    def job(ledger: LedgerWriter) -> list[int]:
        check_session(ledger.conn, session)
        ended = sessions.delete_user_sessions(ledger.conn, session.user_id, but=session.id)
        if ended:
            subject, after = f"user:{session.user_name}", {"sessions_ended": len(ended)}
            audit_log.record(ledger.conn, at_ms, session.actor(visit.address), "sessions.end_others", subject, after=after)
        return ended

    ended = await desk.writer.run(job)
    desk.sessions.drop(ended)
    return len(ended)


async def keep_sessions(desk: Desk) -> None:
    """What is done every so often: forget those that have ended by themselves, write when the others were last seen."""
    at_ms = desk.clock.at_ms()
    dead, seen = desk.sessions.drop_dead(at_ms, desk.clock.now_ms()), desk.sessions.take_seen()

    def job(ledger: LedgerWriter) -> None:
        sessions.delete_sessions(ledger.conn, dead)
        sessions.delete_dead(ledger.conn, at_ms)
        sessions.write_seen(ledger.conn, seen)

    if dead or seen:
        await desk.writer.run(job)


# ── for the rooms beside this one ────────────────────────────────────────────────────────────────────────────────────


async def look(desk: Desk, read: Callable[[sqlite3.Connection], T], user_id: int | None = None) -> T:
    """On a reader of its own: a stranger's try must not come between the writer's batches. `user_id` is whose page waits for
    it, where it may take long."""

    def work() -> T:
        with closing(database.open_reader(desk.database)) as conn:
            return read(conn)

    return await desk.readers.run(work, user_id)


def open_session(
    conn: sqlite3.Connection, visit: Visit, account: Account, token: str, at_ms: int, by: str
) -> tuple[Session, list[int]]:
    """Within a job: the new session, and ids of those that make room for it. `follow` comes after the commit."""
    agent = short_agent(visit.agent)
    session = sessions.insert_session(conn, account.user_id, hash_secret(token), at_ms, at_ms + ABSOLUTE_MS, visit.address, agent)
    ended = sessions.end_oldest(conn, account.user_id, session.id, SESSIONS_PER_USER_MAX)
    after = {"session": session.id, "by": by, "agent": agent}
    audit_log.record(conn, at_ms, session.actor(visit.address), "sessions.sign_in", f"user:{account.name}", after=after)
    return session, ended


def follow(desk: Desk, session: Session, token: str, ended: list[int]) -> SignedIn:
    """Memory, once it is on disk."""
    desk.sessions.drop(ended)
    desk.sessions.put(hash_secret(token), session, session.created_at_ms, desk.clock.now_ms())
    logger.info("%s signed in, session %d", session.actor(session.address), session.id)
    return SignedIn(token, session)


def check_session(conn: sqlite3.Connection, session: Session) -> Account:
    """Whose it is, within a job. Raises ClientError if it ended since the page was asked for."""
    if not sessions.has_session(conn, session.id, session.user_id):
        raise ClientError("unauthenticated", "Your session has ended; sign in again.")
    return credentials.get_account(conn, session.user_id)


def count_code(desk: Desk, user_id: int) -> None:
    """A try to show a code. Raises ClientError `rate_limited`."""
    now_ms = desk.clock.now_ms()
    desk.gate.codes.check(str(user_id), now_ms)
    desk.gate.codes.count(str(user_id), now_ms)


def take_code(conn: sqlite3.Connection, user_id: int, code: str, at_ms: int, *, pending: bool = False) -> str:
    """Use up a code within a job, "totp" or "recovery_code"; `pending`: the first one of an app that is not in force yet.

    Raises ClientError, whatever is wrong with it. Jobs run one after another, so that of two who show the same code one is first.
    """
    found = credentials.find_totp(conn, user_id)
    if found is not None and found[2] is not pending:
        secret, last_step, _ = found
        if looks_like_totp(code):
            step = match_totp(secret, code, at_ms, last_step)
            if step is not None and credentials.take_step(conn, user_id, step):
                return "totp"
        elif not pending and credentials.use_recovery_code(conn, user_id, hash_code(code), at_ms):
            return "recovery_code"
    raise refused_code()


def refused_code() -> ClientError:
    return ClientError(
        "unauthenticated",
        "This code is not right, or was used before. An app's code is good for about a minute, once; look whether your device's "
        "clock is right.",
        param="code",
    )


async def _admit(desk: Desk, visit: Visit, account: Account, stored: str, code: str | None) -> SignedIn:
    """Open the session of somebody whose password (of the hash `stored`) was right."""
    if account.totp:
        count_code(desk, account.user_id)
    at_ms = desk.clock.at_ms()
    token = make_token()

    def job(ledger: LedgerWriter) -> tuple[Session, list[int]]:
        now = credentials.get_account(ledger.conn, account.user_id)
        # Whatever was changed since the look: who was shut out meanwhile stays out.
        if now.disabled or now.password_hash != stored:
            raise _wrong()
        by = take_code(ledger.conn, now.user_id, code or "", at_ms) if now.totp else "password"
        return open_session(ledger.conn, visit, now, token, at_ms, by)

    try:
        session, ended = await desk.writer.run(job)
    except ClientError:
        logger.warning("a wrong code for %s from %s", account.name, visit.address)
        raise
    if account.totp:
        desk.gate.codes.clear(str(account.user_id))
    return follow(desk, session, token, ended)


async def _rehash(desk: Desk, user_id: int, stored: str, password: str) -> str:
    """The hash that stands there now, by today's parameters."""
    encoded = await desk.gate.hasher.run(functools.partial(hash_password, password))

    def job(ledger: LedgerWriter) -> str | None:
        credentials.rehash_password(ledger.conn, user_id, stored, encoded)
        return credentials.get_account(ledger.conn, user_id).password_hash

    now = await desk.writer.run(job)
    # Another sign-in of theirs may have been first, or the password was changed.
    if now is None or (now != encoded and not await desk.gate.hasher.run(functools.partial(verify_password, now, password))):
        raise _wrong()
    return now


def _wrong() -> ClientError:
    return ClientError("unauthenticated", "Name or password is not right.", param="password")


def _no_link() -> ClientError:
    return ClientError(
        "not_found",
        "This link was used already, or has expired; `pagegrid users set-password` on the server sets a password.",
        param="token",
    )
