"""Keys in the hands of their own user, at a page: as `keys.py` makes and changes them, within what the user was given.

    given     what the plan says, and on a key whatever somebody else than its user said of it last (a cap, more than the plan)
    a page    may ask for as much or for less, never for more; what it leaves as it is stays

So a user sets limits of their own and takes them back, and lifts none that the operator set. Who said what is read off the audit
log: each row is written with its act and stays for ever. The factor on prices and the life of a key that is made are the
operator's. Whoever asks for another's key is told that there is none.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from ipaddress import ip_network
from typing import Any

from gateway.access import DEFAULT_PLAN, Key, Network, Own, Plan, complete
from gateway.desk.checks import parse_duration_ms, refused
from gateway.desk.desk import Desk
from gateway.desk.keys import MONEY_LIMITS, audited, create_key, revoke_key, rotate_key, update_key
from gateway.desk.users import Member
from gateway.errors import ClientError
from gateway.limits import DAY_MS, Terms
from gateway.money import format_usd, parse_usd
from gateway.storage import audit_log, keys, reports
from gateway.storage.readonly import snapshot
from gateway.storage.reports import Range
from gateway.storage.rollups import HOUR_MS

# Rotations count: each leaves a dead key behind.
KEYS_PER_DAY_MAX = 200
# Of those that are dead, the latest.
DEAD_KEYS_SHOWN = 50
REQUESTS_DAYS = 30

LIMITS = tuple(name.removesuffix("_nanos") for name in Terms.__slots__)


@dataclass(frozen=True, slots=True)
class Wish:
    """What a form asks for. A limit (by the names of the acts; counts are numbers, money is a text), the models or the addresses
    that it leaves out are as they were given."""

    name: str
    limits: Mapping[str, int | str]
    models: list[str] | None = None
    addresses: list[str] | None = None


@dataclass(frozen=True, slots=True)
class OwnKey:
    """`key` is as the plan completes it. `month_…` is the calendar month so far, UTC."""

    key: Key
    created_at_ms: int
    last_used_at_ms: int | None
    replaced_by: Key | None
    month_nanos: int
    month_requests: int

    def is_dead(self, at_ms: int) -> bool:
        return self.key.dead_at_ms is not None and self.key.dead_at_ms <= at_ms


async def create_own_key(desk: Desk, actor: str, member: Member, wish: Wish, expires: str | None) -> dict[str, Any]:
    """As `create_key`. Raises ClientError that names the field."""
    at_ms = desk.clock.at_ms()

    def check(conn: sqlite3.Connection, _: Key | None, new: Key) -> None:
        plan = plan_of(desk, new.plan)
        live, made = keys.count_keys(conn, new.user_id, at_ms, at_ms - DAY_MS)
        if not plan.max_keys:
            raise ClientError("forbidden", "Keys are made by the operator here; ask them for one.")
        if live > plan.max_keys:
            most = f"the {plan.max_keys} live keys" if plan.max_keys > 1 else "the one live key"
            raise refused(f"You have {most} that your plan allows; revoke one that you no longer need.")
        _check_made(made)
        _check_life(expires, plan)
        _check_within(complete(replace(new, own=Own()), plan), Own(), complete(new, plan))

    asked: dict[str, Any] = {**wish.limits, "models": wish.models, "addresses": wish.addresses, "expires": expires}
    asked = {option: value for option, value in asked.items() if value is not None}
    return await create_key(desk, actor, check, user=member.name, name=wish.name, **asked)


async def update_own_key(desk: Desk, actor: str, key: Key, given: Own, wish: Wish) -> dict[str, Any]:
    """As `update_key`. `given` is what `given_to` found; a limit that the wish leaves out is that again, or the plan's.

    Raises ClientError `rate_limited` for more changes than anybody makes by hand: each stays in the audit log, where the next one
    reads them."""

    def check(conn: sqlite3.Connection, old: Key | None, new: Key) -> None:
        assert old is not None
        plan = plan_of(desk, new.plan)
        _check_within(complete(replace(new, own=given_to(conn, old)), plan), old.own, complete(new, plan))

    party, now_ms = str(key.user_id), desk.clock.now_ms()
    desk.gate.changes.check(party, now_ms)
    desk.gate.changes.count(party, now_ms)
    asked: dict[str, Any] = {**_options(given), **wish.limits}
    if wish.models is not None:
        asked["models"] = wish.models
    if wish.addresses is not None:
        asked["addresses"] = wish.addresses
    now = _options(key.own)
    # What stays is not asked for: it may be a model that is not offered any more.
    asked = {option: value for option, value in asked.items() if value != now[option]}
    return await update_key(desk, actor, check, key_id=key.id, name=wish.name, **asked)


async def rotate_own_key(desk: Desk, actor: str, key: Key, grace: str) -> dict[str, Any]:
    at_ms = desk.clock.at_ms()

    def check(conn: sqlite3.Connection, _: Key | None, new: Key) -> None:
        _check_made(keys.count_keys(conn, new.user_id, at_ms, at_ms - DAY_MS)[1])

    return await rotate_key(desk, actor, check, key_id=key.id, grace=grace)


async def revoke_own_key(desk: Desk, actor: str, key: Key) -> dict[str, Any]:
    return await revoke_key(desk, actor, key_id=key.id)


# ── reading ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def plan_of(desk: Desk, name: str) -> Plan:
    return desk.plans.get(name) or desk.plans[DEFAULT_PLAN]


def list_own_keys(conn: sqlite3.Connection, member: Member, plan: Plan, at_ms: int, key_id: int | None = None) -> list[OwnKey]:
    """The living ones and the latest of the dead, newest first; or the one that is named, if it is theirs."""
    with snapshot(conn):
        listed = keys.list_keys(conn, member.id)
        dead = [key.id for key, _ in listed if key.dead_at_ms is not None and key.dead_at_ms <= at_ms]
        left_out = set(dead[:-DEAD_KEYS_SHOWN]) if key_id is None else {key.id for key, _ in listed if key.id != key_id}
        shown = [(key, origin) for key, origin in reversed(listed) if key.id not in left_out]
        used = keys.last_used(conn, [key.id for key, _ in shown])
        month = _month(conn, member.wallet_id, at_ms)
    successors = {origin["rotated_from"]: key for key, origin in listed if origin["rotated_from"] is not None}
    return [
        OwnKey(complete(key, plan), origin["created_at_ms"], used.get(key.id), successors.get(key.id), *month.get(key.id, (0, 0)))
        for key, origin in shown
    ]


def newest_key(conn: sqlite3.Connection, user_id: int, at_ms: int) -> tuple[str, str] | None:
    """(name, hint) of the key that the user made last, of those that live and were not replaced."""
    return keys.find_newest_live(conn, user_id, at_ms)


def find_own_key(conn: sqlite3.Connection, member: Member, plan: Plan, key_id: int, at_ms: int) -> OwnKey:
    """Raises ClientError `not_found`, for another's key too."""
    found = list_own_keys(conn, member, plan, at_ms, key_id)
    if not found:
        raise _no_key()
    return found[0]


def get_living_key(conn: sqlite3.Connection, user_id: int, key_id: int, at_ms: int) -> Key:
    """As it is stored. Raises ClientError `not_found`, for another's key too; `invalid_request` for a dead or replaced one."""
    found = keys.find_key(conn, key_id)
    if found is None or found[1].user_id != user_id:
        raise _no_key()
    key = found[1]
    if key.revoked_at_ms is not None or (key.expires_at_ms is not None and key.expires_at_ms <= at_ms):
        raise refused(
            f"The key {key.name} was revoked or replaced, or has expired; nothing of it can be changed. Create another."
        )
    return key


def list_requests_of_key(conn: sqlite3.Connection, key: Key, at_ms: int, limit: int) -> list[dict[str, Any]]:
    """The latest of the last REQUESTS_DAYS days, as `reports.list_usage` has them."""
    asked = Range(max(0, at_ms - REQUESTS_DAYS * DAY_MS), at_ms + 1, key.wallet_id, key.id)
    return reports.list_usage(conn, asked, limit=limit)[0]


def given_to(conn: sqlite3.Connection, key: Key) -> Own:
    """What others than its user said of the key and of those that it replaced; where they said nothing, nothing."""
    said: dict[str, Any] = {}
    for actor, action, before, after in audit_log.list_settings_of_key(conn, key.root_id):
        by_user = f"{actor} ".startswith(f"web:{key.user_name} ")
        if action == "keys.create":
            said = {} if by_user else {**after}
            said = {option: said.get(option) for option in (*LIMITS, "models", "addresses")}
        elif by_user:
            for option, value in before.items():
                said.setdefault(option, value)
        else:
            said |= after
    # What no row tells of is as it was found: an older release may have made the key.
    return _own({**audited(key), **said})


# ── leaves ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def _no_key() -> ClientError:
    return ClientError("not_found", "You have no such key. All that you have are on the page Keys.")


def _own(said: Mapping[str, Any]) -> Own:
    """Of the words of an audit row."""
    limits: dict[str, int] = {}
    for name, option in zip(Terms.__slots__, LIMITS, strict=True):
        if said[option] is not None:
            limits[name] = parse_usd(said[option]) if option in MONEY_LIMITS else said[option]
    models, addresses = said["models"], said["addresses"]
    return Own(
        tuple(sorted(limits.items())),
        None if models is None else frozenset(models),
        None if addresses is None else tuple(ip_network(text) for text in addresses),
    )


def _options(own: Own) -> dict[str, Any]:
    """As an act takes them; what it does not say is the plan's."""
    limits = dict(own.limits)
    options: dict[str, Any] = {}
    for name, option in zip(Terms.__slots__, LIMITS, strict=True):
        value = limits.get(name)
        options[option] = "plan" if value is None else format_usd(value) if option in MONEY_LIMITS else value
    options["models"] = "plan" if own.models is None else sorted(own.models)
    options["addresses"] = "plan" if own.addresses is None else [str(network) for network in own.addresses]
    return options


def _check_made(made: int) -> None:
    if made > KEYS_PER_DAY_MAX:
        raise refused(f"You have made {KEYS_PER_DAY_MAX} keys within a day, which is the most; go on tomorrow.")


def _check_life(expires: str | None, plan: Plan) -> None:
    if expires is None or not plan.keys_expire:
        return
    if expires == "never" or parse_duration_ms(expires, "expires") > parse_duration_ms(plan.keys_expire, "expires"):
        raise refused(f"expires: your plan lets a key live for {plan.keys_expire} at most", "expires")


def _check_within(given: Key, before: Own, asked: Key) -> None:
    """All three for one key: `given` and `asked` completed by the plan, `before` as it said for itself."""
    was, now = dict(before.limits), dict(asked.own.limits)
    for name, option in zip(Terms.__slots__, LIMITS, strict=True):
        limit, most = getattr(asked.terms, name), getattr(given.terms, name)
        if now.get(name) != was.get(name) and most and not 0 < limit <= most:
            shown = f"${format_usd(most)}" if option in MONEY_LIMITS else f"{most:,}"
            raise refused(f"{option}: you were given {shown}; write that or less, or leave it empty", option)
    if asked.own.models != before.models and given.models is not None:
        more = (asked.models or frozenset({"all"})) - given.models
        if more:
            raise refused(f"models: this key may not have {', '.join(sorted(more))}", "models")
    inside = bool(asked.addresses) and all(_is_inside(network, given.addresses) for network in asked.addresses)
    if asked.own.addresses != before.addresses and given.addresses and not inside:
        allowed = ", ".join(map(str, given.addresses))
        raise refused(f"addresses: write addresses within {allowed}, or leave it empty", "addresses")


def _is_inside(network: Network, allowed: tuple[Network, ...]) -> bool:
    return any(network.version == each.version and network.subnet_of(each) for each in allowed)  # type: ignore[arg-type]


def _month_start_ms(at_ms: int) -> int:
    moment = datetime.fromtimestamp(at_ms // 1000, UTC)
    return int(datetime(moment.year, moment.month, 1, tzinfo=UTC).timestamp()) * 1000


def _month(conn: sqlite3.Connection, wallet_id: int, at_ms: int) -> dict[int, tuple[int, int]]:
    """(nanos, requests) of each key in this calendar month."""
    asked = Range(_month_start_ms(at_ms), at_ms - at_ms % HOUR_MS + HOUR_MS, wallet_id)
    groups, _ = reports.sum_usage(conn, asked, ("key",), limit=2**31)
    return {row["key_id"]: (row["cost_nanos"], row["requests"]) for row, _ in groups}
