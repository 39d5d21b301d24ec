"""Keys: made, shown once, replaced, ended. In force, in memory, when an act returns.

A secret appears in the result of `create_key` and `rotate_key`, and nowhere else: the database has its hash, people see the hint.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from dataclasses import dataclass, replace
from ipaddress import ip_network
from typing import Any, Literal

from gateway.access import Key, Network, Own, hash_secret, hint_of, make_secret
from gateway.catalog import Catalog
from gateway.desk.checks import NAME_CHARS_MAX, check_text, get_user, parse_duration_ms, parse_limit_usd, refused
from gateway.desk.desk import Desk
from gateway.desk.history import load_history
from gateway.desk.jobs import whole
from gateway.errors import ClientError
from gateway.limits import Terms
from gateway.money import BadAmount, Factor, format_usd
from gateway.storage import audit_log, keys
from gateway.storage.ledger import LedgerWriter
from gateway.storage.readonly import snapshot

# SQLite's integers end here; no key has a higher id.
KEY_ID_MAX = 2**63 - 1
LIMIT_MAX = 10**12
ADDRESSES_MAX = 100
MONEY_LIMITS = ("spend_per_day", "spend_per_month", "spend_total")

# What a limit may be set to; 0 is unlimited, "plan" what the user's plan says, also when that changes.
Count = int | Literal["plan"]
# US dollars as a decimal text, "0", or "plan".
Usd = str

# What a page asks of a key beside what everybody must (`own_keys.py`; no argument of the acts by name): called within the job,
# once it is written, with the key as it was (None: it is new) and as it is now. It raises ClientError, and nothing was written.
Check = Callable[[sqlite3.Connection, Key | None, Key], None]


@dataclass(frozen=True, slots=True)
class _Terms:
    """What a key may do; a rotation hands it on."""

    name: str
    own: Own
    expires_at_ms: int | None


@whole
async def create_key(
    desk: Desk,
    actor: str,
    check: Check | None = None,
    *,
    user: str,
    name: str = "default",
    rpm: Count = "plan",
    tpm: Count = "plan",
    concurrent: Count = "plan",
    requests_per_day: Count = "plan",
    tokens_per_month: Count = "plan",
    spend_per_day: Usd = "plan",
    spend_per_month: Usd = "plan",
    spend_total: Usd = "plan",
    models: list[str] | Literal["plan"] = "plan",
    addresses: list[str] | Literal["plan"] = "plan",
    factor: str = "1",
    expires: str | None = None,
) -> dict[str, Any]:
    """`expires` such as 30d or "never", None = as the plan has it. The result carries the secret."""
    at_ms = desk.clock.at_ms()
    own = _own(
        desk.catalog,
        Own(),
        {
            "rpm": rpm,
            "tpm": tpm,
            "concurrent": concurrent,
            "requests_per_day": requests_per_day,
            "tokens_per_month": tokens_per_month,
            "spend_per_day": spend_per_day,
            "spend_per_month": spend_per_month,
            "spend_total": spend_total,
            "models": models,
            "addresses": addresses,
            "factor": factor,
        },
    )
    check_text(name, "name", NAME_CHARS_MAX)
    if expires is not None:
        _expiry(expires, at_ms)
    secret = make_secret(desk.key_prefix)

    def job(ledger: LedgerWriter) -> Key:
        found = get_user(ledger.conn, user)
        _check_enabled(found["name"], found["disabled"])
        plan = desk.plans.get(found["plan"])
        lifetime = expires or (plan.keys_expire if plan else "") or "never"
        terms = _Terms(name, own, _expiry(lifetime, at_ms))
        key = _insert(ledger.conn, desk.key_prefix, secret, found["id"], terms, None, at_ms)
        if check is not None:
            check(ledger.conn, None, key)
        audit_log.record(ledger.conn, at_ms, actor, "keys.create", f"key:{key.id}", after=audited(key))
        return key

    key = await desk.writer.run(job)
    desk.keys.put(hash_secret(secret), key)
    return {**_render(key), "created_at_ms": at_ms, "rotated_from": None, "secret": secret}


@whole
async def update_key(
    desk: Desk,
    actor: str,
    check: Check | None = None,
    *,
    key_id: int,
    name: str | None = None,
    rpm: Count | None = None,
    tpm: Count | None = None,
    concurrent: Count | None = None,
    requests_per_day: Count | None = None,
    tokens_per_month: Count | None = None,
    spend_per_day: Usd | None = None,
    spend_per_month: Usd | None = None,
    spend_total: Usd | None = None,
    models: list[str] | Literal["plan"] | None = None,
    addresses: list[str] | Literal["plan"] | None = None,
    factor: str | None = None,
    expires: str | None = None,
) -> dict[str, Any]:
    """Change what is given, leave the rest. In force when this returns; requests that run go on under what they began with."""
    at_ms = desk.clock.at_ms()
    changes = {
        "rpm": rpm,
        "tpm": tpm,
        "concurrent": concurrent,
        "requests_per_day": requests_per_day,
        "tokens_per_month": tokens_per_month,
        "spend_per_day": spend_per_day,
        "spend_per_month": spend_per_month,
        "spend_total": spend_total,
        "models": models,
        "addresses": addresses,
        "factor": factor,
    }
    changes = {option: value for option, value in changes.items() if value is not None}
    if not changes and name is None and expires is None:
        raise refused("nothing to change was given", None)

    def job(ledger: LedgerWriter) -> tuple[bytes, Key, bool]:
        _, old = _get_key(ledger.conn, key_id)
        _check_alive(ledger.conn, old, at_ms)
        terms = _Terms(
            old.name if name is None else check_text(name, "name", NAME_CHARS_MAX),
            _own(desk.catalog, old.own, changes),
            old.expires_at_ms if expires is None else _expiry(expires, at_ms),
        )
        keys.update_key(ledger.conn, key_id, terms.name, terms.own, terms.expires_at_ms)
        secret_hash, new = _get_key(ledger.conn, key_id)
        if check is not None:
            check(ledger.conn, old, new)
        before, after = audited(old), audited(new)
        changed = {option for option in after if after[option] != before[option]}
        # What an operator says holds against the key's user, also where it was so before.
        told = changed if check is not None else changed | changes.keys()
        if told:
            states = {
                "before": {option: before[option] for option in told},
                "after": {option: after[option] for option in told},
            }
            audit_log.record(ledger.conn, at_ms, actor, "keys.update", f"key:{key_id}", **states)
        return secret_hash, new, bool(changed)

    await load_history(desk, key_id=key_id if key_id <= KEY_ID_MAX else None)
    secret_hash, key, changed = await desk.writer.run(job)
    if desk.keys.knows(secret_hash):  # that of a disabled user stays out
        desk.keys.put(secret_hash, key)
    return {**_render(key), "changed": changed}


@whole
async def revoke_key(desk: Desk, actor: str, *, key_id: int) -> dict[str, Any]:
    """Dead when this returns. `changed` is false if it was dead before."""
    at_ms = desk.clock.at_ms()

    def job(ledger: LedgerWriter) -> tuple[bytes, Key, int | None, bool]:
        secret_hash, key = _get_key(ledger.conn, key_id)
        changed = keys.revoke_key(ledger.conn, key_id, at_ms)
        if changed:
            before, after = {"revoked_at_ms": key.revoked_at_ms}, {"revoked_at_ms": at_ms}
            audit_log.record(ledger.conn, at_ms, actor, "keys.revoke", f"key:{key_id}", before=before, after=after)
        return secret_hash, _get_key(ledger.conn, key_id)[1], _successor(ledger.conn, key), changed

    secret_hash, key, successor, changed = await desk.writer.run(job)
    desk.keys.drop(secret_hash)
    return {**_render(key), "replaced_by": successor, "changed": changed}


@whole
async def rotate_key(desk: Desk, actor: str, check: Check | None = None, *, key_id: int, grace: str = "0") -> dict[str, Any]:
    """A new key with the same settings, its expiry too. The old one lives on for `grace` (such as 1h; "0": dead when this
    returns) or until its own expiry, if that comes first; `old_dead_at_ms` is when.
    """
    grace_ms = 0 if grace == "0" else parse_duration_ms(grace, "grace")
    at_ms = desk.clock.at_ms()
    secret = make_secret(desk.key_prefix)

    def job(ledger: LedgerWriter) -> tuple[bytes, Key, Key]:
        _, old = _get_key(ledger.conn, key_id)
        _check_alive(ledger.conn, old, at_ms)
        _check_enabled(old.user_name, get_user(ledger.conn, old.user_name)["disabled"])
        terms = _Terms(old.name, old.own, old.expires_at_ms)
        new = _insert(ledger.conn, desk.key_prefix, secret, old.user_id, terms, old.id, at_ms)
        if check is not None:
            check(ledger.conn, old, new)
        keys.revoke_key(ledger.conn, old.id, at_ms + grace_ms)
        after = {**audited(new), "rotated_from": old.id, "old_revoked_at_ms": at_ms + grace_ms}
        audit_log.record(ledger.conn, at_ms, actor, "keys.rotate", f"key:{new.id}", after=after)
        old_hash, old = _get_key(ledger.conn, old.id)
        return old_hash, old, new

    old_hash, old, new = await desk.writer.run(job)
    desk.keys.put(hash_secret(secret), new)
    if grace_ms:
        desk.keys.put(old_hash, old)
    else:
        desk.keys.drop(old_hash)
    return {
        **_render(new),
        "created_at_ms": at_ms,
        "rotated_from": old.id,
        "old_revoked_at_ms": old.revoked_at_ms,
        "old_dead_at_ms": old.dead_at_ms,
        "secret": secret,
    }


def issue_key(
    desk: Desk, conn: sqlite3.Connection, actor: str, user_id: int, plan: str, name: str, at_ms: int
) -> tuple[str, Key]:
    """(secret, key) of a key that is as its user's plan has it: within a job, whose caller puts it on the ring afterwards."""
    secret = make_secret(desk.key_prefix)
    lifetime = desk.plans[plan].keys_expire if plan in desk.plans else ""
    terms = _Terms(name, Own(), _expiry(lifetime or "never", at_ms))
    key = _insert(conn, desk.key_prefix, secret, user_id, terms, None, at_ms)
    audit_log.record(conn, at_ms, actor, "keys.create", f"key:{key.id}", after=audited(key))
    return secret, key


def list_keys(conn: sqlite3.Connection, *, user: str) -> list[dict[str, Any]]:
    """All keys that the user ever had; times say which are alive, `replaced_by` which key came after a rotation."""
    with snapshot(conn):
        listed = keys.list_keys(conn, get_user(conn, user)["id"])
    successors = _successors(listed)
    return [{**_render(key), **origin, "replaced_by": successors.get(key.id)} for key, origin in listed]


def show_key(conn: sqlite3.Connection, *, key_id: int) -> dict[str, Any]:
    with snapshot(conn):
        key = _get_key(conn, key_id)[1]
        return {**_render(key), "replaced_by": _successor(conn, key)}


# ── leaves ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def _own(catalog: Catalog, own: Own, changes: dict[str, Any]) -> Own:
    """What the key says for itself after `changes`. Raises ClientError that names the option."""
    limits = dict(own.limits)
    for option in (*Terms.__slots__, *MONEY_LIMITS):
        if option in changes:
            name = f"{option}_nanos" if option in MONEY_LIMITS else option
            if changes[option] == "plan":
                limits.pop(name, None)
            else:
                limits[name] = _limit(option, changes[option])
    models, addresses, factor = changes.get("models"), changes.get("addresses"), changes.get("factor")
    if models is not None:
        own = replace(own, models=None if models == "plan" else _resolve_models(catalog, models))
    if addresses is not None:
        own = replace(own, addresses=None if addresses == "plan" else _networks(addresses))
    if factor is not None:
        own = replace(own, factor=_factor(factor))
    return replace(own, limits=tuple(sorted(limits.items())))


def _limit(option: str, value: Any) -> int:
    if option in MONEY_LIMITS:
        return parse_limit_usd(value, option)
    if not 0 <= value <= LIMIT_MAX:
        raise refused(f'{option}: write a whole number from 1 to {LIMIT_MAX}, 0 for unlimited, or "plan" for the plan\'s', option)
    return int(value)


def _networks(texts: list[str]) -> tuple[Network, ...]:
    if len(texts) > ADDRESSES_MAX:
        raise refused(f"addresses: at most {ADDRESSES_MAX} of them", "addresses")
    networks = []
    for text in texts:
        try:
            networks.append(ip_network(text))
        except ValueError:
            raise refused(
                'addresses: write addresses or CIDR ranges without bits beyond the prefix, such as "10.0.0.0/8"', "addresses"
            ) from None
    return tuple(networks)


def _factor(text: str) -> Factor:
    try:
        return Factor.parse(text)
    except BadAmount as error:
        raise refused(f"factor: {error}", "factor") from None


def _expiry(text: str, at_ms: int) -> int | None:
    return None if text == "never" else at_ms + parse_duration_ms(text, "expires")


def _resolve_models(catalog: Catalog, names: list[str]) -> frozenset[str]:
    """Ids of the models; the walk compares ids, so an alias is kept as the model that it names."""
    if not names:
        raise refused("models: name at least one, or leave it out for all", "models")
    return frozenset(_resolve_model(catalog, name) for name in names)


def _resolve_model(catalog: Catalog, name: str) -> str:
    model = catalog.find(name)
    if model is not None:
        return model.id
    nearest = catalog.nearest(name)
    hint = f"did you mean {nearest}?" if nearest else "`pagegrid models list` shows what is."
    raise refused(f"models: {name[:NAME_CHARS_MAX]!r} is not offered here; {hint}", "models")


def _check_enabled(name: str, disabled: bool) -> None:
    if disabled:
        raise refused(f"the user {name} is disabled; `pagegrid users enable` first", "user")


def _check_alive(conn: sqlite3.Connection, key: Key, at_ms: int) -> None:
    successor = _successor(conn, key)
    if successor is not None:
        raise refused(f"key {key.id} was replaced by key {successor} already; rotate that one, or create a new one", "key_id")
    if key.revoked_at_ms is not None:
        raise refused(f"key {key.id} was revoked already; create a new one", "key_id")
    if key.expires_at_ms is not None and key.expires_at_ms <= at_ms:
        raise refused(f"key {key.id} has expired; create a new one", "key_id")


def _get_key(conn: sqlite3.Connection, key_id: int) -> tuple[bytes, Key]:
    found = keys.find_key(conn, key_id) if 0 < key_id <= KEY_ID_MAX else None
    if found is None:
        # What was typed is not repeated: it may be a secret's digits.
        raise ClientError("not_found", "there is no such key; ID is the number in `pagegrid keys list USER`", param="key_id")
    return found


def _successor(conn: sqlite3.Connection, key: Key) -> int | None:
    return keys.find_successor(conn, key.root_id, key.id)


def _successors(listed: list[tuple[Key, dict[str, Any]]]) -> dict[int, int]:
    """Old key → the key that a rotation put in its place."""
    return {origin["rotated_from"]: key.id for key, origin in listed if origin["rotated_from"] is not None}


def _insert(
    conn: sqlite3.Connection, prefix: str, secret: str, user_id: int, terms: _Terms, rotated_from: int | None, at_ms: int
) -> Key:
    key_id = keys.insert_key(
        conn,
        user_id=user_id,
        name=terms.name,
        secret_hash=hash_secret(secret),
        hint=hint_of(prefix, secret),
        own=terms.own,
        expires_at_ms=terms.expires_at_ms,
        rotated_from=rotated_from,
        at_ms=at_ms,
    )
    return _get_key(conn, key_id)[1]


def _render(key: Key) -> dict[str, Any]:
    """As it is stored: null is "as the plan has it"."""
    limits = dict(key.own.limits)
    shown: dict[str, Any] = {}
    for name in Terms.__slots__:
        value = limits.get(name)
        option = name.removesuffix("_nanos")
        shown[option] = format_usd(value) if option in MONEY_LIMITS and value is not None else value
    return {
        "id": key.id,
        "user": key.user_name,
        "name": key.name,
        "hint": key.hint,
        "plan": key.plan,
        **shown,
        "models": None if key.own.models is None else sorted(key.own.models),
        "addresses": None if key.own.addresses is None else [str(network) for network in key.own.addresses],
        "factor": str(key.own.factor),
        "expires_at_ms": key.expires_at_ms,
        "revoked_at_ms": key.revoked_at_ms,
    }


def audited(key: Key) -> dict[str, Any]:
    """A key as its audit row tells it: the hint, never the secret."""
    fields = _render(key)
    del fields["id"], fields["revoked_at_ms"], fields["plan"]
    return fields
