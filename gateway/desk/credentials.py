"""What people prove who they are with: changed by themselves at a page, or by the operator for somebody who is shut out.

    at a page (desk, visit, session, …)   change_password; begin_totp → enable_totp; disable_totp; renew_recovery_codes
    by the operator (desk, actor, …)      set_password, disable_totp_of, end_sessions_of, create_link

Whoever is at a page shows the password again for each of them: a browser that was left open must not be enough. Other sessions
end with every change, so that whoever should not be in is out. No secret, code or password enters an audit row, a message or the
log.
"""

from __future__ import annotations

import functools
from typing import Any

from gateway.access import hash_secret
from gateway.desk.checks import get_user, refused
from gateway.desk.desk import Desk
from gateway.desk.jobs import whole
from gateway.desk.signin import SignedIn, Visit, check_session, count_code, follow, look, open_session, take_code
from gateway.errors import ClientError
from gateway.passcodes import hash_code, make_recovery_codes, make_totp_secret, parse_totp_secret, show_totp_secret, totp_uri
from gateway.passwords import check_password, hash_password, verify_password
from gateway.sessions import HOUR_MS, Session, make_token
from gateway.storage import audit_log, credentials, sessions
from gateway.storage.ledger import LedgerWriter

LINK_MS = HOUR_MS


# ── at a page ────────────────────────────────────────────────────────────────────────────────────────────────────────


@whole
async def change_password(desk: Desk, visit: Visit, session: Session, *, password: str, new_password: str) -> SignedIn:
    """All sessions end, this one too: the new one takes its place."""
    await prove(desk, visit, session, password)
    account = await look(desk, lambda conn: credentials.get_account(conn, session.user_id))
    check_password(new_password, account.name, account.email or "", param="new_password")
    encoded = await desk.gate.hasher.run(functools.partial(hash_password, new_password))
    at_ms = desk.clock.at_ms()
    token = make_token()

    def job(ledger: LedgerWriter) -> tuple[Session, list[int]]:
        now = check_session(ledger.conn, session)
        credentials.set_password(ledger.conn, now.user_id, encoded, at_ms)
        credentials.end_links(ledger.conn, now.user_id, at_ms)
        ended = sessions.delete_user_sessions(ledger.conn, now.user_id)
        _record(ledger, at_ms, visit, session, "users.change_password", sessions_ended=len(ended))
        return open_session(ledger.conn, visit, now, token, at_ms, "password")[0], ended

    new, ended = await desk.writer.run(job)
    return follow(desk, new, token, ended)


@whole
async def begin_totp(desk: Desk, visit: Visit, session: Session, *, password: str) -> dict[str, str]:
    """A new secret, as an app takes it: `uri` for the QR code, `secret` to be typed. In force once `enable_totp` saw a code of
    it."""
    await prove(desk, visit, session, password)
    secret = make_totp_secret()
    at_ms = desk.clock.at_ms()

    def job(ledger: LedgerWriter) -> None:
        check_session(ledger.conn, session)
        if not credentials.propose_totp(ledger.conn, session.user_id, secret, at_ms):
            raise refused("a second factor is in force already; switch it off first")

    await desk.writer.run(job)
    return {"secret": show_totp_secret(secret), "uri": totp_uri(secret, desk.gate.rules.issuer, session.user_name)}


def totp_uri_of(desk: Desk, session: Session, secret: str) -> str:
    """What the QR code of a proposed secret says, when the page comes again with it. Raises ClientError for what is no secret."""
    try:
        return totp_uri(parse_totp_secret(secret), desk.gate.rules.issuer, session.user_name)
    except ValueError:
        raise refused("this form cannot be read; begin anew") from None


@whole
async def enable_totp(desk: Desk, visit: Visit, session: Session, *, code: str) -> list[str]:
    """In force from here on; the user's other sessions, which showed no code, end. Returns the recovery codes, this once."""
    count_code(desk, session.user_id)
    at_ms = desk.clock.at_ms()
    codes = make_recovery_codes()

    def job(ledger: LedgerWriter) -> list[int]:
        check_session(ledger.conn, session)
        take_code(ledger.conn, session.user_id, code, at_ms, pending=True)
        assert credentials.enable_totp(ledger.conn, session.user_id, at_ms), "it was pending in the same transaction"
        credentials.replace_recovery_codes(ledger.conn, session.user_id, map(hash_code, codes), at_ms)
        ended = sessions.delete_user_sessions(ledger.conn, session.user_id, but=session.id)
        _record(ledger, at_ms, visit, session, "users.enable_totp", sessions_ended=len(ended))
        return ended

    ended = await desk.writer.run(job)
    desk.gate.codes.clear(str(session.user_id))
    desk.sessions.drop(ended)
    desk.sessions.set_totp(session.user_id, True)
    return codes


@whole
async def disable_totp(desk: Desk, visit: Visit, session: Session, *, password: str, code: str) -> None:
    """With password and code: who has only one of them is who it shall keep out."""
    if desk.gate.rules.totp_for_admins and session.role == "admin":
        raise ClientError("forbidden", "Admins must have a second factor here (web.require_totp_for_admins).")
    await prove(desk, visit, session, password)
    count_code(desk, session.user_id)
    at_ms = desk.clock.at_ms()

    def job(ledger: LedgerWriter) -> list[int]:
        check_session(ledger.conn, session)
        take_code(ledger.conn, session.user_id, code, at_ms)
        credentials.delete_totp(ledger.conn, session.user_id)
        ended = sessions.delete_user_sessions(ledger.conn, session.user_id, but=session.id)
        _record(ledger, at_ms, visit, session, "users.disable_totp", sessions_ended=len(ended))
        return ended

    ended = await desk.writer.run(job)
    desk.gate.codes.clear(str(session.user_id))
    desk.sessions.drop(ended)
    desk.sessions.set_totp(session.user_id, False)


@whole
async def renew_recovery_codes(desk: Desk, visit: Visit, session: Session, *, password: str, code: str) -> list[str]:
    """Ten new ones, shown this once; the old ones are worth nothing any more."""
    await prove(desk, visit, session, password)
    count_code(desk, session.user_id)
    at_ms = desk.clock.at_ms()
    codes = make_recovery_codes()

    def job(ledger: LedgerWriter) -> None:
        check_session(ledger.conn, session)
        take_code(ledger.conn, session.user_id, code, at_ms)
        credentials.replace_recovery_codes(ledger.conn, session.user_id, map(hash_code, codes), at_ms)
        _record(ledger, at_ms, visit, session, "users.renew_recovery_codes")

    await desk.writer.run(job)
    desk.gate.codes.clear(str(session.user_id))
    return codes


async def count_recovery_codes(desk: Desk, session: Session) -> int:
    """Those that are left."""
    return await look(desk, lambda conn: credentials.count_recovery_codes(conn, session.user_id))


# ── by the operator ──────────────────────────────────────────────────────────────────────────────────────────────────


@whole
async def set_password(desk: Desk, actor: str, *, user: str, password: str) -> dict[str, Any]:
    """All sessions of the user end, and links that are out; a second factor stays."""
    found = await look(desk, lambda conn: get_user(conn, user))
    check_password(password, found["name"], found["email"] or "")
    encoded = await desk.gate.hasher.run(functools.partial(hash_password, password))
    at_ms = desk.clock.at_ms()

    def job(ledger: LedgerWriter) -> tuple[bool, list[int]]:
        had = credentials.set_password(ledger.conn, found["id"], encoded, at_ms)
        credentials.end_links(ledger.conn, found["id"], at_ms)
        ended = sessions.delete_user_sessions(ledger.conn, found["id"])
        after = {"by": "operator", "sessions_ended": len(ended)}
        audit_log.record(ledger.conn, at_ms, actor, "users.set_password", f"user:{found['name']}", after=after)
        return had, ended

    had, ended = await desk.writer.run(job)
    desk.sessions.drop(ended)
    desk.gate.pardon(found["id"], found["name"].lower(), found["email"] or "")
    return {"id": found["id"], "name": found["name"], "had_password": had, "sessions_ended": len(ended)}


@whole
async def disable_totp_of(desk: Desk, actor: str, *, user: str) -> dict[str, Any]:
    """For somebody who lost both the app and the recovery codes. Their sessions end. `changed` is false if none was in force."""
    at_ms = desk.clock.at_ms()

    def job(ledger: LedgerWriter) -> tuple[dict[str, Any], bool, list[int]]:
        found = get_user(ledger.conn, user)
        changed = credentials.delete_totp(ledger.conn, found["id"])
        ended = sessions.delete_user_sessions(ledger.conn, found["id"]) if changed else []
        if changed:
            after = {"sessions_ended": len(ended)}
            audit_log.record(ledger.conn, at_ms, actor, "users.disable_totp", f"user:{found['name']}", after=after)
        return found, changed, ended

    found, changed, ended = await desk.writer.run(job)
    desk.sessions.drop(ended)
    desk.gate.pardon(found["id"], found["name"].lower(), found["email"] or "")
    return {"id": found["id"], "name": found["name"], "changed": changed, "sessions_ended": len(ended)}


@whole
async def end_sessions_of(desk: Desk, actor: str, *, user: str) -> dict[str, Any]:
    """Signed out everywhere when this returns."""
    at_ms = desk.clock.at_ms()

    def job(ledger: LedgerWriter) -> tuple[dict[str, Any], list[int]]:
        found = get_user(ledger.conn, user)
        ended = sessions.delete_user_sessions(ledger.conn, found["id"])
        if ended:
            after = {"sessions_ended": len(ended)}
            audit_log.record(ledger.conn, at_ms, actor, "users.end_sessions", f"user:{found['name']}", after=after)
        return found, ended

    found, ended = await desk.writer.run(job)
    desk.sessions.drop(ended)
    return {"id": found["id"], "name": found["name"], "sessions_ended": len(ended)}


@whole
async def create_link(desk: Desk, actor: str, *, user: str) -> dict[str, Any]:
    """A one-time link, good for an hour, by which the user sets a password (`signin.redeem_link`); an earlier one is dead. The
    result carries its token: whoever gets it is the user."""
    at_ms = desk.clock.at_ms()
    token = make_token()

    def job(ledger: LedgerWriter) -> dict[str, Any]:
        found = get_user(ledger.conn, user)
        if found["disabled"]:
            raise refused(f"the user {found['name']} is disabled; `pagegrid users enable` first", "user")
        credentials.insert_link(ledger.conn, found["id"], hash_secret(token), actor, at_ms, at_ms + LINK_MS)
        after = {"expires_at_ms": at_ms + LINK_MS}
        audit_log.record(ledger.conn, at_ms, actor, "users.create_link", f"user:{found['name']}", after=after)
        return found

    found = await desk.writer.run(job)
    return {"id": found["id"], "name": found["name"], "expires_at_ms": at_ms + LINK_MS, "token": token}


# ── for pages that ask once more ─────────────────────────────────────────────────────────────────────────────────────


async def prove(desk: Desk, visit: Visit, session: Session, password: str) -> None:
    """That it is still they. Counts as a try to sign in. Raises ClientError. (Should the password be changed right afterwards,
    the session ends with it, and so does what was to be done.)"""
    account_tried = session.user_name.lower()
    desk.gate.knock(visit.address, account_tried, desk.clock.now_ms())
    account = await look(desk, lambda conn: credentials.get_account(conn, session.user_id))
    right = await desk.gate.hasher.run(functools.partial(verify_password, account.password_hash, password))
    if account.password_hash is None or not right:
        raise refused("password: this is not your password", "password")
    desk.gate.let_in(visit.address, account_tried, desk.clock.now_ms())


# ── leaves ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def _record(ledger: LedgerWriter, at_ms: int, visit: Visit, session: Session, action: str, **after: Any) -> None:
    audit_log.record(ledger.conn, at_ms, session.actor(visit.address), action, f"user:{session.user_name}", after=after or None)
