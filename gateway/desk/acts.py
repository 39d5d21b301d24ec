"""All acts by name, and the one way to perform one, whether it is asked for at the door, by a command or by the web.

    WRITES      (desk, actor, …)    in a running house
    READS       (conn, …)           on any reader's connection, with or without a house
    DECLARED    (declared, …)       from the configuration alone

What people do at a page about their own sign-in is no act by name: `signin.py`, `credentials.py`, `invites.py` have it.

Arguments are keywords, checked strictly against the function's own signature: what it does not name is refused. The log has one
line for each act that a running house performed: who, what, about whom, and what became of it.
"""

from __future__ import annotations

import asyncio
import difflib
import inspect
import logging
import pwd
import re
import sqlite3
from collections.abc import Callable, Coroutine, Mapping
from contextlib import closing
from functools import cache
from typing import Any, get_type_hints

from pydantic import BaseModel, ConfigDict, ValidationError, create_model
from pydantic_core import PydanticSerializationError

from gateway.desk import (
    admin_keys,
    audit,
    backup,
    configuration,
    credentials,
    invites,
    keys,
    models,
    notices,
    plans,
    refunds,
    statements,
    upstreams,
    usage,
    usage_reports,
    users,
    users_import,
    vouchers,
    wallets,
)
from gateway.desk.desk import Declared, Desk
from gateway.errors import ClientError, GatewayError
from gateway.storage import database

logger = logging.getLogger(__name__)

# Arguments that say what an act is about; the log has them.
SUBJECTS = ("user", "file", "name", "key_id", "amount", "reference", "request_id", "batch", "voucher_id", "invite_id")
# A short plain text: providers' secrets and our own are longer than this.
_LOGGABLE = re.compile(r"[\w.@: -]{1,64}", re.ASCII)

# Of the lines that door and command exchange. Raised when an old command could misread a new server.
PROTOCOL = 1

WRITES: Mapping[str, Callable[..., Coroutine[Any, Any, Any]]] = {
    "users.create": users.create_user,
    "users.disable": users.disable_user,
    "users.enable": users.enable_user,
    "users.set_plan": users.set_plan,
    "users.import": users_import.import_users,
    "users.set_low_balance": notices.set_low_balance,
    "users.set_password": credentials.set_password,
    "users.disable_totp": credentials.disable_totp_of,
    "users.end_sessions": credentials.end_sessions_of,
    "users.create_link": credentials.create_link,
    "invites.create": invites.create_invite,
    "invites.revoke": invites.revoke_invite,
    "vouchers.create": vouchers.create_vouchers,
    "vouchers.void": vouchers.void_vouchers,
    "vouchers.redeem": vouchers.redeem_voucher,
    "wallets.topup": wallets.topup,
    "wallets.withdraw": wallets.withdraw,
    # Asks the book, and changes nothing.
    "wallets.plan_withdrawal": wallets.plan_withdrawal,
    "wallets.refund": refunds.refund,
    "wallets.freeze": wallets.freeze,
    "wallets.unfreeze": wallets.unfreeze,
    "keys.create": keys.create_key,
    "keys.update": keys.update_key,
    "keys.revoke": keys.revoke_key,
    "keys.rotate": keys.rotate_key,
    "admin_keys.create": admin_keys.create_admin_key,
    "admin_keys.revoke": admin_keys.revoke_admin_key,
    # A house audits in its own way: paced, and a clean result is remembered.
    "ledger.audit": statements.audit_house,
    # Changes nothing but the audit log.
    "backup.create": backup.back_up_house,
}

# What only a running server knows.
LIVE: Mapping[str, Callable[..., Coroutine[Any, Any, Any]]] = {
    "configuration.reload": configuration.reload_configuration,
    "upstreams.list": upstreams.list_upstreams,
    "upstreams.test": upstreams.test_upstreams,
}

READS: Mapping[str, Callable[..., Any]] = {
    "users.list": users.list_users,
    "users.show": users.show_user,
    "wallets.show": wallets.show_wallet,
    "keys.list": keys.list_keys,
    "keys.show": keys.show_key,
    "admin_keys.list": admin_keys.list_admin_keys,
    "admin_keys.show": admin_keys.show_admin_key,
    "invites.list": invites.list_invites,
    "vouchers.list": vouchers.list_vouchers,
    "vouchers.batches": vouchers.list_batches,
    "audit.list": audit.list_audit,
    "usage.get": usage.get_usage,
    "usage.report": usage_reports.report_usage,
    "ledger.show": statements.show_ledger,
    "ledger.audit": statements.audit_file,
    "backup.create": backup.create_backup,
}

DECLARED: Mapping[str, Callable[..., Any]] = {
    "models.list": models.list_models,
    "plans.list": plans.list_plans,
}

_ACTS = {*WRITES, *LIVE, *READS, *DECLARED}


async def perform(desk: Desk, actor: str, act: str, arguments: Mapping[str, Any]) -> Any:
    """Perform an act in the running house. Raises GatewayError; `invalid_request` for an unknown act or argument."""
    # An act whose caller leaves still goes to its end (`desk.jobs`).
    outcome = "nobody waited for the end"
    try:
        result = await _perform(desk, actor, act, arguments)
        outcome = "ok"
    except Exception as error:
        outcome = error.code if isinstance(error, GatewayError) else "failed"
        raise
    finally:
        logger.info("%s: %s%s: %s", actor, act if act in _ACTS else "unknown act", _subject(arguments), outcome)
    return result


async def _perform(desk: Desk, actor: str, act: str, arguments: Mapping[str, Any]) -> Any:
    act_of_house = WRITES.get(act) or LIVE.get(act)
    if act_of_house is not None:
        return await act_of_house(desk, actor, **check_arguments(act, act_of_house, arguments))
    if act in READS:
        return await asyncio.to_thread(_read_file, desk, act, arguments)
    return declare(desk, act, arguments)


def read(conn: sqlite3.Connection, act: str, arguments: Mapping[str, Any]) -> Any:
    """Perform one of READS on a connection that the caller closes."""
    function = READS[act]
    return function(conn, **check_arguments(act, function, arguments))


def declare(declared: Declared, act: str, arguments: Mapping[str, Any]) -> Any:
    """Perform one of DECLARED; any other name is no act at all."""
    if act not in DECLARED:
        raise _unknown(act)
    function = DECLARED[act]
    return function(declared, **check_arguments(act, function, arguments))


def actor_of(uid: int) -> str:
    """Who a command's audit rows name: the user of this machine, seen by the system and not claimed by anyone."""
    try:
        return f"cli:{pwd.getpwuid(uid).pw_name}"
    except KeyError:
        return f"cli:{uid}"


def check(act: str, arguments: Mapping[str, Any]) -> None:
    """Raises ClientError for an unknown act or a wrong argument, before anything is opened."""
    check_arguments(act, _find(act), arguments)


def parse_texts(act: str, texts: Mapping[str, str]) -> dict[str, Any]:
    """The arguments of an act that were given as texts, as in a query, with the types that it wants: a list has commas between.

    Raises ClientError.
    """
    shape = _shape(_find(act))
    lists = {name: text.split(",") for name, text in texts.items() if _takes_list(act, name)}
    plain = {name: text for name, text in texts.items() if name not in lists}
    return {**_checked(act, shape, lambda: shape.model_validate_strings(plain)), **lists}


def _takes_list(act: str, name: str) -> bool:
    told = describe_arguments(act)["properties"].get(name, {})
    return any(kind.get("type") == "array" for kind in (told, *told.get("anyOf", ())))


@cache
def describe_arguments(act: str) -> dict[str, Any]:
    """The JSON schema of what the act takes."""
    schema = _shape(_find(act)).model_json_schema()
    properties = {
        name: {key: told for key, told in field.items() if key != "title"} for name, field in schema["properties"].items()
    }
    return {"type": "object", "properties": properties, "required": schema.get("required", []), "additionalProperties": False}


def check_arguments(act: str, function: Callable[..., Any], arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments as the function's signature wants them. Raises ClientError that names the first that is wrong."""
    shape = _shape(function)
    return _checked(act, shape, lambda: shape.model_validate(dict(arguments)))


def _checked(act: str, shape: type[BaseModel], validate: Callable[[], BaseModel]) -> dict[str, Any]:
    try:
        checked = validate()
    except ValidationError as error:
        errors = error.errors(include_input=False, include_url=False)
        # What is misspelt is also missing: the name that was written leads to it.
        first = next((each for each in errors if each["type"] == "extra_forbidden"), errors[0])
        where = str(first["loc"][0])
        where = where if _LOGGABLE.fullmatch(where) else "…"
        # Of an argument that may be of several kinds pydantic tells what each of them misses.
        wrong = " or: ".join(dict.fromkeys(each["msg"] for each in errors if each["loc"][0] == first["loc"][0]))
        nearest = difflib.get_close_matches(where, shape.model_fields, n=1) if first["type"] == "extra_forbidden" else []
        hint = f"did you mean {nearest[0]}? it takes" if nearest else "it takes"
        known = ", ".join(shape.model_fields) or "no arguments"
        raise ClientError("invalid_request", f"{act}: {where}: {wrong}; {hint} {known}", param=where) from None
    for name in checked.model_fields_set:
        try:
            checked.model_dump_json(include={name})
        except PydanticSerializationError:
            # Half a surrogate pair (\ud800 in JSON, a stray byte on a command line): no database takes it.
            raise ClientError("invalid_request", f"{act}: {name}: this is not text in UTF-8", param=name) from None
    return {name: getattr(checked, name) for name in checked.model_fields_set}


def _subject(arguments: Mapping[str, Any]) -> str:
    """Such as ` user=ada amount=5`; what is not short and plain could be a secret in the wrong place, and is not shown."""
    told = {name: str(arguments[name]) for name in SUBJECTS if arguments.get(name) is not None}
    return "".join(f" {name}={text if _LOGGABLE.fullmatch(text) else '…'}" for name, text in told.items())


def _read_file(desk: Desk, act: str, arguments: Mapping[str, Any]) -> Any:
    with closing(database.open_reader(desk.database)) as conn:
        return read(conn, act, arguments)


def _find(act: str) -> Callable[..., Any]:
    function = WRITES.get(act) or LIVE.get(act) or READS.get(act) or DECLARED.get(act)
    if function is None:
        raise _unknown(act)
    return function


def _unknown(act: str) -> ClientError:
    return ClientError("invalid_request", f"there is no act {act[:64]!r}; command and server may be of different releases")


@cache
def _shape(function: Callable[..., Any]) -> type[BaseModel]:
    """A strict model of the function's keyword-only parameters."""
    hints = get_type_hints(inspect.unwrap(function))
    fields: dict[str, Any] = {
        name: (hints[name], ... if parameter.default is parameter.empty else parameter.default)
        for name, parameter in inspect.signature(function).parameters.items()
        if parameter.kind is parameter.KEYWORD_ONLY
    }
    return create_model("Arguments", __config__=ConfigDict(strict=True, extra="forbid"), **fields)
