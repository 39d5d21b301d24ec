"""Accounts that people make themselves: by an invite, or for everybody where `web.signup` is "open".

    "closed"   the operator makes users; invites open nothing
    "invite"   whoever has a link (/join/TOKEN) makes one account: its plan, e-mail address and credit are the invite's
    "open"     anybody, on the default plan, without credit; invites work too

An address that a stranger types is nobody's word: it is not asked for, and no name may look like one, because commands find
people by either, and money would go to the wrong one. What a name taken tells a stranger cannot be helped; it is slowed down.
"""

from __future__ import annotations

import functools
import sqlite3
from typing import Any

from gateway.access import DEFAULT_PLAN, hash_secret
from gateway.admins import party_of
from gateway.book import Wallet
from gateway.desk.checks import check_email, check_note, check_user_name, money, parse_amount, parse_duration_ms, refused
from gateway.desk.desk import Desk
from gateway.desk.jobs import whole
from gateway.desk.keys import KEY_ID_MAX
from gateway.desk.signin import SignedIn, Visit, follow, look, open_session
from gateway.desk.users import add_user, check_free, check_plan
from gateway.errors import ClientError
from gateway.passwords import check_password, hash_password
from gateway.sessions import Session, make_token, web_actor
from gateway.storage import audit_log, credentials, invites, wallets
from gateway.storage.invites import Invite
from gateway.storage.ledger import LedgerWriter
from gateway.storage.readonly import snapshot

# ── the operator's ───────────────────────────────────────────────────────────────────────────────────────────────────


@whole
async def create_invite(
    desk: Desk,
    actor: str,
    *,
    credit: str = "0",
    plan: str = DEFAULT_PLAN,
    email: str | None = None,
    expires: str = "7d",
    note: str = "",
) -> dict[str, Any]:
    """One account for whoever has the token that the result carries. `credit` is US dollars, `expires` such as 7d."""
    if desk.gate.rules.signup == "closed":
        raise refused('invites open nothing here: set web.signup = "invite" in the configuration first, and reload it')
    check_plan(desk, plan)
    terms = Invite(0, 0 if credit == "0" else parse_amount(credit, "credit"), plan, check_email(email))
    check_note(note)
    at_ms = desk.clock.at_ms()
    expires_at_ms = at_ms + parse_duration_ms(expires, "expires")
    token = make_token()

    def job(ledger: LedgerWriter) -> dict[str, Any]:
        if terms.email is not None:
            check_free(ledger.conn, "", terms.email)
        invite_id = invites.insert_invite(ledger.conn, hash_secret(token), terms, note, actor, at_ms, expires_at_ms)
        after = {"credit_nanos": terms.credit_nanos, "plan": plan, "email": terms.email, "expires_at_ms": expires_at_ms}
        audit_log.record(ledger.conn, at_ms, actor, "invites.create", f"invite:{invite_id}", after=after)
        return _get_invite(ledger.conn, invite_id)

    return {**_render(await desk.writer.run(job)), "token": token}


@whole
async def revoke_invite(desk: Desk, actor: str, *, invite_id: int) -> dict[str, Any]:
    """Dead when this returns. `changed` is false if it was revoked before; one that was used is refused."""
    at_ms = desk.clock.at_ms()

    def job(ledger: LedgerWriter) -> tuple[dict[str, Any], bool]:
        found = _get_invite(ledger.conn, invite_id)
        if found["used_by"] is not None:
            raise refused(f"invite {invite_id} was used already, by {found['used_by']}", "invite_id")
        changed = invites.revoke_invite(ledger.conn, invite_id, at_ms)
        if changed:
            after = {"revoked_at_ms": at_ms}
            audit_log.record(ledger.conn, at_ms, actor, "invites.revoke", f"invite:{invite_id}", after=after)
        return _get_invite(ledger.conn, invite_id), changed

    found, changed = await desk.writer.run(job)
    return {**_render(found), "changed": changed}


def list_invites(conn: sqlite3.Connection) -> list[dict[str, Any]]:
    """All that there ever were; `used_by` is a name."""
    with snapshot(conn):
        return [_render(invite) for invite in invites.list_invites(conn)]


def show_invite(conn: sqlite3.Connection, *, invite_id: int) -> dict[str, Any]:
    """One of them. Raises ClientError for one that is not there."""
    return _render(_get_invite(conn, invite_id))


# ── at a page ────────────────────────────────────────────────────────────────────────────────────────────────────────


async def find_invite(desk: Desk, token: str) -> Invite | None:
    """What the page of an invite shows; None if it was used or revoked, has expired, or never was. Uses nothing up."""
    if desk.gate.rules.signup == "closed":
        return None
    return await look(desk, lambda conn: invites.find_invite(conn, hash_secret(token), desk.clock.at_ms()))


@whole
async def accept_invite(desk: Desk, visit: Visit, *, token: str, name: str, password: str) -> SignedIn:
    """A user with a wallet, the invite's credit in it, and a session. Raises ClientError: `not_found` for an invite that is not
    to be used, `invalid_request` for a name or password."""
    invite = await find_invite(desk, token)
    if invite is None:
        raise _no_invite()
    return await _join(desk, visit, name, password, invite)


@whole
async def sign_up(desk: Desk, visit: Visit, *, name: str, password: str) -> SignedIn:
    """An account for anybody, where the configuration says so. Raises ClientError."""
    if desk.gate.rules.signup != "open":
        raise ClientError("forbidden", "Accounts are made by the operator here; ask them for one.")
    return await _join(desk, visit, name, password, None)


# ── leaves ───────────────────────────────────────────────────────────────────────────────────────────────────────────


async def _join(desk: Desk, visit: Visit, name: str, password: str, invite: Invite | None) -> SignedIn:
    email = invite.email if invite else None
    _check_name(name)
    check_password(password, name, email or "")
    now_ms = desk.clock.now_ms()
    # Counted whether it goes well or not: accounts are not made by the dozen.
    desk.gate.rare.check(party_of(visit.address), now_ms)
    desk.gate.rare.count(party_of(visit.address), now_ms)
    plan = invite.plan if invite else DEFAULT_PLAN
    if plan not in desk.plans:
        raise refused("this invite is for a plan that is no more; ask whoever invited you for another")
    encoded = await desk.gate.hasher.run(functools.partial(hash_password, password))
    at_ms = desk.clock.at_ms()
    token = make_token()
    actor = web_actor(name, visit.address)
    credit_nanos = invite.credit_nanos if invite else 0

    def job(ledger: LedgerWriter) -> tuple[Session, int]:
        check_free(ledger.conn, name, email)
        user_id, wallet_id = add_user(ledger, actor, at_ms, name, email, "user", plan)
        credentials.set_password(ledger.conn, user_id, encoded, at_ms)
        if invite is not None:
            # Compare and swap: who comes second is nobody, and all of this is rolled back.
            if not invites.use_invite(ledger.conn, invite.id, user_id, at_ms):
                raise _no_invite()
            _grant(ledger, actor, at_ms, name, wallet_id, invite)
        session, _ = open_session(ledger.conn, visit, credentials.get_account(ledger.conn, user_id), token, at_ms, "sign_up")
        return session, wallet_id

    session, wallet_id = await desk.writer.run(job)
    desk.book.open_wallet(Wallet(wallet_id))
    if credit_nanos:
        desk.book.deposit(wallet_id, credit_nanos)
    return follow(desk, session, token, [])


def _grant(ledger: LedgerWriter, actor: str, at_ms: int, name: str, wallet_id: int, invite: Invite) -> None:
    after: dict[str, Any] = {"by": name}
    if invite.credit_nanos:
        movement = wallets.grant_promo(
            ledger, wallet_id, invite.credit_nanos, f"invite:{invite.id}", "credit of an invite", at_ms
        )
        after |= {"transfer_id": movement.transfer_id, "amount_nanos": invite.credit_nanos}
    audit_log.record(ledger.conn, at_ms, actor, "invites.accept", f"invite:{invite.id}", after=after)


def _check_name(name: str) -> None:
    check_user_name(name)
    if "@" in name:
        raise refused("name: choose one without @, it is no address", "name")


def _get_invite(conn: sqlite3.Connection, invite_id: int) -> dict[str, Any]:
    found = invites.get_invite(conn, invite_id) if 0 < invite_id <= KEY_ID_MAX else None
    if found is None:
        raise ClientError("not_found", "there is no such invite; ID is the number in `pagegrid invites list`", param="invite_id")
    return found


def _render(invite: dict[str, Any]) -> dict[str, Any]:
    return {**invite, **money(credit=invite["credit_nanos"])}


def _no_invite() -> ClientError:
    return ClientError(
        "not_found", "This invite was used or revoked, or has expired; ask whoever sent it for another.", param="token"
    )
