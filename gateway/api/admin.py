"""Administration over HTTP: the acts of the desk as JSON, for scripts and panels that run elsewhere.

    GET  /admin/api                        what there is, each with the JSON schema of its arguments
    GET  /admin/api/users.show?user=ada    an act that changes nothing; its arguments stand in the query
    POST /admin/api/wallets.topup          any act; its arguments are a JSON object
    200  what the command prints with --json
    else {"error": {"code", "message", "param"}, "request_id"}

Off unless `server.admin_api` is true: then nothing tells this path from any other that is not there. Whoever asks must come from
`server.admin_allow` and carry an admin key. No cookie opens it, and a body must say that it is JSON, so that no page of another
site can make a browser ask. Knows acts by name, and which of them are offered.
"""

from __future__ import annotations

import asyncio
import difflib
import functools
import json
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import orjson
from aiohttp import web

from gateway.admins import AdminKey, FailedAttempts
from gateway.api.frame import HOUSE, answer_json, came_by_a_stranger, check_method, framed, in_json, is_within
from gateway.api.guard import read_body
from gateway.api.sink import HttpSink
from gateway.desk import acts
from gateway.errors import ClientError, GatewayError, HouseError
from gateway.house import House
from gateway.proxy.walk import Inbound

logger = logging.getLogger(__name__)

BODY_BYTES_MAX = 1024 * 1024
# Each may wait for an audit, or carry a whole body.
AT_WORK_MAX = 16
# As the door for commands: an audit of a large ledger takes some minutes.
ACT_S = 900
# Answers hold balances, and once the secret of a new key.
_PRIVATE = (("cache-control", "no-store"),)

# Every act that is offered: how to ask for it, and what it does. An act that stands neither here nor below is not offered; a test
# sees to it that each stands in one of the two.
OFFERED: Mapping[str, tuple[str, str]] = {
    "users.list": ("GET", "Everybody, with the state of their wallets."),
    "users.show": ("GET", "One user; `user` is a name or an e-mail address, here as everywhere."),
    "users.create": ("POST", "Make a user with an empty wallet."),
    "users.disable": ("POST", "Shut a user out: no key of theirs lets a new request in."),
    "users.enable": ("POST", "Let a user in again: keys that were not revoked work again."),
    "users.set_plan": ("POST", "Put a user on a plan: it says what their keys do not say themselves."),
    "users.set_low_balance": ("POST", 'From which balance on a user is told of: US dollars, "default" or "off".'),
    "users.end_sessions": ("POST", "Sign a user out of the pages everywhere."),
    "users.import": ("POST", "Make many users, with top-ups and keys, from the text of a CSV file; all of it or nothing."),
    "wallets.show": ("GET", "What is in a wallet, and its latest transfers, newest first."),
    "wallets.topup": ("POST", "Put US dollars in (`amount` is a text). A `reference` repeated moves nothing again."),
    "wallets.plan_withdrawal": ("GET", "What a withdrawal would do now."),
    "wallets.withdraw": ("POST", "Take US dollars out of what no running request holds."),
    "wallets.refund": ("POST", "Give back what a request cost, never more than was paid: `amount`, or the whole rest."),
    "wallets.freeze": ("POST", "Let no new request be paid from a wallet."),
    "wallets.unfreeze": ("POST", "Let a wallet pay again."),
    "keys.list": ("GET", "All keys that a user ever had."),
    "keys.show": ("GET", "One key, by its number."),
    "keys.create": (
        "POST",
        'Make a key. The answer has its secret, this once. Limits are numbers (0: unlimited) or "plan", money is a text.',
    ),
    "keys.update": ("POST", "Change what a key may do, at once; what is left out stays."),
    "keys.revoke": ("POST", "End a key: it is dead when this is answered."),
    "keys.rotate": ("POST", "Replace a key by one with the same settings; the old one lives on for `grace`, such as 1h."),
    "admin_keys.list": ("GET", "All admin keys that there ever were."),
    "admin_keys.show": ("GET", "One admin key, by its number."),
    "admin_keys.revoke": ("POST", "End an admin key, be it the one that asks: it is dead when this is answered."),
    "invites.list": ("GET", "All invites that there ever were."),
    "invites.create": ("POST", "Invite somebody to make an account. The answer has the token of the link, this once."),
    "invites.revoke": ("POST", "End an invite that was not used."),
    "vouchers.batches": ("GET", "Batches of vouchers, with how many were redeemed."),
    "vouchers.list": ("GET", "Vouchers, newest first; `next_before` of an answer, as `before`, leads to older ones."),
    "vouchers.create": ("POST", "Make `count` vouchers of US dollars each. The answer has their codes, this once."),
    "vouchers.void": ("POST", "End one voucher, or all of a batch that are open."),
    "vouchers.redeem": ("POST", "Redeem a voucher into a user's wallet, once."),
    "audit.list": (
        "GET",
        "What was administered, newest first; `next_before` of an answer, as `before`, leads to older entries.",
    ),
    "usage.get": ("GET", "One request, by our id or the provider's: what it used, what it cost, and how that came about."),
    "usage.report": ("GET", "What was used by day, model, key, user, session or agent, with revenue, upstream cost and margin."),
    "ledger.show": ("GET", "A user's statement of account, oldest line first."),
    "ledger.audit": ("POST", "Check every invariant of the ledger from the first transfer on; a wallet found broken is frozen."),
    "configuration.reload": ("POST", "Read the configuration again; a mistake in it changes nothing and is told."),
    "upstreams.list": ("GET", "How each upstream stands: serving, or cooling, until when and why."),
    "upstreams.test": ("POST", "Whether an upstream, or each, can be reached with its secret."),
    "models.list": ("GET", "All models with their list prices in US dollars per million tokens."),
    "plans.list": ("GET", "What the keys of each plan's users may do where a key says nothing itself; 0 is unlimited."),
}

# What is done on the server itself, and why.
NOT_OFFERED: Mapping[str, str] = {
    "backup.create": "it writes a file of the caller's choice on the server's disk; run `pagegrid backup` there",
    # A key that got into wrong hands must not become somebody's session, least of all an admin's.
    "users.set_password": "a password is set on the server alone, with `pagegrid users set-password`",
    "users.create_link": "a sign-in link is made on the server or at the pages, with `pagegrid users create-link`",
    "users.disable_totp": "a second factor is taken off on the server alone, with `pagegrid users disable-totp`",
    # Whoever got hold of one key could make another, and revoking the first would not shut them out.
    "admin_keys.create": "admin keys are made on the server alone, with `pagegrid admin-keys create`",
}


def admin_api(
    elsewhere: Callable[[web.Request], Awaitable[web.StreamResponse]],
) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    """The aiohttp handler of all paths under /admin/api; `elsewhere` answers while it is off."""
    counter = _Counter()
    listing = framed(None, "admin", counter.list_acts, _REFUSAL)
    unknown = framed(None, "admin/unknown", counter.refuse_unknown, _REFUSAL)
    known = {
        act: framed(None, f"admin/{act}", functools.partial(counter.perform, act), _REFUSAL) for act in (*OFFERED, *NOT_OFFERED)
    }

    async def handle(request: web.Request) -> web.StreamResponse:
        if not request.app[HOUSE].settings.server.admin_api:
            return await elsewhere(request)
        act = request.match_info.get("act", "")
        return await (known.get(act, unknown) if act else listing)(request)

    return handle


class _Counter:
    """Where callers show who they are, and are served: who failed lately, how many acts are under way."""

    def __init__(self) -> None:
        self._failed = FailedAttempts()
        self._at_work = 0

    async def list_acts(self, house: House, request: web.Request, inbound: Inbound, sink: HttpSink) -> None:
        self._let_in(house, request, inbound)
        check_method(request, "GET")
        listed = [
            {
                "act": act,
                "method": method,
                "path": f"/admin/api/{act}",
                "description": does,
                "arguments": acts.describe_arguments(act),
            }
            for act, (method, does) in OFFERED.items()
        ]
        await answer_json(sink, {"acts": listed}, _PRIVATE)

    async def refuse_unknown(self, house: House, request: web.Request, inbound: Inbound, sink: HttpSink) -> None:
        self._let_in(house, request, inbound)
        nearest = difflib.get_close_matches(request.match_info["act"][:64], OFFERED, n=1)
        hint = f"Did you mean {nearest[0]}?" if nearest else "GET /admin/api lists them."
        raise ClientError("not_found", f"There is no such act. {hint}")

    async def perform(self, act: str, house: House, request: web.Request, inbound: Inbound, sink: HttpSink) -> None:
        self._let_in(house, request, inbound)
        if act in NOT_OFFERED:
            raise ClientError("forbidden", f"{act} is not offered over HTTP: {NOT_OFFERED[act]}.")
        method, _ = OFFERED[act]
        check_method(request, *dict.fromkeys((method, "POST")))
        if self._at_work >= AT_WORK_MAX:
            raise HouseError("unavailable", f"{AT_WORK_MAX} acts are under way; try again in a moment.", retry_after_s=1)
        self._at_work += 1
        try:
            arguments = await _parse_body(request) if request.method == "POST" else _parse_query(act, request)
            # The body took its time, in which the key may have been revoked.
            key = self._let_in(house, request, inbound)
            async with asyncio.timeout(ACT_S):
                result = await acts.perform(house.desk, key.actor, act, arguments)
        except TimeoutError:
            raise HouseError(
                "unavailable", f"This took longer than {ACT_S} s; it may still be done: look before you repeat it."
            ) from None
        finally:
            self._at_work -= 1
        await answer_json(sink, result, _PRIVATE)

    def _let_in(self, house: House, request: web.Request, inbound: Inbound) -> AdminKey:
        """Raises ClientError: `forbidden` for an address, `rate_limited` after too many wrong keys, `unauthenticated`."""
        if came_by_a_stranger(house, request):
            raise ClientError(
                "forbidden",
                "This request came through a proxy that server.trusted_proxies does not name, so nobody knows whose it is; name "
                "the proxy there.",
            )
        if not is_within(inbound.address, house.settings.server.admin_allow):
            raise ClientError("forbidden", "The admin API is closed to this address; server.admin_allow says to whom it is open.")
        now_ms = house.desk.clock.now_ms()
        self._failed.check(inbound.address, now_ms)
        try:
            return house.desk.admins.authenticate(inbound.headers, house.desk.key_prefix)
        except ClientError:
            self._failed.note(inbound.address, now_ms)
            logger.warning("a wrong admin key, or none, from %s", inbound.address)
            raise


# ── leaves ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def _parse_query(act: str, request: web.Request) -> dict[str, Any]:
    texts: dict[str, str] = {}
    for name, text in request.rel_url.query.items():
        if name in texts:
            raise ClientError("invalid_request", "An argument stands in the query twice.", param=_shown(name))
        texts[name] = text
    return acts.parse_texts(act, texts)


async def _parse_body(request: web.Request) -> dict[str, Any]:
    """A JSON object, each name once; nothing at all is an act without arguments."""
    if request.content_type != "application/json":
        raise ClientError(
            "invalid_request", "Send the arguments as JSON, with content-type: application/json.", param="content-type"
        )
    if request.query_string:
        raise ClientError("invalid_request", "Arguments of a POST stand in its body, as a JSON object; the query must be empty.")
    body = await read_body(request, BODY_BYTES_MAX)
    try:
        # Not orjson: it takes the last of two `amount`s in silence.
        parsed = json.loads(body or b"{}", object_pairs_hook=_once_each, parse_constant=_refuse_constant)
    except (ValueError, RecursionError):
        raise ClientError("invalid_request", "The body is not valid JSON.") from None
    if not isinstance(parsed, dict):
        raise ClientError("invalid_request", 'The body must be a JSON object of arguments, such as {"user": "ada"}.')
    return parsed


def _once_each(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise ClientError("invalid_request", "A name stands twice in one object of the body.", param=_shown(name))
        found[name] = value
    return found


def _refuse_constant(text: str) -> Any:
    """NaN and infinities are no JSON (RFC 8259 §6)."""
    raise ValueError(text)


def _shown(name: str) -> str:
    return name if name.isidentifier() and len(name) <= 64 else "…"


def _render_error(error: GatewayError, request_id: str) -> bytes:
    return orjson.dumps({"error": {"code": error.code, "message": error.message, "param": error.param}, "request_id": request_id})


_REFUSAL = in_json(_render_error)
